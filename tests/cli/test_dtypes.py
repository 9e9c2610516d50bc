"""Models in another dtype, before they are served."""

from pathlib import Path

import pytest

from lite_llm.checkpoint import open_checkpoint
from lite_llm.cli.declarations import Declaration
from lite_llm.cli.dtypes import converted
from lite_llm.contracts.errors import InvalidRequest, Unsupported
from lite_llm.testing.checkpoints import tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Declaration:
    return Declaration.parse(str(tiny_llama(tmp_path / "tiny", seed=1)))


def test_without_a_dtype_nothing_happens(model: Declaration, tmp_path: Path) -> None:
    assert converted([model], "", tmp_path / "out") == (model,)
    assert not (tmp_path / "out").exists()


def test_it_is_served_from_where_it_was_converted_to(model: Declaration, tmp_path: Path) -> None:
    (made,) = converted([model], "bfloat16", tmp_path / "out")
    assert made.model == model.model
    assert made.directory == tmp_path / "out" / "tiny"
    with open_checkpoint(made.directory) as reader:
        assert {tensor.dtype for tensor in reader.manifest.tensors} == {"BF16"}
        assert reader.manifest.architecture["dtype"] == "bfloat16"


def test_what_can_t_be_is_refused(model: Declaration, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no dtype"):
        converted([model], "float7", tmp_path)
    with pytest.raises(Unsupported, match="lite-llm convert"):
        converted([Declaration.parse("hf://acme/small")], "float16", tmp_path)
