"""One request on one agent: its events as they come, and every way to fail as an error of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc.aio

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import AgentLost
from lite_llm.dispatch.agents import Agents
from lite_llm.dispatch.transcript import Transcript
from lite_llm.dispatch.watchdog import Watchdog
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateRequest


async def attempt(
    transcript: Transcript,
    model: ModelRef,
    agent: AgentStatus,
    agents: Agents,
    watchdog: Watchdog,
) -> AsyncGenerator[GenerateEvent]:
    """What ``agent`` adds to ``transcript``, to its end. Closing the iterator ends the work there.

    Raises what the agent says, :class:`Severed`, ``Garbage``, and ``AgentLost`` for silence.
    """
    request = GenerateRequest(start=transcript.continuation())
    with agents.stub(agent) as stub:
        call = stub.Generate(_only(request))
        with watchdog.over(agent, model, call) as patience:
            try:
                async for event in call:
                    patience.heard(is_token=event.HasField("tokens"))
                    transcript.accept(event, agent.node)
                    yield event
                    patience.listening()
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
                raise patience.told(failure) from failure
            finally:
                call.cancel()  # ends the agent's work if ours ended first
    if not transcript.is_over:
        raise AgentLost("the agent ended the stream early", where=agent.node)


async def _only(request: GenerateRequest) -> AsyncIterator[GenerateRequest]:
    yield request
