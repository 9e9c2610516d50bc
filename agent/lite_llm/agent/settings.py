"""Everything that can be set about an agent, read by the command line and nowhere else."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lite_llm.contracts.errors import InvalidName, InvalidSettings
from lite_llm.contracts.identity import checked_node
from lite_llm.wire import TlsFiles


def host_node() -> str:
    """This host's name as a node name: lower case, everything that is not allowed made a hyphen."""
    name = re.sub(r"[^a-z0-9.-]", "-", socket.gethostname().lower()).strip("-.")
    try:
        return checked_node(name)
    except InvalidName as error:
        raise InvalidSettings(
            f"the host name {name!r} can't name a node", where="node", remedy="set the node's name"
        ) from error


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Of one agent; checked when made."""

    state_directory: Path
    """Logs and sockets of workers live below it. One agent at a time; made if absent."""
    node: str = field(default_factory=host_node)
    """The name under which the agent registers."""
    listen: str = "127.0.0.1:0"
    """``host:port`` of the gRPC service; port 0 is any free one."""
    advertise_host: str = ""
    """The host that others reach ``listen``'s port at; empty: the host in ``listen``."""
    tls: TlsFiles | None = None
    """Mutual TLS on ``listen``; None is plain text. Workers' sockets are this user's alone."""
    zone: str = ""
    price_class: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    worker_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    """CPU threads of each worker. More than cores slows all of them down."""
    heartbeat_seconds: float = 3.0
    """A third of the lease: two may be lost before the node is declared dead."""
    lease_seconds: float = 9.0
    start_seconds: float = 120.0
    """Within which a new worker process must answer; importing torch from a cold disk is slow."""
    stop_seconds: float = 10.0
    """Given to running requests, and then to workers, when the agent stops."""

    def __post_init__(self) -> None:
        try:
            checked_node(self.node)
        except InvalidName as error:
            raise self._wrong("node", self.node, error.remedy) from error
        if not re.fullmatch(r".+:\d{1,5}", self.listen):
            raise self._wrong("listen", self.listen, "write host:port")
        if self.listen.startswith(("0.0.0.0:", "[::]:")) and not self.advertise_host:
            raise self._wrong("listen", self.listen, "say in advertise_host where others find it")
        if self.worker_threads < 1:
            raise self._wrong("worker_threads", self.worker_threads, "give at least one")
        if not 0 < self.heartbeat_seconds < self.lease_seconds:
            raise self._wrong(
                "heartbeat_seconds", self.heartbeat_seconds, "make it shorter than lease_seconds"
            )
        for name in ("start_seconds", "stop_seconds"):
            if getattr(self, name) <= 0:
                raise self._wrong(name, getattr(self, name), "make it positive")

    @staticmethod
    def _wrong(name: str, value: object, remedy: str) -> InvalidSettings:
        return InvalidSettings(f"{name} is {value!r}", where=name, remedy=remedy)

    def address(self, port: int) -> str:
        """What others connect to, the service having been given ``port``."""
        return f"{self.advertise_host or self.listen.rpartition(':')[0]}:{port}"
