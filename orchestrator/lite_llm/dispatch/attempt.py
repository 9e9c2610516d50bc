"""One request on one agent: its events as they come, and every way to fail as an error of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc.aio

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import AgentLost
from lite_llm.dispatch.agents import Agents, failure_of
from lite_llm.dispatch.transcript import Transcript
from lite_llm.dispatch.watchdog import Watchdog
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.generate_pb2 import EmbedRequest, EmbedResponse, GenerateEvent
from lite_llm.wire import Refused

EMBED_SECONDS = 300.0  # as long as a first token may take by default


async def attempt(
    transcript: Transcript,
    model: ModelRef,
    agent: AgentStatus,
    agents: Agents,
    watchdog: Watchdog,
) -> AsyncGenerator[list[GenerateEvent]]:
    """What ``agent`` adds to ``transcript``, to its end, as many events at a time as are there.

    Closing the iterator ends the work there.
    Raises what the agent says, :class:`Severed`, ``Garbage``, and ``AgentLost`` for silence.
    """
    with (
        agents.generation(agent, transcript.continuation()) as generation,
        watchdog.over(agent, model, generation) as patience,
    ):
        try:
            async for events in generation:
                patience.heard(is_token=any(event.HasField("tokens") for event in events))
                accepted = 0
                try:
                    for event in events:
                        transcript.accept(event, agent.node)
                        accepted += 1
                except LiteLLMError:
                    if accepted:
                        yield events[:accepted]
                    raise
                yield events
                patience.listening()
        except (grpc.aio.AioRpcError, Refused, asyncio.CancelledError) as failure:
            raise patience.told(failure) from failure
    if not transcript.is_over:
        raise AgentLost("the agent ended the stream early", where=agent.node)


async def embedded(request: EmbedRequest, agent: AgentStatus, agents: Agents) -> EmbedResponse:
    """What ``agent`` makes of it; raises as :func:`attempt` does."""
    with agents.stub(agent) as stub:
        try:
            return await stub.Embed(request, timeout=EMBED_SECONDS)
        except grpc.aio.AioRpcError as failure:
            raise failure_of(failure, agent.node) from failure
