"""A flipped bit is found, wherever it is, and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.checkpoint import (
    INDEX_NAME,
    ConvertOptions,
    Finding,
    VerifyProgress,
    convert,
    open_checkpoint,
    verify,
)
from lite_llm.contracts.errors import LiteLLMError
from lite_llm.trust import ACCEPT_UNSIGNED, SignaturePolicy, generate_key

KEY = generate_key()
POLICY = SignaturePolicy(trusted=(KEY.public,), required=True)


@pytest.fixture
def signed(source: Path, tmp_path: Path) -> Path:
    for _ in convert(source, tmp_path / "signed", ConvertOptions(key=KEY)):
        pass
    return tmp_path / "signed"


def findings(directory: Path, policy: SignaturePolicy = ACCEPT_UNSIGNED) -> list[Finding]:
    return [seen for seen in verify(directory, policy=policy) if isinstance(seen, Finding)]


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_good_checkpoint_has_no_findings_and_full_progress(signed: Path, source: Path) -> None:
    for directory in (signed, source):
        policy = POLICY if directory is signed else ACCEPT_UNSIGNED
        seen = list(verify(directory, policy=policy))
        progress = [step for step in seen if isinstance(step, VerifyProgress)]
        assert progress == seen
        done = [step.done_bytes for step in progress]
        assert done == sorted(done)
        assert done[-1] == progress[-1].total_bytes > 0


def test_any_flipped_bit_is_found(signed: Path) -> None:
    """By verify always; by a reader before it hands out a number that was not saved."""
    copy = signed.with_name("copy")
    shutil.copytree(signed, copy)
    names = sorted(path.name for path in signed.iterdir() if not path.name.startswith("."))
    expected = everything(signed)

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def flipped(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(names))
        bit = data.draw(st.integers(0, (signed / name).stat().st_size * 8 - 1))
        flip(copy / name, bit)
        try:
            found = findings(copy, POLICY)
            assert found
            assert found[0].file in (name, INDEX_NAME)
            if name.endswith(".bin"):
                chunk = found[0]
                assert chunk.offset <= bit // 8 < chunk.offset + chunk.length
                assert f"chunk {chunk.chunk} at offset {chunk.offset}" in chunk.message
            try:
                assert everything(copy) == expected  # the bit was in no tensor's chunk
            except LiteLLMError:
                pass
            else:
                assert name.endswith(".bin")
        finally:
            shutil.copy(signed / name, copy / name)

    flipped()


def everything(directory: Path) -> list[bytes]:
    """All that a reader hands out."""
    with open_checkpoint(directory, policy=POLICY) as reader:
        manifest = reader.manifest
        parts = [part for record in manifest.experts for part in reader.expert(record.key).values()]
        tensors = [reader.tensor(record.name) for record in manifest.tensors]
        extras = [reader.extra(name) for name in manifest.extras]
        return [array.tobytes() for array in [*tensors, *parts]] + extras


def test_all_damage_is_named_not_only_the_first(signed: Path) -> None:
    experts = sorted(signed.glob("experts-*.bin"))
    with open_checkpoint(signed) as reader:
        chunk_bytes = reader.manifest.file_by_name[experts[0].name].chunk_bytes
    for number in (0, 3):
        flip(experts[0], 8 * (number * chunk_bytes + 17))
    with experts[1].open("r+b") as file:
        file.truncate(4096)
    (signed / "dense-outer-000.bin").unlink()
    (signed / "tokenizer.json").write_text("{}")
    found = findings(signed, POLICY)
    assert [(f.file, f.chunk) for f in found] == [
        ("dense-outer-000.bin", -1),
        (experts[0].name, 0),
        (experts[0].name, 3),
        (experts[0].name, -1),
        (experts[1].name, -1),
        ("tokenizer.json", -1),
    ]
    assert found[2].offset == 3 * chunk_bytes
    assert "SHA-256" in found[3].message
    assert "4096 bytes, but the index says" in found[4].message


def test_the_policy_counts(signed: Path, converted: Path, source: Path) -> None:
    for directory in (converted, source):
        (finding,) = findings(directory, POLICY)
        assert finding.reason == "Forbidden"
    other = SignaturePolicy(trusted=(generate_key().public,))
    (finding,) = findings(signed, other)
    assert (finding.file, finding.reason) == (INDEX_NAME, "Corrupt")


def test_a_broken_safetensors_file_is_a_finding(source: Path) -> None:
    with (source / "model.safetensors").open("ab") as file:
        file.write(b"x")
    (finding,) = findings(source)
    assert "model.safetensors" in finding.message
