"""Who has to have signed a checkpoint before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_llm.agent.trusting import check_signature, policy_for
from lite_llm.checkpoint import ConvertOptions, convert, sign
from lite_llm.contracts.errors import Corrupt, Forbidden, InvalidSettings
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.trust import ACCEPT_UNSIGNED, SignaturePolicy, generate_key

OURS, THEIRS = generate_key(), generate_key()
TRUSTING = SignaturePolicy(trusted=(OURS.public,))
STRICT = SignaturePolicy(trusted=(OURS.public,), required=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("plain"), seed=1)


@pytest.fixture
def converted(plain: Path, tmp_path: Path) -> Path:
    for _ in convert(plain, tmp_path / "ours", ConvertOptions(model="tiny")):
        pass
    return tmp_path / "ours"


def test_a_model_may_require_what_its_node_does_not() -> None:
    asked = ModelSpec(require_signature=True)
    assert policy_for(ModelSpec(), TRUSTING) == TRUSTING
    assert policy_for(asked, TRUSTING) == policy_for(ModelSpec(), STRICT) == STRICT
    with pytest.raises(InvalidSettings, match="no key is trusted"):
        policy_for(asked, ACCEPT_UNSIGNED)


def test_what_is_not_signed(plain: Path, converted: Path) -> None:
    for directory in (plain, converted):
        check_signature(directory, TRUSTING)
        with pytest.raises(Forbidden, match="requires a signature"):
            check_signature(directory, STRICT)


def test_what_is_signed(converted: Path) -> None:
    sign(converted, OURS)
    check_signature(converted, STRICT)
    sign(converted, THEIRS)
    check_signature(converted, ACCEPT_UNSIGNED)  # which trusts nobody, and judges nobody
    for policy in (TRUSTING, STRICT):
        with pytest.raises(Corrupt, match="no trusted key"):
            check_signature(converted, policy)


def test_an_index_that_was_changed_after_it_was_signed(converted: Path) -> None:
    sign(converted, OURS)
    index = converted / "checkpoint.idx"
    index.write_bytes(index.read_bytes().replace(b"tiny", b"tinx", 1))
    with pytest.raises(Corrupt, match="no trusted key"):
        check_signature(converted, TRUSTING)


def test_a_file_has_no_signature(tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    check_signature(gguf, TRUSTING)
    with pytest.raises(Forbidden):
        check_signature(gguf, STRICT)


def test_a_signed_index_says_nothing_of_what_another_backend_reads(converted: Path) -> None:
    sign(converted, OURS)
    (converted / "model.gguf").write_bytes(b"GGUF")
    check_signature(converted, TRUSTING, backend="llamacpp")
    with pytest.raises(Forbidden, match="llamacpp reads files that no signature covers"):
        check_signature(converted, STRICT, backend="llamacpp")
