"""What a backend is: how to start a foreign inference server, and how to speak with it.

A backend has no state and does no I/O of its own; processes, connections, limits and our own wire
are the business of the rest of this room, once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lite_llm.backends.profiles import Profile
from lite_llm.proto.v1.generate_pb2 import FinishReason, GenerateStart, TokenLogprobs


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a server is started for."""

    source: Path
    """The checkpoint: a directory, or a file in it."""
    model: str
    """What the server is to call it, as requests will."""
    profile: Profile
    threads: int
    """CPU threads it may compute with."""
    socket: Path
    """A free path for a unix socket, ending in ``.sock``; only this user reaches it."""
    port: int
    """A free TCP port, for servers that have nothing but TCP."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """How to start a server, and where it will listen."""

    arguments: tuple[str, ...]
    """The program first."""
    address: str
    """``unix:PATH`` or ``http://HOST:PORT``."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of the worker's own."""


@dataclass(frozen=True)
class Call:
    """One request for an answer."""

    path: str
    body: Mapping[str, Any]
    streams: bool = True
    """The answer is server-sent events; else one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one message of an answer adds. None is "not told"."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    """Those the server names; it may name fewer than it made."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    reason: FinishReason.ValueType | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    """So far."""


class Server(Protocol):
    """A server that is up, as a backend may ask it."""

    async def get(self, path: str) -> Any:
        """The JSON at ``path``."""
        ...

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers ``body``."""
        ...


class Backend(Protocol):
    """One kind of foreign server.

    What makes something of the server's words raises ``LookupError``, ``TypeError`` or
    ``ValueError`` where they do not look like that server's.
    """

    @property
    def name(self) -> str:
        """As in ``ModelSpec.backend``."""
        ...

    @property
    def ready_path(self) -> str:
        """Answers 200 when the server takes requests, at any other time something else."""
        ...

    @property
    def metrics_path(self) -> str:
        """Of Prometheus' text; empty: it has none."""
        ...

    @property
    def metric_names(self) -> Mapping[str, str]:
        """Its names for what we pass on, and ours, as declared in ``telemetry``."""
        ...

    def command(self, launch: Launch) -> Command:
        """Raises ``InvalidSettings`` where the server is not installed, ``InvalidRequest`` for a
        checkpoint that it can't read."""
        ...

    async def context_tokens(self, server: Server, launch: Launch) -> int:
        """Tokens that a sequence can hold, prompt and answer together."""
        ...

    async def call(self, start: GenerateStart, index: int, server: Server, launch: Launch) -> Call:
        """How to ask for sequence ``index`` of the ``n`` in ``start``.

        Raises ``Unsupported`` for what the server has not got: nothing asked for is left out.
        """
        ...

    def pieces(self, message: Mapping[str, Any]) -> Iterable[Piece]:
        """What a message says."""
        ...
