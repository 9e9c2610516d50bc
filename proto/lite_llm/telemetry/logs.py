"""Structured logs on standard error: a constant message and fields, the same for every library.

Rooms say ``log = structlog.get_logger(__name__)`` and ``log.info("model resident", model=…)``.
Only a program's ``__main__`` calls :func:`configure`.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lite_llm.telemetry import traces

Format = Literal["auto", "json", "text"]

FIELDS: Mapping[str, str] = {
    "address": "host:port or path that a peer or server listens on",
    "agent": "name of an agent's node, where another than our own is meant",
    "attempt": "which try this was, from 1",
    "bytes": "amount of data",
    "cause": "what led to it",
    "code": "stable code of an error, or a status",
    "controller": "which controller of the operator",
    "count": "how many",
    "endpoint": "address of the metadata store or of an object store",
    "error": "an error's own words",
    "event_type": "kind of a watch event",
    "exit_status": "how a process ended; negative is a signal",
    "expert": "layer.tier.group.expert",
    "generation": "generation of a spec",
    "group": "API group of a Kubernetes kind",
    "key": "key in the metadata store",
    "kind": "kind of a Kubernetes object",
    "lease": "identity of a lease",
    "medium": "gpu, dram, nvme, sata or object_store",
    "method": "full name of a call, or an HTTP method",
    "model": "namespace/name",
    "node": "name of our own node",
    "path": "a file or an HTTP path",
    "peer": "the other end of a connection",
    "phase": "phase of a load or of a lifecycle",
    "pid": "process id",
    "port": "TCP port",
    "prefix": "beginning of keys in the metadata store",
    "program": "operator, orchestrator, agent or a worker",
    "reason": "why, in words or as a stable reason",
    "remedy": "what to do about it",
    "remaining_s": "seconds that are left",
    "request_id": "identity of a request, the same on every node",
    "revision": "revision of the metadata store",
    "role": "what a leader leads",
    "seconds": "duration",
    "seed": "of the order among equal scores, hexadecimal",
    "signal": "name of a signal",
    "state": "state of a model",
    "tenant": "who asked",
    "tier": "name of a tier",
    "tokens": "how many tokens",
    "version": "of software, a checkpoint or a format",
    "where": "what an error is about",
}
"""Names of fields and what they mean: one word for one thing, in every room."""

WITHHELD = "[withheld]"
MAX_DEPTH = 6  # of nested fields; deeper, or turning in circles, is told by type only

# Words, not substrings: `token` is a secret, `tokens` and `first_token_seconds` are amounts.
_SECRET = re.compile(
    r"(?:^|_)(?:authorization|cookie|credentials?|password|passwd|secret|bearer|token|"
    r"(?:api|access|private|signing|secret)_?key)$"
)
_CONTENT = frozenset(
    {"prompt", "prompts", "messages", "content", "completion", "text", "token_ids", "stop"}
)
_IN_WORDS = (
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {WITHHELD}"),
    (re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"), WITHHELD),
    (re.compile(r"\bsk-[\w-]{6,}"), WITHHELD),
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def configure(level: str = "info", *, format: Format = "auto") -> None:  # noqa: A002 - its name
    """Send every log of this process to standard error, from ``level`` up.

    ``json`` is one object a line, ``text`` is for people, coloured on a terminal; ``auto`` is text
    on a terminal and else JSON. May be called again. Raises ``ValueError`` for an unknown level.
    """
    if level.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"{level!r} is not a log level; use debug, info, warning or error")
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_FOREIGN,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                withhold,
                _renderer(format, terminal=sys.stderr.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    for old in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    structlog.configure(
        processors=_OURS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def withhold(logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    """Processor that takes secrets and what users wrote out of a log, however deep they lie."""
    return {key: _shown(key, value, MAX_DEPTH) for key, value in fields.items()}


def _shown(key: str, value: object, depth: int) -> Any:
    name = _CAMEL.sub("_", key).lower().replace("-", "_")
    if name in _CONTENT and not isinstance(value, bool | int | float | None):
        size = len(value) if hasattr(value, "__len__") else "?"
        return f"[{size} withheld]"
    if _SECRET.search(name) and not isinstance(value, bool | int | float | None):
        return WITHHELD
    match value:
        case str():
            for pattern, replacement in _IN_WORDS:
                value = pattern.sub(replacement, value)
            return value
        case bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else str(value)  # JSON has no NaN
        case bytes():
            return f"[{len(value)} bytes]"
        case _ if depth == 0:
            return f"[{type(value).__name__}]"
        case Mapping():
            return {str(k): _shown(str(k), v, depth - 1) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_shown("", item, depth - 1) for item in value]
        case _:
            return _shown("", str(value), depth - 1)


class _Handler(logging.StreamHandler[Any]):
    """Ours, so that a second :func:`configure` replaces it and leaves others' handlers alone."""


def _trace_ids(logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    fields.update(traces.current_ids())
    return fields


def _without_leftovers(logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    # Other handlers leave these on the record, where they look like extra fields.
    return {name: fields[name] for name in fields if name not in ("message", "asctime")}


def _renderer(format: Format, *, terminal: bool) -> Processor:  # noqa: A002 - its name
    if format == "text" or (format == "auto" and terminal):
        # Plain tracebacks: the pretty ones show local variables, and with them what users wrote.
        return structlog.dev.ConsoleRenderer(
            colors=terminal, exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer()


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _trace_ids,
]
_FOREIGN: list[Processor] = [
    *_SHARED,
    structlog.stdlib.ExtraAdder(),
    _without_leftovers,
    structlog.processors.format_exc_info,
]
# One list for the life of the process: loggers that are already in use hold on to it.
_OURS: list[Processor] = [
    structlog.stdlib.filter_by_level,
    *_SHARED,
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]
