"""A generation from its start to its last event, whichever way its client came."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING

from lite_llm.agent.models import Models
from lite_llm.contracts.errors import NoAgent
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateRequest
from lite_llm.wire import ref_from_proto

if TYPE_CHECKING:
    from opentelemetry.context import Context


async def generated(
    models: Models,
    node: str,
    first: GenerateRequest,
    others: AsyncIterator[GenerateRequest],
    *,
    closes_with: Callable[[Callable[[], None]], None] = lambda close: None,
    trace: Context | None = None,
) -> AsyncGenerator[list[GenerateEvent]]:
    """What ``first``, which is a start, leads to; a model that sleeps is woken for it.

    Closing the iterator ends the work; ``closes_with`` gets what does so at any other time.
    """
    if models.draining:
        raise NoAgent("the agent is draining", remedy="choose another agent")
    model = models.get(ref_from_proto(first.start.model))
    model.start_within(trace)
    await model.wait_ready()
    stream = model.open_stream(first, others)
    closes_with(stream.close)
    try:
        async for events in stream.events():
            if events[0].HasField("started"):
                events[0].started.node = node
            yield events
    finally:
        stream.close()
