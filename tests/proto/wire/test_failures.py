"""What a handler raises is what its caller catches, whichever way the call goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from tests.proto.wire.conftest import FAULTY, KINDS, Faulty, Peer

from lite_llm.contracts import LiteLLMError, errors, outcome_of
from lite_llm.contracts.outcomes import OUTCOMES
from lite_llm.proto.v1.agent_pb2 import SleepRequest, UnloadRequest
from lite_llm.proto.v1.agent_pb2_grpc import (
    AgentServicer,
    AgentStub,
    add_AgentServicer_to_server,
)
from lite_llm.proto.v1.error_pb2 import ErrorDetail
from lite_llm.wire import closing_call, error_from, failures, open_channel, serving

every_kind = pytest.mark.parametrize("kind", KINDS)


async def caught(peer: Peer, kind: str = "unary_unary", **options: Any) -> LiteLLMError:
    """Our error behind a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await peer.call(kind, **options)
    return error_from(failure.value, where="the peer")


@every_kind
async def test_a_handler_that_raises_nothing_answers(peer: Peer, kind: str) -> None:
    answers = await peer.call(kind)
    assert answers == ([b"first", b"answer"] if kind.endswith("_stream") else [b"answer"])


@every_kind
async def test_every_error_arrives_as_it_was_raised(peer: Peer, kind: str) -> None:
    for error_class in OUTCOMES:
        sent = error_class("it broke", where="a field", remedy="mend it", retry_after=1.5)
        peer.service.error = sent
        arrived = await caught(peer, kind)
        assert type(arrived) is error_class
        assert vars(arrived) == vars(sent)


async def test_the_status_itself_speaks_to_other_clients(peer: Peer) -> None:
    for error_class, outcome in OUTCOMES.items():
        peer.service.error = error_class("it broke", remedy="mend it")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await peer.call()
        assert failure.value.code() is grpc.StatusCode[outcome.grpc]
        assert failure.value.details() == "it broke: mend it"


async def test_what_an_error_leaves_out_stays_out(peer: Peer) -> None:
    peer.service.error = errors.NoAgent("none")
    arrived = await caught(peer)
    assert vars(arrived) == {
        "message": "none",
        "where": "the peer",
        "remedy": "",
        "retry_after": 0.0,
    }


@every_kind
async def test_a_foreign_exception_is_internal_and_keeps_its_words(peer: Peer, kind: str) -> None:
    peer.service.error = KeyError("password=hunter2")
    with structlog.testing.capture_logs() as logs:
        arrived = await caught(peer, kind)
    assert type(arrived) is errors.Internal
    assert arrived.message == "KeyError in the server"
    assert "hunter2" not in str(vars(arrived))
    (log,) = logs
    assert log["event"] == "call failed"
    assert log["exc_info"] is peer.service.error


async def test_our_own_errors_are_no_news_to_the_log(peer: Peer) -> None:
    peer.service.error = errors.Overloaded("full")
    with structlog.testing.capture_logs() as logs:
        await caught(peer)
    assert logs == []


