"""Many generations on one call: told apart, held back one by one, ended and broken together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from lite_llm.contracts.errors import Corrupt, InvalidRequest, Overloaded
from lite_llm.proto.v1.agent_pb2_grpc import (
    AgentServicer,
    AgentStub,
    add_AgentServicer_to_server,
)
from lite_llm.proto.v1.generate_pb2 import (
    GenerateCancel,
    GenerateEvent,
    GenerateRequest,
    GenerateStart,
    StreamEvents,
    StreamRequests,
    TokenChunk,
)
from lite_llm.wire import Line, Multiplexed, Refused, at_end_of, error_of, open_channel, serving
from lite_llm.wire.endpoints import MAX_MESSAGE_BYTES
from lite_llm.wire.multiplexed import WINDOW

SOON = 20.0
MANY = 3 * WINDOW // 4096  # events of four kilobytes, three windows full


class Counting(AgentServicer):
    """Counts to the prompt's number; words instead of numbers are what it does wrong."""

    def __init__(self) -> None:
        self.many = Multiplexed(self.Generate)
        self.said: dict[str, int] = defaultdict(int)
        self.withdrawn: set[str] = set()
        self.messages = 0

    async def Generate(
        self, request_iterator: AsyncIterator[GenerateRequest], context: Any
    ) -> AsyncIterator[GenerateEvent]:
        start = (await anext(aiter(request_iterator))).start
        at_end_of(context, lambda: self.withdrawn.add(start.request_id))
        match start.text:
            case "corrupt":
                raise Corrupt("a chunk is wrong", where="shard", remedy="fetch it again")
            case "bug":
                raise ZeroDivisionError
            case "wait":
                yield event(0)
                await asyncio.Event().wait()
            case "huge":
                yield GenerateEvent(tokens=TokenChunk(text=" " * MAX_MESSAGE_BYTES))
            case "until cancelled":
                assert (await anext(request_iterator)).HasField("cancel")
                yield event(7)
            case text:
                for number in range(int(text)):
                    self.said[start.request_id] += 1
                    yield event(number)

    async def GenerateMany(
        self, request_iterator: AsyncIterator[StreamRequests], context: Any
    ) -> AsyncIterator[StreamEvents]:
        async with aclosing(self.many.serve(request_iterator)) as batches:
            async for batch in batches:
                self.messages += 1
                yield batch


class Older(Counting):
    """Of a version that has only Generate."""

    GenerateMany = AgentServicer.GenerateMany  # type: ignore[assignment]  # the base class's raises


def event(number: int) -> GenerateEvent:
    return GenerateEvent(sequence=number, tokens=TokenChunk(token_ids=[number], text=" " * 4096))


def asking(text: str, request_id: str = "") -> GenerateRequest:
    return GenerateRequest(start=GenerateStart(request_id=request_id or text, text=text))


@asynccontextmanager
async def served(service: Counting, grace: float = 0.0) -> AsyncIterator[Line]:
    add = {"lite_llm.v1.Agent": lambda server: add_AgentServicer_to_server(service, server)}
    async with (
        serving("127.0.0.1:0", add, grace=grace) as endpoint,
        open_channel(f"127.0.0.1:{endpoint.port}") as channel,
    ):
        line = Line(AgentStub(channel))
        try:
            yield line
        finally:
            service.many.close()
            line.close()


async def read(line: Line, text: str, request_id: str = "") -> list[int]:
    with line.generation(asking(text, request_id)) as generation:
        return [each.sequence async for events in generation for each in events]


def made(kind: type[Counting] = Counting) -> Counting:
    return kind()


async def until(condition: Any) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110  # of a server
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", [Counting, Older])
async def test_each_stream_has_its_own_events_in_order(kind: type[Counting]) -> None:
    async with served(kind()) as line:
        answers = await asyncio.gather(*(read(line, str(n), f"r{n}") for n in range(50)))
    assert answers == [list(range(n)) for n in range(50)]


async def test_what_is_ready_of_many_is_few_messages() -> None:
    service = made()
    async with served(service) as line:
        await asyncio.gather(*(read(line, "50", f"r{n}") for n in range(40)))
    assert service.messages < 40 * 50 / 4


@pytest.mark.parametrize("kind", [Counting, Older])
@pytest.mark.parametrize("text", ["corrupt", "bug"])
async def test_a_failure_is_its_streams_own(kind: type[Counting], text: str) -> None:
    async with served(kind()) as line:
        other = asyncio.create_task(read(line, "300", "other"))
        with pytest.raises((Refused, grpc.aio.AioRpcError)) as raised:
            await read(line, text)
        assert await other == list(range(300))
    if isinstance(raised.value, Refused):
        told = error_of(raised.value.detail, where="peer")
        assert ("shard" if text == "corrupt" else "peer") in str(told.where)


async def test_an_error_arrives_as_it_was() -> None:
    class Full(Counting):
        async def Generate(self, request_iterator: Any, context: Any) -> Any:
            raise Overloaded("full", where="room", remedy="later", retry_after=3.0)
            yield

    async with served(made(Full)) as line:  # type: ignore[type-abstract]  # enough of an agent
        with pytest.raises(Refused) as raised:
            await read(line, "1")
    told = error_of(raised.value.detail, where="peer")
    assert isinstance(told, Overloaded)
    assert (told.message, told.where, told.remedy, told.retry_after) == ("full", "room", "later", 3)


