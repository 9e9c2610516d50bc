"""One request on one agent: its events as they come, and every way to fail as an error of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc.aio

from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.errors import AgentLost, Cancelled
from lite_llm.dispatch.agents import Agents
from lite_llm.dispatch.transcript import Transcript
from lite_llm.dispatch.watchdog import Watchdog
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateRequest
from lite_llm.wire import error_from


class Severed(AgentLost):
    """The line to the agent broke, or there is none."""


async def attempt(
    transcript: Transcript, agent: AgentStatus, agents: Agents, watchdog: Watchdog
) -> AsyncGenerator[GenerateEvent]:
    """What ``agent`` adds to ``transcript``, to its end. Closing the iterator ends the work there.

    Raises what the agent says, :class:`Severed`, ``Garbage``, and ``AgentLost`` for silence.
    """
    request = GenerateRequest(start=transcript.continuation())
    with agents.stub(agent) as stub:
        call = stub.Generate(_only(request))
        with watchdog.over(agent.node, call) as patience:
            try:
                async for event in call:
                    patience.heard(is_token=event.HasField("tokens"))
                    transcript.accept(event, agent.node)
                    yield event
                    patience.listening()
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
                # A call that the watchdog cancelled ends in either, as grpc's timing has it.
                task = asyncio.current_task()
                if patience.lost is not None and not (task and task.cancelling()):
                    raise patience.lost from None
                if isinstance(failure, asyncio.CancelledError):
                    raise
                raise _told(failure, agent.node) from failure
            finally:
                call.cancel()  # ends the agent's work if ours ended first
    if not transcript.is_over:
        raise AgentLost("the agent ended the stream early", where=agent.node)


def _told(failure: grpc.aio.AioRpcError, node: str) -> LiteLLMError:
    error = error_from(failure, where=node)
    if isinstance(error, Cancelled):  # a call that we did not cancel: its server stops
        return AgentLost("the agent gave the request up", where=error.where, remedy="try again")
    if type(error) is AgentLost and not failure.trailing_metadata():
        return Severed(error.message, where=node)  # gRPC's own words, not the agent's
    return error


async def _only(request: GenerateRequest) -> AsyncIterator[GenerateRequest]:
    yield request