@pytest.mark.parametrize(
    "text",
    ["é", "日本語 🎉", "a\nb\r\n\0", "100 %", "%2e%", " edges ", "\x7f\x01", "\udc80 undecodable",
     "x" * 100_000, "🎉" * 50_000],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
async def test_any_words_arrive(peer: Peer, text: str) -> None:
    peer.service.error = errors.Overloaded(text, where=text, remedy=text)
    arrived = await caught(peer)
    assert type(arrived) is errors.Overloaded
    if len(text) < 100:
        wanted = text.replace("\udc80", "?")
        assert (arrived.message, arrived.where, arrived.remedy) == (wanted, wanted, wanted)
    else:
        assert arrived.message[:200] == arrived.remedy[:200] == text[:200]
        assert arrived.message.endswith("…")


@given(st.text())
def test_clipping_keeps_characters_whole(text: str) -> None:
    clipped = failures._clipped(text)
    assert len(clipped.encode()) <= failures.MAX_WORDS + len("…".encode())
    if len(text.encode(errors="replace")) <= failures.MAX_WORDS:
        assert clipped == text.encode(errors="replace").decode()


async def test_the_callers_deadline_is_told_as_such(peer: Peer) -> None:
    peer.service.waits = True
    arrived = await caught(peer, timeout=0.2)
    assert type(arrived) is errors.DeadlineExceeded
    assert arrived.where == "the peer"
    await asyncio.wait_for(peer.service.cancelled.wait(), 20)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_withdrawn_call_cancels_its_handler(peer: Peer, kind: str) -> None:
    peer.service.waits = True
    task = asyncio.create_task(peer.call(kind))
    await asyncio.wait_for(peer.service.waiting.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(peer.service.cancelled.wait(), 20)


@every_kind
async def test_work_that_is_cancelled_within_the_server_can_be_tried_again(
    peer: Peer, kind: str
) -> None:
    peer.service.error = asyncio.CancelledError()
    with structlog.testing.capture_logs() as logs:
        arrived = await asyncio.wait_for(caught(peer, kind), 20)
    assert type(arrived) is errors.AgentLost
    assert arrived.message == "CancelledError in the server"
    assert len(logs) == 1


@every_kind
async def test_a_server_that_stops_is_a_lost_agent(kind: str) -> None:
    service = Faulty(waits=True)
    async with serving("127.0.0.1:0", {FAULTY: service.add_to}, grace=0) as endpoint:
        channel = open_channel(f"127.0.0.1:{endpoint.port}")
        call = asyncio.create_task(caught(Peer(service, endpoint, channel), kind))
        await asyncio.wait_for(service.waiting.wait(), 20)
    assert type(await call) is errors.AgentLost
    await channel.close()


async def test_a_reader_that_goes_away_between_answers_withdraws_its_call(peer: Peer) -> None:
    peer.service.waits = True
    method: Any = peer.channel.unary_stream(f"/{FAULTY}/unary_stream")
    call = method(b"request")
    with closing_call(call):
        assert await call.read() == b"first"
        await asyncio.wait_for(peer.service.waiting.wait(), 20)
    await asyncio.wait_for(peer.service.cancelled.wait(), 20)


async def test_closing_a_call_that_is_over_changes_nothing(peer: Peer) -> None:
    method: Any = peer.channel.unary_unary(f"/{FAULTY}/unary_unary")
    with closing_call(method(b"request")) as call:
        assert await call == b"answer"
    assert await call.code() is grpc.StatusCode.OK


async def test_an_abandoned_stream_closes_its_handler(peer: Peer) -> None:
    closed = asyncio.Event()

    async def endless(request: object, context: object) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1 << 16)  # soon more than flow control lets through: stuck in a yield
        finally:
            closed.set()

    vars(peer.service)["many"] = endless
    async with (
        serving("127.0.0.1:0", {FAULTY: peer.service.add_to}, grace=0) as endpoint,
        open_channel(f"127.0.0.1:{endpoint.port}") as channel,
    ):
        method: Any = channel.unary_stream(f"/{FAULTY}/unary_stream")
        call = method(b"")
        await call.read()
        call.cancel()
        await asyncio.wait_for(closed.wait(), 20)


async def test_an_absent_method_is_unsupported(peer: Peer) -> None:
    method: Any = peer.channel.unary_unary("/lite_llm.test.Faulty/Absent")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await method(b"")
    assert type(error_from(failure.value, where="x")) is errors.Unsupported


async def test_an_absent_server_is_a_lost_agent(peer: Peer) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        method: Any = channel.unary_unary("/a/b")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await method(b"")
    arrived = error_from(failure.value, where="127.0.0.1:1")
    assert type(arrived) is errors.AgentLost
    assert arrived.recoverable
    assert arrived.where == "127.0.0.1:1"
    assert arrived.message.startswith("UNAVAILABLE: ")


async def test_a_handler_may_still_abort_by_itself(peer: Peer) -> None:
    async def aborts(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "by itself")

    vars(peer.service)["one"] = aborts  # what `many` ends with
    arrived = await caught(peer, "unary_stream")
    assert type(arrived) is errors.Internal
    assert arrived.message == "OUT_OF_RANGE: by itself"


def answer_with(
    code: grpc.StatusCode, details: str | None, *trailing: tuple[str, str | bytes]
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
    )


def test_a_newer_servers_reason_is_internal_and_keeps_its_words() -> None:
    detail = ErrorDetail(reason="FluxCapacitorEmpty", message="no flux", where="dmc", remedy="fill")
    arrived = error_from(
        answer_with(
            grpc.StatusCode.UNAVAILABLE, "x", (failures.DETAIL, detail.SerializeToString())
        ),
        where="peer",
    )
    assert type(arrived) is errors.Internal
    assert (arrived.message, arrived.where, arrived.remedy) == ("no flux", "dmc", "fill")


@pytest.mark.parametrize("value", [b"\xff\xff", b"\x0a\x05ab", "text"])
def test_a_malformed_detail_falls_back_to_the_code(value: str | bytes) -> None:
    arrived = error_from(
        answer_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (failures.DETAIL, value)),
        where="peer",
    )
    assert type(arrived) is errors.Overloaded
    assert arrived.message == "RESOURCE_EXHAUSTED: full"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_every_code_without_detail_is_some_error_of_ours(code: grpc.StatusCode) -> None:
    arrived = error_from(answer_with(code, None), where="peer")
    assert arrived.message == f"{code.name}: no details given"
    assert arrived.where == "peer"
    if code is grpc.StatusCode.INTERNAL:
        assert type(arrived) is errors.AgentLost, "ours would carry a detail"
    elif code in failures._FROM_CODE:
        assert outcome_of(arrived).grpc == code.name
    else:
        assert type(arrived) is errors.Internal


@given(st.builds(ErrorDetail, reason=st.text(), message=st.text(), retry_after_seconds=st.floats()))
def test_any_detail_of_a_stranger_is_some_error_of_ours(detail: ErrorDetail) -> None:
    value = detail.SerializeToString()
    arrived = error_from(
        answer_with(grpc.StatusCode.UNKNOWN, "", (failures.DETAIL, value)), where="peer"
    )
    assert isinstance(arrived, LiteLLMError)
    assert arrived.message == detail.message


async def test_a_method_that_is_not_there_yet_is_unsupported() -> None:
    """The base classes that protoc makes raise for every method nobody overrides."""
    service = AgentServicer()  # type: ignore[abstract]  # what no method overrides is the point
    services = {"lite_llm.v1.Agent": lambda server: add_AgentServicer_to_server(service, server)}
    async with (
        serving("127.0.0.1:0", services, grace=0) as endpoint,
        open_channel(f"127.0.0.1:{endpoint.port}") as channel,
    ):
        stub = AgentStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.Unload(UnloadRequest())
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            await anext(aiter(stub.Sleep(SleepRequest())))
    for failure in (unary, stream):
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert isinstance(error_from(failure.value, where="agent"), errors.Unsupported)