@pytest.mark.parametrize("kind", [Counting, Older])
async def test_who_leaves_is_noticed_by_the_server(kind: type[Counting]) -> None:
    service = kind()
    async with served(service) as line:
        with line.generation(asking("wait")) as generation:
            assert [each.sequence for each in await anext(aiter(generation))] == [0]
        await until(lambda: "wait" in service.withdrawn)
        assert await read(line, "3") == [0, 1, 2]


@pytest.mark.parametrize("kind", [Counting, Older])
async def test_a_cancel_is_heard(kind: type[Counting]) -> None:
    async with served(kind()) as line:
        with line.generation(asking("until cancelled")) as generation:
            generation.send(GenerateRequest(cancel=GenerateCancel(reason="client gone")))
            async with asyncio.timeout(SOON):
                heard = [each.sequence async for events in generation for each in events]
    assert heard == [7]


async def test_a_slow_reader_holds_back_only_itself() -> None:
    service = made()
    async with served(service) as line:
        with line.generation(asking(str(MANY), "slow")) as slow:
            assert await read(line, str(MANY), "fast") == list(range(MANY))
            assert service.said["slow"] < MANY / 2
            assert [each.sequence async for events in slow for each in events] == list(range(MANY))


async def test_a_herd_of_large_requests_breaks_no_line() -> None:
    async with served(made()) as line:
        prompts = [f"{n:0{1 << 20}}" for n in range(40)]  # of a megabyte each, in one moment
        with ExitStack() as all_of_them:
            generations = [
                all_of_them.enter_context(line.generation(asking("0", prompt)))
                for prompt in prompts
            ]
            assert [[each async for each in generation] for generation in generations] == [[]] * 40


@pytest.mark.parametrize("is_answer", [True, False])
async def test_what_is_too_large_for_a_message_ends_its_own_stream(is_answer: bool) -> None:
    async with served(made()) as line:
        with line.generation(asking("wait")) as other:
            events = aiter(other)
            await anext(events)
            call = line.opened()
            with pytest.raises(Refused if is_answer else InvalidRequest):
                await read(
                    line, "huge" if is_answer else "0", "" if is_answer else "x" * MAX_MESSAGE_BYTES
                )
            assert await read(line, "3") == [0, 1, 2]
            assert line.opened() is call


async def test_what_is_withdrawn_before_it_begins_is_forgotten() -> None:
    service = made()
    async with served(service) as line:
        call = line.opened()
        assert call is not None
        for _ in range(3):
            with line.generation(asking("3")):
                pass  # both go in one message
        assert await read(line, "3") == [0, 1, 2]
        service.many.close()
        await until(lambda: call.is_over)  # as soon as no stream is left


async def test_one_can_let_all_come_and_hear_of_the_end_without_reading() -> None:
    service, over = made(), asyncio.Event()
    async with served(service) as line:
        with line.generation(asking(str(MANY), "all"), on_over=over.set) as generation:
            generation.hurry()
            async with asyncio.timeout(SOON):
                await over.wait()
            assert service.said["all"] == MANY
            assert sum([len(events) async for events in generation]) == MANY


async def test_a_broken_line_ends_its_streams_and_the_next_goes_on_a_new_one() -> None:
    service = made()
    async with served(service) as line:
        readers = [asyncio.create_task(read(line, "wait", f"w{n}")) for n in range(3)]
        await until(lambda: service.messages)
        call = line.opened()
        assert call is not None
        call.close()
        for outcome in await asyncio.gather(*readers, return_exceptions=True):
            assert isinstance(outcome, grpc.aio.AioRpcError | asyncio.CancelledError)
        assert await read(line, "3") == [0, 1, 2]
        await until(lambda: service.withdrawn >= {"w0", "w1", "w2"})


async def test_a_server_that_dies_breaks_every_stream() -> None:
    service = made()
    add = {"lite_llm.v1.Agent": lambda server: add_AgentServicer_to_server(service, server)}
    async with serving("127.0.0.1:0", add, grace=0.0) as endpoint:
        channel = open_channel(f"127.0.0.1:{endpoint.port}")
        line = Line(AgentStub(channel))
        readers = [asyncio.create_task(read(line, "wait", f"w{n}")) for n in range(3)]
        await until(lambda: service.messages)
    outcomes = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [grpc.aio.AioRpcError] * 3
    with suppress(grpc.aio.AioRpcError):
        await read(line, "1")
    line.close()
    await channel.close()


async def test_a_server_that_stops_waits_for_no_idle_line() -> None:
    service = made()
    add = {"lite_llm.v1.Agent": lambda server: add_AgentServicer_to_server(service, server)}
    async with (
        asyncio.timeout(SOON),
        serving("127.0.0.1:0", add, grace=600.0) as endpoint,
        open_channel(f"127.0.0.1:{endpoint.port}") as channel,
    ):
        line = Line(AgentStub(channel))
        assert await read(line, "3") == [0, 1, 2]
        service.many.close()
        with pytest.raises((Refused, grpc.aio.AioRpcError)):
            await read(line, "3")
