"""Calls to an etcd cluster: deadlines, moving on to the next member, when to try again."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from grpc.aio import AioRpcError, Metadata

from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.metastore.failures import Verdict, error_of, verdict_of
from lite_llm.metastore.member import CONNECT_SECONDS, Member, read_credentials
from lite_llm.metastore.messages import Message, Method
from lite_llm.metastore.settings import StoreSettings

PAUSE_SECONDS = (0.02, 0.5)  # between tries: the first one, and the longest


def pause_seconds(attempt: int) -> float:
    """How long to wait after failure number ``attempt``, from 0; spread, so that clients part."""
    shortest, longest = PAUSE_SECONDS
    return min(longest, shortest * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)


class Connection:
    """The way to a cluster, through one member at a time."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        credentials = read_credentials(settings.tls) if settings.tls else None
        self._members = [Member(one, settings, credentials) for one in settings.endpoints]
        self._current = 0

    async def close(self) -> None:
        """Close every channel."""
        for member in self._members:
            await member.channel.close()

    @property
    def call_seconds(self) -> float:
        """The deadline of a call."""
        return self._settings.call_seconds

    @property
    def token(self) -> str | None:
        """The token in use; each login brings another."""
        return self._members[self._current].token

    async def call(self, method: Method, request: Message, *, repeatable: bool) -> Message:
        """The answer to ``request``, within ``call_seconds``.

        Nothing is sent before a connection is up. What is not ``repeatable`` is sent again only if
        etcd says that it did nothing. Raises as :func:`error_of`.
        """
        deadline = monotonic() + self.call_seconds
        logged_in_again = False
        for attempt in itertools.count():
            member = self._members[self._current]
            if not member.connected_nowait():
                member = await self._reachable(deadline)
            metadata = None
            try:
                if member.needs_login:
                    await member.log_in(self._attempt_seconds(deadline))
                metadata = member.metadata
                timeout = self._attempt_seconds(deadline) if repeatable else deadline - monotonic()
                return await member.unary[method](request, timeout=timeout, metadata=metadata)
            except AioRpcError as error:
                verdict = verdict_of(error)
                failure = error_of(error, where=member.address)
                self._note(member, verdict, metadata)
                if verdict is Verdict.LOG_IN and self._settings.user and not logged_in_again:
                    logged_in_again = True
                    continue
                perhaps_done = verdict is Verdict.BROKEN and metadata is not None and not repeatable
                pause = pause_seconds(attempt)
                if (
                    verdict in (Verdict.LOG_IN, Verdict.FINAL)
                    or perhaps_done
                    or monotonic() + pause > deadline
                ):
                    raise failure from error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def renew(self, request: Message, *, seconds: float) -> Message:
        """One try, of at most ``seconds``, to renew a lease; raises as :func:`error_of`."""
        member = await self._reachable(monotonic() + seconds)
        metadata = None
        try:
            if member.needs_login:
                await member.log_in(seconds)
            metadata = member.metadata
            return await member.renew(request, timeout=seconds, metadata=metadata)
        except AioRpcError as error:
            self._note(member, verdict_of(error), metadata)
            raise error_of(error, where=member.address) from error

    @asynccontextmanager
    async def watching(self, request: Message) -> AsyncIterator[Any]:
        """A stream of answers to the watch ``request``; raises ``AioRpcError`` as gRPC does."""
        deadline = monotonic() + self.call_seconds
        member = await self._reachable(deadline)
        metadata = None
        try:
            if member.needs_login:
                await member.log_in(self._attempt_seconds(deadline))
            metadata = member.metadata
            stream = member.watch(metadata=metadata)
            try:
                await stream.write(request)
                yield stream
            finally:
                stream.cancel()
        except AioRpcError as error:
            self._note(member, verdict_of(error), metadata)
            raise
        except StoreUnavailable:
            self._note(member, Verdict.BROKEN, metadata)
            raise

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
            where=", ".join(self._settings.endpoints),
            remedy="see that etcd is up, and that the endpoints and TLS files are right",
        )

    def _attempt_seconds(self, deadline: float) -> float:
        return min(self._settings.attempt_seconds, deadline - monotonic())

    def _note(self, member: Member, verdict: Verdict, metadata: Metadata | None) -> None:
        """Draw the conclusions of a failure for the calls that follow."""
        if verdict in (Verdict.LOG_IN, Verdict.BROKEN):
            member.forget(metadata)
        if verdict in (Verdict.REFUSED, Verdict.BROKEN):
            self._leave(member)

    def _leave(self, member: Member) -> None:
        """Use the next member from now on, unless another call did so already."""
        if self._members[self._current] is member:
            self._current = (self._current + 1) % len(self._members)
