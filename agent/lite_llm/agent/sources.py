"""Which part of a model's declaration this agent can act on, and where its weights are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lite_llm.backends import NATIVE, worker_module
from lite_llm.contracts.errors import InvalidRequest, ModelNotFound, Unsupported
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec

DISTANT = frozenset({"s3", "az", "gs", "http", "https", "hf"})
_REMEDY = "use file:// and an absolute path, or s3://, az://, gs://, http(s):// or hf://"


def check_spec(spec: ModelSpec) -> None:
    """Raise ``Unsupported`` for what would otherwise be ignored silently."""
    worker_module(spec.backend)
    asked = {
        "profile": spec.profile if spec.backend in ("", NATIVE) else "",
        "source.revision": "" if is_distant(spec.source) else spec.source.revision,
    }
    for field, value in asked.items():
        if value:
            raise Unsupported(
                f"{field} = {value!r} is not supported", where=field, remedy="leave it out"
            )


def is_distant(source: ModelSource) -> bool:
    """Whether it lies in a store; checked as far as that goes without asking the store."""
    scheme = scheme_of(source)
    if scheme not in DISTANT:
        return False
    if not urlsplit(source.uri).netloc:
        raise InvalidRequest(
            f"{source.uri!r:.200} names no place", where="source.uri", remedy=_REMEDY
        )
    if source.revision and scheme != "hf":
        raise Unsupported(
            f"sources of scheme {scheme!r} have no revisions",
            where="source.revision",
            remedy="leave it out, and name the right directory",
        )
    return True


def scheme_of(source: ModelSource) -> str:
    """ "s3", "file", …; empty for a path. Raises ``InvalidRequest`` for what is no address."""
    try:
        return urlsplit(source.uri).scheme
    except ValueError as error:
        raise InvalidRequest(
            f"{source.uri!r:.200} is no address: {error}", where="source.uri", remedy=_REMEDY
        ) from error


def pinned_uri(source: ModelSource) -> str:
    """The address with the revision in it, as :func:`lite_llm.tiers.open_source` takes it."""
    return f"{source.uri}@{source.revision}" if source.revision else source.uri


def path_of(source: ModelSource) -> Path:
    """The directory behind a ``file://`` address or an absolute path, or its GGUF; it exists."""
    uri = source.uri
    parts = urlsplit(uri)
    if uri.startswith("/"):
        directory = Path(uri)
    elif parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        directory = Path(unquote(parts.path))
    elif parts.scheme and parts.scheme != "file":
        raise Unsupported(
            f"sources of scheme {parts.scheme!r} are not supported",
            where="source.uri",
            remedy=_REMEDY,
        )
    else:
        raise InvalidRequest(
            f"the source {uri!r:.200} names no directory of this machine",
            where="source.uri",
            remedy=_REMEDY,
        )
    if not directory.is_dir() and not (directory.is_file() and directory.suffix == ".gguf"):
        raise ModelNotFound(
            f"there is no directory {directory}",
            where="source.uri",
            remedy="mount it on this node, or correct the model's source",
        )
    return directory
