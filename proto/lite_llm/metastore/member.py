"""One member of an etcd cluster: its channel, and the token that is good for one connection."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio
from grpc import ChannelConnectivity, StatusCode
from grpc.aio import AioRpcError, Metadata

from lite_llm.contracts.errors import InvalidSettings, StoreUnavailable
from lite_llm.metastore.failures import refused_login
from lite_llm.metastore.messages import (
    Message,
    keep_alive_call,
    login_request,
    unary_calls,
    watch_call,
)
from lite_llm.metastore.settings import StoreSettings, StoreTls

CONNECT_SECONDS = 2.0  # to a member that does not even refuse, before the next is tried

log = logging.getLogger(__name__)

# A member cut off from the others then says so, instead of keeping calls and watches waiting.
ASK_FOR_LEADER = ("hasleader", "true")


class Member:
    """One endpoint. A token lives as long as the connection on which it was got: etcd keeps tokens
    in memory, and one of an emptied etcd makes calls hang rather than fail."""

    def __init__(
        self, address: str, settings: StoreSettings, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self.address = address
        self.channel = _channel(address, settings, credentials)
        self.unary = unary_calls(self.channel)
        self.watch = watch_call(self.channel)
        self._use_token(None)
        self._keep_alive = keep_alive_call(self.channel)
        self._settings = settings
        self._connecting = asyncio.Lock()
        self._logging_in = asyncio.Lock()

    def connected_nowait(self) -> bool:
        """Whether the connection is up; if not, it is begun and the token void."""
        if self.channel.get_state(try_to_connect=True) is ChannelConnectivity.READY:
            return True
        self._use_token(None)
        return False

    async def connected(self, seconds: float) -> bool:
        """True as soon as the connection is up; False if it fails or takes longer."""
        if self.connected_nowait():
            return True
        try:
            async with asyncio.timeout(seconds), self._connecting:
                return await self._connect()
        except TimeoutError:
            return False

    async def _connect(self) -> bool:
        while (state := self.channel.get_state(try_to_connect=True)) is not (
            ChannelConnectivity.READY
        ):
            if state is ChannelConnectivity.TRANSIENT_FAILURE:
                return False
            await self.channel.wait_for_state_change(state)
        return True

    @property
    def needs_login(self) -> bool:
        """Whether a call has to wait for :meth:`log_in`."""
        return self.token is None and bool(self._settings.user)

    async def log_in(self, seconds: float) -> None:
        """Get a token within ``seconds``, unless another call has just done so."""
        async with self._logging_in:
            if self.token is None:
                self._use_token(await self._new_token(seconds))

    def forget(self, metadata: Metadata | None) -> None:
        """Use the token in ``metadata`` no more."""
        if metadata is self.metadata:
            self._use_token(None)

    def _use_token(self, token: str | None) -> None:
        self.token = token
        # Made once and not for each call: gRPC takes its time over tuples.
        self.metadata = Metadata(ASK_FOR_LEADER, *([("token", token)] if token else []))

    async def renew(self, request: Message, *, timeout: float, metadata: Metadata) -> Message:
        """One renewal, as a stream of one message each way: every try has its own deadline."""
        stream = self._keep_alive(timeout=timeout, metadata=metadata)
        try:
            await stream.write(request)
            answer = await stream.read()
        finally:
            stream.cancel()
        if answer is grpc.aio.EOF:
            raise StoreUnavailable("etcd ended the stream of renewals", where=self.address)
        return answer

    async def _new_token(self, seconds: float) -> str:
        request = login_request(self._settings.user, self._settings.password)
        try:
            answer = await self.unary["Authenticate"](
                request, timeout=seconds, metadata=Metadata(ASK_FOR_LEADER)
            )
        except AioRpcError as error:
            if error.code() is StatusCode.FAILED_PRECONDITION:
                log.warning("etcd asks for no password", extra={"endpoint": self.address})
                return ""
            if error.code() is StatusCode.INVALID_ARGUMENT:
                raise refused_login(error.details() or "", where=self.address) from error
            raise
        token: str = answer.token
        return token


def read_credentials(tls: StoreTls) -> grpc.ChannelCredentials:
    """The contents of the PEM files; ``InvalidSettings`` names one that can't be read."""
    try:
        return grpc.ssl_channel_credentials(
            tls.authority.read_bytes(),
            tls.key.read_bytes() if tls.key else None,
            tls.certificate.read_bytes() if tls.certificate else None,
        )
    except OSError as error:
        raise InvalidSettings(
            f"TLS file {error.filename} can't be read: {error.strerror}",
            where="store.tls",
            remedy="mount it, or correct the path in the settings",
        ) from error


def _channel(
    address: str, settings: StoreSettings, credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    ping_timeout_ms = int(settings.ping_timeout_seconds * 1000)
    options: tuple[tuple[str, Any], ...] = (
        ("grpc.max_receive_message_length", -1),  # a listing is as long as it is
        ("grpc.max_send_message_length", -1),  # etcd judges
        ("grpc.enable_http_proxy", 0),  # the cluster's own traffic
        ("grpc.use_local_subchannel_pool", 1),  # two stores in one process fail apart
        ("grpc.keepalive_time_ms", int(settings.ping_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", ping_timeout_ms),
        # Else a bandwidth probe under way holds keep-alive back for its own timeout, a minute.
        ("grpc.http2.ping_timeout_ms", ping_timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),  # a restarted pod has a new address
    )
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)
