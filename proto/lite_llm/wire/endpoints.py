"""gRPC servers and channels, made the same way everywhere: errors, health, reflection, TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.wire.failures import ErrorInterceptor

MAX_MESSAGE_BYTES = 16 << 20  # chunks that peers fetch are 8 MiB; nothing else comes near

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A cut network shows within the time in which a stream must have moved elsewhere.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # else a silent network shows after a minute
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),  # two servers on one port are a mistake that must show
    # A peer that comes back is found again at once; the default waits for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),  # peers are inside the cluster, proxies are for outside
)


class Cancellable(Protocol):
    """Any call of gRPC's, and any task."""

    def cancel(self) -> bool: ...


C = TypeVar("C", bound=Cancellable)


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files of one side of mutual TLS."""

    authority: Path
    """Certificates that the other side must be signed by."""
    certificate: Path
    key: Path
    server_name: str = ""
    """What certificates of servers are checked for; empty: the host that is dialled. Pods are
    dialled at addresses, which no certificate can name beforehand."""

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Authority, key and certificate; :class:`InvalidSettings` names one that is unreadable."""
        contents = []
        for path in (self.authority, self.key, self.certificate):
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise InvalidSettings(
                    f"TLS file {path} can't be read: {error.strerror}",
                    where=str(path),
                    remedy="mount it, or correct the path in the settings",
                ) from error
        return contents[0], contents[1], contents[2]


class Endpoint:
    """A running server: where it listens, and what health it tells."""

    def __init__(self, port: int, servicer: health.aio.HealthServicer, names: list[str]) -> None:
        self.port = port
        self._health = servicer
        self._names = names

    async def set_serving(self, serving: bool) -> None:
        """Tell ``grpc.health.v1`` watchers, for every service at once."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", *self._names):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)


@asynccontextmanager
async def serving(
    address: str,
    services: Mapping[str, Callable[[grpc.aio.Server], None]],
    *,
    tls: TlsFiles | None = None,
    grace: float = 5.0,
) -> AsyncIterator[Endpoint]:
    """Serve while the block runs, then let calls finish for ``grace`` seconds.

    ``address`` is ``host:port`` (port 0: any) or ``unix:path``; ``services`` maps full names of
    services to functions that add them. Health is NOT_SERVING until told otherwise.
    """
    server = grpc.aio.server(interceptors=(ErrorInterceptor(),), options=_OPTIONS)
    for add in services.values():
        add(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        [*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    endpoint = Endpoint(_bind(server, address, tls), health_servicer, list(services))
    await endpoint.set_serving(False)
    try:  # a cancel in the middle of the start must find its way to the stop, too
        await server.start()
        yield endpoint
    finally:
        await health_servicer.enter_graceful_shutdown()
        await server.stop(grace)


def _bind(server: grpc.aio.Server, address: str, tls: TlsFiles | None) -> int:
    try:
        if tls is None:
            return server.add_insecure_port(address)
        authority, key, certificate = tls.read()
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=authority, require_client_auth=True
        )
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise InvalidSettings(
            f"can't listen on {address}",
            where=address,
            remedy="choose a free port and an address of this machine"
            + (", and PEM files whose certificate and key belong together" if tls else ""),
        ) from error


@contextmanager
def closing_call(call: C) -> Iterator[C]:
    """``call``, withdrawn when the block ends before it does.

    A reader that is cancelled, or leaves its loop, does not by itself end the call for the other
    side: a forgotten stream works on until it is collected as garbage (grpcio 1.85).
    """
    try:
        yield call
    finally:
        call.cancel()


def open_channel(address: str, *, tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """A channel to ``host:port`` or ``unix:path``; use it as an asynchronous context manager."""
    options: tuple[tuple[str, Any], ...] = _OPTIONS
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    authority, key, certificate = tls.read()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    if tls.server_name:
        options = (*options, ("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(address, credentials, options=options)
