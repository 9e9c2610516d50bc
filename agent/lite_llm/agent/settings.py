"""Everything that can be set about an agent, read by the command line and nowhere else."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lite_llm.agent.restarts import RestartPolicy
from lite_llm.contracts.errors import InvalidName, InvalidSettings
from lite_llm.contracts.identity import checked_node
from lite_llm.trust import ACCEPT_UNSIGNED, SignaturePolicy
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
    listen_http: str = "127.0.0.1:0"
    """``host:port`` of health, metrics and OpenAI's API, in plain text: for the node's kubelet,
    for Prometheus, and for those on this machine."""
    openai_api: bool | None = None
    """OpenAI's API on ``listen_http``, for anybody who reaches it: there are no keys. None: where
    only this machine does."""
    cache_directory: Path | None = None
    """Where checkpoints from stores are kept; None: below ``state_directory``."""
    cache_bytes: int | None = None
    """What they may take there; None: nine tenths of what is free when the agent starts."""
    sata_directory: Path | None = None
    """On a slower disk: what leaves ``cache_directory`` for want of room goes there first."""
    sata_bytes: int | None = None
    """What it may take there; None: nine tenths of what is free when the agent starts."""
    memory_bytes: int | None = None
    """For all workers together; None: seven tenths of the machine's. A model that has no room waits
    until others that nobody uses have given way."""
    warm_bytes: int | None = None
    """For models that sleep in memory; None: a tenth of the machine's. More than the kernel lets
    this process lock (RLIMIT_MEMLOCK) lies there unlocked."""
    kv_bytes: int | None = None
    """Key-value cache of each worker; None: a worker's own choice, an eighth of the machine at
    most, which is then counted for each."""
    kv_disk_bytes: int | None = None
    """On the state directory's disk, for what has left a worker's cache; None: it is gone then."""
    worker_bytes: int = 512 << 20
    """What a worker is counted with beside its weights and its cache: Python, torch, buffers."""
    prefork: bool = True
    """Keep a process that has imported everything, so that a worker starts in a tenth of a second;
    it is counted with ``worker_bytes``, too. For nodes without native models: False."""
    settle_seconds: float = 1.0
    """A model that has just been loaded is not asked to give way before somebody used it, or so
    long has passed."""
    patience_seconds: float = 20.0
    """A model that waited so long for memory gets it from those that are busy, too: they take no
    more requests and finish what runs."""
    device: str = "cpu"
    """Where native workers compute: ``cpu``, ``cuda`` for the first GPU that they see, or ``auto``:
    there if it is there."""
    device_bytes: int | None = None
    """Of the GPU for all workers on it; None: nearly all it has. Models there are counted with that
    instead of ``memory_bytes``, and their key-value caches with an eighth each unless told."""
    expert_hot_bytes: int | None = None
    """Where experts of each native worker run; None: all are held."""
    expert_warm_bytes: int = 0
    """Memory behind it."""
    trust: SignaturePolicy = ACCEPT_UNSIGNED
    """Whose signatures of checkpoints count; a model may require one where this does not."""
    compiled_directory: Path | None = None
    """Compiled kernels of all engines are kept there, so that they outlive a container; None: where
    each engine keeps them by itself."""
    hang_seconds: float = 120.0
    """Without an answer or an end of its step, after which a worker is taken for hung."""
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
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
        for name in ("listen", "listen_http"):
            if not re.fullmatch(r".+:\d{1,5}", getattr(self, name)):
                raise self._wrong(name, getattr(self, name), "write host:port")
        if self.listen.startswith(("0.0.0.0:", "[::]:")) and not self.advertise_host:
            raise self._wrong("listen", self.listen, "say in advertise_host where others find it")
        if self.device not in ("auto", "cpu", "cuda"):
            raise self._wrong("device", self.device, "write auto, cpu or cuda")
        if self.worker_threads < 1:
            raise self._wrong("worker_threads", self.worker_threads, "give at least one")
        if not 0 < self.heartbeat_seconds < self.lease_seconds:
            raise self._wrong(
                "heartbeat_seconds", self.heartbeat_seconds, "make it shorter than lease_seconds"
            )
        for name in ("start_seconds", "stop_seconds", "hang_seconds", "patience_seconds"):
            if getattr(self, name) <= 0:
                raise self._wrong(name, getattr(self, name), "make it positive")
        sizes = ("cache_bytes", "sata_bytes", "memory_bytes", "warm_bytes", "worker_bytes")
        for name in (*sizes, "device_bytes"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise self._wrong(name, value, "make it positive")

    @staticmethod
    def _wrong(name: str, value: object, remedy: str) -> InvalidSettings:
        return InvalidSettings(f"{name} is {value!r}", where=name, remedy=remedy)

    @property
    def serves_openai(self) -> bool:
        """Whether ``listen_http`` has OpenAI's API."""
        if self.openai_api is not None:
            return self.openai_api
        host = self.listen_http.rpartition(":")[0].strip("[]")
        return host == "localhost" or host == "::1" or host.startswith("127.")

    def address(self, port: int) -> str:
        """What others connect to, the service having been given ``port``."""
        return f"{self.advertise_host or self.listen.rpartition(':')[0]}:{port}"

    def http_address(self, port: int) -> str:
        """The same of health and metrics."""
        return f"{self.advertise_host or self.listen_http.rpartition(':')[0]}:{port}"
