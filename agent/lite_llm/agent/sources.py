"""Which part of a model's declaration this agent can act on, and where its weights are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lite_llm.contracts.errors import InvalidRequest, ModelNotFound, Unsupported
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec


def check_spec(spec: ModelSpec) -> None:
    """Raise ``Unsupported`` for what would otherwise be ignored silently."""
    asked = {
        "backend": spec.backend if spec.backend != "native" else "",
        "profile": spec.profile,
        "tier_set": spec.tier_set,
        "pinned_tiers": ", ".join(spec.pinned_tiers),
        "require_signature": spec.require_signature,
        "source.revision": spec.source.revision,
    }
    for field, value in asked.items():
        if value:
            raise Unsupported(
                f"{field} = {value!r} is not supported", where=field, remedy="leave it out"
            )


def directory_of(source: ModelSource) -> Path:
    """The directory behind a ``file://`` address or an absolute path; it exists."""
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
            remedy="use file:// and an absolute path, or the path alone",
        )
    else:
        raise InvalidRequest(
            f"the source {uri!r:.200} names no directory of this machine",
            where="source.uri",
            remedy="use file:// and an absolute path, or the path alone",
        )
    if not directory.is_dir():
        raise ModelNotFound(
            f"there is no directory {directory}",
            where="source.uri",
            remedy="mount it on this node, or correct the model's source",
        )
    return directory
