"""Where the metadata store is and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lite_llm.contracts.errors import InvalidSettings


@dataclass(frozen=True, kw_only=True)
class StoreTls:
    """PEM files for a TLS connection to etcd."""

    authority: Path
    """Certificates that etcd's own must be signed by."""
    certificate: Path | None = None
    """Client certificate, where etcd asks for one; together with ``key``."""
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidSettings(
                "a client certificate and its key belong together",
                where="store.tls",
                remedy="give both files or neither",
            )


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Settings of :func:`lite_llm.metastore.open_store`."""

    endpoints: tuple[str, ...] = ()
    """``host:port`` of each etcd member. None: the store lives in this process and dies with it."""
    tls: StoreTls | None = None
    """None: plain text, for tests and for etcd on the same machine."""
    user: str = ""
    """etcd user; empty: etcd asks for none."""
    password: str = field(default="", repr=False)
    call_seconds: float = 5.0
    """A call gives up after this long. Longer than an election among etcd's members (about 1 s)."""
    attempt_seconds: float = 2.0
    """A read is tried at the next member after this long unanswered; writes are not repeated."""
    ping_seconds: float = 10.0
    """A silent connection is tested this often. etcd hangs up on clients that ask more often than
    every 5 s, its --grpc-keepalive-min-time."""
    ping_timeout_seconds: float = 5.0
    """A connection that leaves a test unanswered this long is cut; its watches move elsewhere."""

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            host, _, port = endpoint.rpartition(":")
            if not host or "/" in endpoint or not port.isdecimal():
                raise InvalidSettings(
                    f"{endpoint!r} is not an address of etcd",
                    where="store.endpoints",
                    remedy="write host:port; encryption is asked for by the TLS settings",
                )
        if self.password and not self.user:
            raise InvalidSettings(
                "a password without a user", where="store.user", remedy="name the etcd user"
            )
