"""What a declaration asks for is done, or refused by name."""

from pathlib import Path
from typing import Any

import pytest

from lite_llm.agent.sources import check_spec, is_distant, path_of, pinned_uri
from lite_llm.contracts.errors import InvalidRequest, ModelNotFound, Unsupported
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec


def test_directories(tmp_path: Path) -> None:
    spaced = tmp_path / "a b"
    spaced.mkdir()
    for uri in (str(spaced), spaced.as_uri(), f"file://localhost{spaced}".replace(" ", "%20")):
        assert path_of(ModelSource(uri=uri)) == spaced


@pytest.mark.parametrize("scheme", ["s3", "az", "gs", "hf", "https", "http"])
def test_stores(scheme: str) -> None:
    assert is_distant(ModelSource(uri=f"{scheme}://bucket/model"))
    with pytest.raises(InvalidRequest, match="names no place"):
        is_distant(ModelSource(uri=f"{scheme}:///model"))


def test_revisions_belong_to_the_hub() -> None:
    source = ModelSource(uri="hf://owner/name", revision="v1")
    assert is_distant(source)
    assert pinned_uri(source) == "hf://owner/name@v1"
    with pytest.raises(Unsupported, match="have no revisions"):
        is_distant(ModelSource(uri="s3://bucket/model", revision="v1"))


def test_other_schemes_are_named() -> None:
    assert not is_distant(ModelSource(uri="ftp://host/model"))
    with pytest.raises(Unsupported, match="scheme 'ftp'"):
        path_of(ModelSource(uri="ftp://host/model"))


@pytest.mark.parametrize("uri", ["", "models/tiny", "file:", "file://elsewhere/model", "./x"])
def test_what_is_no_path_of_this_machine(uri: str) -> None:
    with pytest.raises(InvalidRequest, match="names no directory of this machine"):
        path_of(ModelSource(uri=uri))


def test_what_is_no_address() -> None:
    with pytest.raises(InvalidRequest, match="is no address"):
        is_distant(ModelSource(uri="http://["))


def test_an_absent_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no directory"):
        path_of(ModelSource(uri=str(tmp_path / "absent")))


def test_an_unknown_backend() -> None:
    with pytest.raises(Unsupported, match="backend"):
        check_spec(ModelSpec(backend="abacus"))


def test_a_gguf_is_a_file(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    gguf.touch()
    assert path_of(ModelSource(uri=str(gguf))) == gguf


def test_what_can_be_asked_for() -> None:
    check_spec(ModelSpec(backend="llamacpp", profile="small"))
    check_spec(ModelSpec())
    check_spec(ModelSpec(backend="native", version="tiny-v1.0.0", aliases=["t"], generation=3))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"backend": "native", "profile": "small"}, "profile"),
        ({"profile": "large"}, "profile"),
        ({"source": ModelSource(uri="/x", revision="main")}, "source.revision"),
    ],
)
def test_what_would_be_ignored_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=f"{named} = .* is not supported") as refusal:
        check_spec(ModelSpec(**fields))
    assert refusal.value.where == named
