"""Calls to an etcd cluster: the members, deadlines, moving on to the next one, logging in again."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import grpc.aio
from grpc import ChannelConnectivity, StatusCode
from grpc.aio import AioRpcError

from lite_llm.contracts.errors import InvalidSettings, StoreUnavailable
from lite_llm.metastore.failures import Verdict, error_of, refused_login, verdict_of
from lite_llm.metastore.messages import (
    Message,
    Method,
    keep_alive_call,
    login_request,
    unary_calls,
    watch_call,
)
from lite_llm.metastore.settings import StoreSettings, StoreTls

CONNECT_SECONDS = 2.0  # to a member that does not even refuse, before the next is tried
PAUSE_SECONDS = (0.02, 0.5)  # between tries: the first one, and the longest

log = logging.getLogger(__name__)


def pause_seconds(attempt: int) -> float:
    """How long to wait after failure number ``attempt``, from 0; spread, so that clients part."""
    shortest, longest = PAUSE_SECONDS
    return min(longest, shortest * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)


class Member:
    """One endpoint and its channel."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.channel = channel
        self.unary = unary_calls(channel)
        self.watch = watch_call(channel)
        self._keep_alive = keep_alive_call(channel)

    async def connected(self, seconds: float) -> bool:
        """True as soon as the connection is up; False if it fails or takes longer."""
        state = self.channel.get_state(try_to_connect=True)
        if state is ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(seconds):
                while state is not ChannelConnectivity.READY:
                    if state is ChannelConnectivity.TRANSIENT_FAILURE:
                        return False
                    await self.channel.wait_for_state_change(state)
                    state = self.channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    async def renew(self, request: Message, *, timeout: float, metadata: Any) -> Message:
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


class Connection:
    """The way to a cluster: the member in use, and the token if there is a user."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        credentials = _credentials(settings.tls) if settings.tls else None
        self._members = [
            Member(endpoint, _channel(endpoint, credentials, settings))
            for endpoint in settings.endpoints
        ]
        self._current = 0
        self._token: str | None = None
        self._login = asyncio.Lock()

    async def close(self) -> None:
        """Close every channel."""
        for member in self._members:
            await member.channel.close()

    async def call(self, method: Method, request: Message, *, repeatable: bool) -> Message:
        """The answer to ``request``, within ``call_seconds``.

        Nothing is sent before a connection is up. What is not ``repeatable`` is sent again only if
        etcd says that it did nothing. Raises as :func:`error_of`.
        """
        deadline = monotonic() + self.settings.call_seconds
        logged_in = False
        for attempt in itertools.count():
            member = await self._reachable(deadline)
            token, sent = self._token, False
            try:
                token = await self._valid_token(member, deadline)
                timeout, sent = self._attempt_seconds(deadline, repeatable=repeatable), True
                return await member.unary[method](
                    request, timeout=timeout, metadata=_metadata(token)
                )
            except AioRpcError as error:
                verdict = verdict_of(error)
                failure = error_of(error, where=member.address)
                if verdict is Verdict.LOG_IN and self.settings.user and not logged_in:
                    logged_in = True
                    self._forget(token)
                    continue
                if verdict in (Verdict.LOG_IN, Verdict.FINAL):
                    raise failure from error
                self._leave(member)
                perhaps_done = verdict is Verdict.BROKEN and sent and not repeatable
                pause = pause_seconds(attempt)
                if perhaps_done or monotonic() + pause > deadline:
                    raise failure from error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def renew(self, request: Message, *, seconds: float) -> Message:
        """One try, of at most ``seconds``, to renew a lease; raises as :func:`error_of`."""
        deadline = monotonic() + seconds
        member = await self._reachable(deadline)
        token = self._token
        try:
            token = await self._valid_token(member, deadline)
            return await member.renew(request, timeout=seconds, metadata=_metadata(token))
        except AioRpcError as error:
            if verdict_of(error) is Verdict.LOG_IN:
                self._forget(token)
            else:
                self._leave(member)
            raise error_of(error, where=member.address) from error

    @asynccontextmanager
    async def watching(self, request: Message) -> AsyncIterator[Any]:
        """A stream of answers to the watch ``request``; raises ``AioRpcError`` as gRPC does."""
        deadline = monotonic() + self.settings.call_seconds
        member = await self._reachable(deadline)
        token = self._token
        try:
            token = await self._valid_token(member, deadline)
            stream = member.watch(metadata=_metadata(token))
            try:
                await stream.write(request)
                yield stream
            finally:
                stream.cancel()
        except AioRpcError as error:
            if verdict_of(error) is Verdict.LOG_IN:
                self._forget(token)
            else:
                self._leave(member)
            raise

    @property
    def token(self) -> str | None:
        """The token in use; it changes with each login."""
        return self._token

    async def _reachable(self, deadline: float) -> Member:
        for attempt in itertools.count():
            for _ in self._members:
                member = self._members[self._current]
                if await member.connected(min(CONNECT_SECONDS, deadline - monotonic())):
                    return member
                self._leave(member)
            pause = pause_seconds(attempt)
            if monotonic() + pause > deadline:
                break
            await asyncio.sleep(pause)
        raise StoreUnavailable(
            "no member of etcd can be reached",
            where=", ".join(self.settings.endpoints),
            remedy="see that etcd is up, and that the endpoints and TLS files are right",
        )

    def _leave(self, member: Member) -> None:
        """Use the next member from now on, unless another call did so already."""
        if self._members[self._current] is member:
            self._current = (self._current + 1) % len(self._members)

    def _attempt_seconds(self, deadline: float, *, repeatable: bool) -> float:
        left = max(0.0, deadline - monotonic())
        return min(left, self.settings.attempt_seconds) if repeatable else left

    def _forget(self, token: str | None) -> None:
        if self._token == token:
            self._token = None

    async def _valid_token(self, member: Member, deadline: float) -> str | None:
        if not self.settings.user or self._token is not None:
            return self._token
        async with self._login:
            if self._token is None:
                self._token = await self._log_in(member, deadline)
        return self._token

    async def _log_in(self, member: Member, deadline: float) -> str:
        try:
            answer = await member.unary["Authenticate"](
                login_request(self.settings.user, self.settings.password),
                timeout=self._attempt_seconds(deadline, repeatable=True),
                metadata=_metadata(None),
            )
        except AioRpcError as error:
            if error.code() is StatusCode.FAILED_PRECONDITION:
                log.warning("etcd asks for no password", extra={"endpoint": member.address})
                return ""
            if error.code() is StatusCode.INVALID_ARGUMENT:
                raise refused_login(error.details() or "", where=member.address) from error
            raise
        token: str = answer.token
        return token


def _metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    # A member cut off from the others must say so, and not answer calls or keep watches waiting.
    return (("hasleader", "true"), ("token", token)) if token else (("hasleader", "true"),)


def _channel(
    endpoint: str, credentials: grpc.ChannelCredentials | None, settings: StoreSettings
) -> grpc.aio.Channel:
    options = (
        ("grpc.max_receive_message_length", -1),  # a listing is as long as it is
        ("grpc.max_send_message_length", -1),  # etcd judges
        ("grpc.enable_http_proxy", 0),  # the cluster's own traffic
        ("grpc.use_local_subchannel_pool", 1),  # two stores in one process fail apart
        ("grpc.keepalive_time_ms", int(settings.ping_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.ping_timeout_seconds * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),  # a restarted pod has a new address
    )
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint, options=options)
    return grpc.aio.secure_channel(endpoint, credentials, options=options)


def _credentials(tls: StoreTls) -> grpc.ChannelCredentials:
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
