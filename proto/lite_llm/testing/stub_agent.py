"""An agent without a model: registers, loads and generates as told, remembers what it was asked.

For tests of whoever talks to agents, where a real one would bring torch along.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Lease, Store
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import (
    AgentReport,
    AgentStatus,
    AgentStatusRequest,
    DrainRequest,
    DrainResponse,
    ExpertMap,
    ExpertMapRequest,
    Health,
    LoadRequest,
    Residency,
    UnloadRequest,
    UnloadResponse,
)
from lite_llm.proto.v1.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_STOP,
    EmbedRequest,
    EmbedResponse,
    GenerateEvent,
    GenerateFinished,
    GenerateRequest,
    GenerateStart,
    GenerateStarted,
    LoadPhase,
    LoadProgress,
    PromptLogprobs,
    ResumedSequence,
    StreamEvents,
    StreamRequests,
    TokenChunk,
    TokenLogprobs,
    TopLogprob,
    Usage,
)
from lite_llm.wire import Multiplexed, dumps, ref_from_proto, serving

Context = grpc.aio.ServicerContext[Any, Any]
Script = Callable[[GenerateStart], AsyncIterator[GenerateEvent]]

WORDS = ("one", " two", " three")


async def saying(
    start: GenerateStart, words: Sequence[str] = WORDS
) -> AsyncIterator[GenerateEvent]:
    """The events of an answer that consists of ``words``, one token each.

    Of n sequences, each after the first marks its words with its number, and all take turns. Every
    token is the second likeliest of its place. A resumed answer goes on where it was; raises
    ``InvalidRequest`` if whoever resumes it did not hear the same.
    """
    resume, n = start.resume, start.sampling.n or 1
    heard: list[tuple[list[int], bool]] = [([], False)] * n
    for sequence, event in enumerate(_saying(start, words, n)):
        event.sequence = sequence
        if sequence >= resume.next_sequence:
            yield event
        elif event.HasField("tokens"):
            tokens, _ = heard[event.tokens.index]
            heard[event.tokens.index] = [*tokens, *event.tokens.token_ids], False
        elif event.HasField("finished"):
            heard[event.finished.index] = heard[event.finished.index][0], True
        if sequence + 1 == resume.next_sequence > 1:
            known = resume.sequences or [ResumedSequence(token_ids=resume.token_ids)]
            told = [(list(each.token_ids.ids), each.finished) for each in known]
            if told != heard:
                raise InvalidRequest(f"resumes {told}, and said was {heard}", where="resume")


def _saying(start: GenerateStart, words: Sequence[str], n: int) -> Iterator[GenerateEvent]:
    wanted, prompt = start.sampling, prompt_tokens(start)
    started = GenerateStarted(request_id=start.request_id, prompt_tokens=len(prompt))
    if start.return_prompt_ids:
        started.prompt_ids.ids.extend(token for token, _ in prompt)
    yield GenerateEvent(started=started)
    if wanted.HasField("prompt_logprobs"):
        rated = [rated_token(token, text, wanted.prompt_logprobs) for token, text in prompt[1:]]
        yield GenerateEvent(prompt=PromptLogprobs(logprobs=rated))
    for token, word in enumerate(words, start=1):
        for index in range(n):
            text = f"{word}#{index}" if index else word
            chunk = TokenChunk(index=index, token_ids=[token], text=text)
            if wanted.HasField("logprobs"):
                chunk.logprobs.append(rated_token(token, text, wanted.logprobs))
            yield GenerateEvent(tokens=chunk)
    usage = Usage(prompt_tokens=len(prompt), cached_prompt_tokens=1, completion_tokens=len(words))
    for index in range(n):
        finished = GenerateFinished(index=index, reason=FINISH_REASON_STOP, usage=usage)
        yield GenerateEvent(finished=finished)


def prompt_tokens(start: GenerateStart) -> list[tuple[int, str]]:
    """Ids and texts of a prompt's tokens: as sent, or always three where text was sent."""
    if start.WhichOneof("prompt") == "token_ids":
        return [(token, f"<{token}>") for token in start.token_ids.ids]
    text = start.text or "".join(message.content for message in start.chat.messages)
    cuts = [len(text) * third // 3 for third in range(4)]
    return [(100 + third, text[cuts[third] : cuts[third + 1]]) for third in range(3)]


def rated_token(token: int, text: str, num_top: int) -> TokenLogprobs:
    """A token of log probability -0.5; one of -0.25 is likelier, the others are impossible."""
    itself = TopLogprob(token_id=token, logprob=-0.5, text=text)
    likelier = TopLogprob(token_id=token + 1000, logprob=-0.25, text=f"{text}!")
    others = [
        TopLogprob(token_id=token + 1000 * rank, logprob=-math.inf, text=f"{text}?{rank}")
        for rank in range(3, num_top + 1)
    ]
    top = [likelier, itself, *others] if num_top else [itself]
    return TokenLogprobs(token_id=token, logprob=-0.5, top=top)


@dataclass
class StubAgent:
    """Made by :func:`stub_agent`; change ``script``, ``may_load`` and ``load_error`` at will."""

    node: str
    store: Store
    lease: Lease
    script: Script = saying
    may_load: asyncio.Event = field(default_factory=asyncio.Event)
    """Loads wait for it; set at first."""
    load_error: LiteLLMError | None = None
    loads: list[LoadRequest] = field(default_factory=list)
    unloads: list[UnloadRequest] = field(default_factory=list)
    generations: list[GenerateStart] = field(default_factory=list)
    loading: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first load."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first generation."""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether it says how it is when it is asked, as while its process runs; set at first."""
    withdrawn: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a generation's caller has gone before its end."""
    experts: ExpertMap = field(default_factory=ExpertMap)
    status: AgentStatus = field(default_factory=AgentStatus)
    server: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def register(self, **changes: Any) -> None:
        """Write the status, with these fields changed."""
        self.status.MergeFrom(AgentStatus(**changes))
        await self.store.put(key_of(AgentKey(self.node)), dumps(self.status), lease=self.lease)

    async def hold(
        self,
        model: model_pb2.ModelRef,
        state: int = model_pb2.MODEL_STATE_ACTIVE,
        **fields: Any,
    ) -> None:
        """Write the residency of a model in this state, with further fields."""
        residency = Residency(
            model=model, node=self.node, state=model_pb2.ModelState.ValueType(state), **fields
        )
        key = key_of(ResidencyKey(ref_from_proto(model), self.node))
        await self.store.put(key, dumps(residency), lease=self.lease)

    async def die(self) -> None:
        """Cut every call off; the registration stays, as after a crash, until the lease ends."""
        await self.server.aclose()


class _Service(AgentServicer):
    def __init__(self, agent: StubAgent) -> None:
        self._agent = agent
        self._many = Multiplexed(self.Generate)

    async def Load(self, request: LoadRequest, context: Context) -> AsyncIterator[LoadProgress]:
        agent = self._agent
        agent.loads.append(request)
        agent.loading.set()
        yield LoadProgress(
            model=request.spec.ref,
            phase=LoadPhase.LOAD_PHASE_READ,
            state=model_pb2.MODEL_STATE_INIT,
            done_bytes=1,
            total_bytes=2,
            message="reading 1 of 2 bytes",
        )
        await agent.may_load.wait()
        if agent.load_error is not None:
            raise agent.load_error
        await agent.hold(request.spec.ref)

    async def Unload(self, request: UnloadRequest, context: Context) -> UnloadResponse:
        agent = self._agent
        agent.unloads.append(request)
        await agent.store.delete(key_of(ResidencyKey(ref_from_proto(request.model), agent.node)))
        return UnloadResponse()

    async def Drain(self, request: DrainRequest, context: Context) -> DrainResponse:
        await self._agent.register(draining=True)
        return DrainResponse(handed_over=3)

    async def Experts(self, request: ExpertMapRequest, context: Context) -> ExpertMap:
        return self._agent.experts

    async def Status(self, request: AgentStatusRequest, context: Context) -> AgentReport:
        await self._agent.answers.wait()
        return AgentReport(status=self._agent.status)

    async def Generate(
        self, request_iterator: AsyncIterator[GenerateRequest], context: Context
    ) -> AsyncIterator[GenerateEvent]:
        start = (await anext(request_iterator)).start
        self._agent.generations.append(start)
        self._agent.asked.set()
        ended = False
        try:
            async for event in self._agent.script(start):
                yield event
            ended = True
        finally:
            if not ended:
                self._agent.withdrawn.set()

    async def Embed(self, request: EmbedRequest, context: Context) -> EmbedResponse:
        """Of each input two numbers: how long it is, and its place."""
        told = EmbedResponse(prompt_tokens=len(request.inputs))
        for place, each in enumerate(request.inputs):
            size = len(each.text) or len(each.token_ids.ids)
            told.embeddings.add(values=[size, place][: request.dimensions or 2])
        return told

    async def GenerateMany(
        self, request_iterator: AsyncIterator[StreamRequests], context: Context
    ) -> AsyncIterator[StreamEvents]:
        async with aclosing(self._many.serve(request_iterator)) as batches:
            async for batch in batches:
                yield batch


class _OlderService(_Service):
    GenerateMany = AgentServicer.GenerateMany  # type: ignore[assignment]  # which says that there is none


@asynccontextmanager
async def stub_agent(
    store: Store, node: str = "stub", *, is_older: bool = False
) -> AsyncIterator[StubAgent]:
    """A registered agent on a free port of this host while the block runs.

    One that ``is_older`` knows no ``GenerateMany``.
    """
    async with store.lease(60.0) as lease:  # herds keep the loop busy for longer than a real one's
        agent = StubAgent(node, store, lease)
        agent.may_load.set()
        agent.answers.set()
        service = (_OlderService if is_older else _Service)(agent)  # type: ignore[abstract]  # the rest of an agent is not stubbed
        add = {"lite_llm.v1.Agent": lambda server: add_AgentServicer_to_server(service, server)}
        async with agent.server:
            endpoint = await agent.server.enter_async_context(
                serving("127.0.0.1:0", add, grace=0.0)
            )
            agent.status = AgentStatus(
                node=node,
                grpc_address=f"127.0.0.1:{endpoint.port}",
                health=Health(healthy=True),
            )
            await agent.register()
            await endpoint.set_serving(True)
            yield agent
