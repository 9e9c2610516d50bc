"""Takes one request to an agent and its tokens back; to another agent when that one fails."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from time import monotonic

import structlog

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidTransition,
    NoAgent,
    OutOfMemory,
    Overloaded,
    RoutingMismatch,
    RuntimeFault,
    TierUnavailable,
)
from lite_llm.dispatch.agents import Agents, Severed
from lite_llm.dispatch.attempt import attempt, embedded
from lite_llm.dispatch.breakers import Breakers
from lite_llm.dispatch.budgets import RetryBudget, Tries
from lite_llm.dispatch.course import Course, Desk
from lite_llm.dispatch.demand import Uses
from lite_llm.dispatch.holding import RETRY_SECONDS, HoldingRoom, HoldLimits
from lite_llm.dispatch.loads import Loads
from lite_llm.dispatch.transcript import Garbage, Transcript
from lite_llm.dispatch.watchdog import Watchdog
from lite_llm.placement import ClusterView, Observed, Serve, Weights, explained
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.generate_pb2 import (
    EmbedRequest,
    EmbedResponse,
    GenerateEvent,
    GenerateStart,
    GenerateStarted,
    LoadProgress,
    RoutingExplanation,
)
from lite_llm.telemetry import Metrics, names
from lite_llm.wire import ref_to_proto

STALE_SECONDS = 2.0  # until what an agent knows of itself shows in the view, or something is wrong

_REFUSALS = (NoAgent, Overloaded, OutOfMemory, TierUnavailable)
_FAULTS = (RuntimeFault, RoutingMismatch)
_FINAL = (Cancelled, InvalidTransition)

log = structlog.get_logger(__name__)


class Dispatcher:
    """Routes requests by the view."""

    def __init__(
        self,
        views: Observed[ClusterView],
        loads: Loads,
        agents: Agents,
        breakers: Breakers,
        watchdog: Watchdog,
        uses: Uses,
        *,
        metrics: Metrics,
        hold: HoldLimits,
        weights: Weights,
    ) -> None:
        """Requests are held within ``hold`` while their model is loaded."""
        self._views = views
        self._loads = loads
        self._agents = agents
        self._breakers = breakers
        self._watchdog = watchdog
        self._uses = uses
        self._metrics = metrics
        self._room = HoldingRoom(hold, metrics)
        self._budget = RetryBudget()
        self._desk = Desk(weights)

    @property
    def view(self) -> ClusterView:
        """The cluster as it is known now."""
        return self._views.value

    async def generate(
        self, start: GenerateStart, *, explains: bool = False
    ) -> AsyncGenerator[list[GenerateEvent]]:
        """Progress while the model is loaded, then what its agent says, in one sequence, as many
        events at a time as are there.

        If an agent fails, another one goes on: what is yielded is the same as if none had. With
        ``explains`` the start tells every agent's score. Close the iterator to withdraw the
        request: its work on the agent ends. Raises ``ModelNotFound``, what a load failed with,
        what an agent refuses, and its fault when there are too many.
        """
        transcript, course = Transcript(start), Course(start, Tries(self._budget), self._desk)
        sequence = start.resume.next_sequence
        self._uses.arrived(course.model)
        while True:
            view = self._views.value
            if not isinstance(plan := course.plan(view), Serve):
                async with aclosing(self._held_until_served(course, transcript)) as held:
                    async for progress in held:
                        yield [GenerateEvent(sequence=sequence, progress=progress)]
                        sequence += 1
                continue
            node, has_begun = plan.agent.node, False
            routing = explained(view, course.model, course.wish()) if explains else None
            self._breakers.tried(node)
            self._uses.note(course.model)
            try:
                async with self._attempt(transcript, plan.agent, course) as (batches, begin):
                    async for events in batches:
                        if not has_begun:
                            begin()
                            self._breakers.succeeded(node)
                            has_begun, course.digest = True, course.digest or plan.digest
                        for event in events:
                            if event.HasField("started"):
                                self._tell(event.started, node, course, routing)
                            event.sequence = sequence
                            sequence += 1
                        yield events
                return
            except _REFUSALS as refusal:
                await self._after_refusal(refusal, node, view, course)
            except _FINAL:
                raise
            except _FAULTS as fault:
                if transcript.is_over:  # all was said before it broke
                    return
                await self._after_fault(fault, node, transcript, course)

    async def embed(self, request: EmbedRequest, request_id: str) -> EmbedResponse:
        """Vectors of texts, from an agent that serves the model; held and tried as generations."""
        start = GenerateStart(request_id=request_id, model=request.model, tenant=request.tenant)
        transcript, course = Transcript(start), Course(start, Tries(self._budget), self._desk)
        self._uses.arrived(course.model)
        while True:
            view = self._views.value
            if not isinstance(plan := course.plan(view), Serve):
                async with aclosing(self._held_until_served(course, transcript)) as held:
                    async for _ in held:
                        pass
                continue
            node = plan.agent.node
            self._breakers.tried(node)
            self._uses.note(course.model)
            try:
                with course.sent_to(node):
                    told = await embedded(request, plan.agent, self._agents)
            except _REFUSALS as refusal:
                await self._after_refusal(refusal, node, view, course)
            except _FAULTS as fault:
                await self._after_fault(fault, node, transcript, course)
            else:
                self._breakers.succeeded(node)
                return told

    @asynccontextmanager
    async def _attempt(
        self, transcript: Transcript, agent: AgentStatus, course: Course
    ) -> AsyncIterator[tuple[AsyncIterator[list[GenerateEvent]], Callable[[], None]]]:
        batches = attempt(transcript, course.model, agent, self._agents, self._watchdog)
        with course.sent_to(agent.node) as begin:
            async with aclosing(batches):
                yield batches, begin

    def explain(self, start: GenerateStart) -> RoutingExplanation:
        """Every agent's score for this request, with its terms."""
        course = Course(start, Tries(self._budget), self._desk)
        view = self._views.value
        course.plan(view)  # raises ModelNotFound
        return explained(view, course.model, course.wish())

    def _tell(
        self,
        started: GenerateStarted,
        node: str,
        course: Course,
        routing: RoutingExplanation | None,
    ) -> None:
        started.node = node
        started.model.CopyFrom(ref_to_proto(course.model))
        if (spec := self._views.value.models.get(course.model)) is not None:
            started.version = spec.version
        if routing is not None:
            started.routing.CopyFrom(routing)
        if course.held_seconds:
            started.cold_start.CopyFrom(self._loads.cold_start(course.model))
            started.cold_start.held_seconds = course.held_seconds

    async def _after_refusal(
        self, refusal: LiteLLMError, node: str, view: ClusterView, course: Course
    ) -> None:
        """Returns if the request may go on elsewhere, or to an agent whose state has changed."""
        course.shunned.add(node)
        now = asyncio.get_running_loop().time()
        course.refused_at = min(course.refused_at, now)
        if course.has_other(self._views.value):
            return
        # An agent knows sooner than the view that its worker died, or that it leaves.
        is_late = isinstance(refusal, NoAgent) and now < course.refused_at + STALE_SECONDS
        if not is_late or not await self._has_changed(course, node, view):
            raise refusal

    async def _has_changed(self, course: Course, node: str, old: ClusterView) -> bool:
        def changed(new: ClusterView) -> bool | None:
            same = new.residencies.get(course.model) is old.residencies.get(course.model)
            return None if same and new.agents.get(node) is old.agents.get(node) else True

        try:
            async with asyncio.timeout_at(course.refused_at + STALE_SECONDS):
                return await self._views.wait_until(changed)
        except TimeoutError:
            return False

    async def _after_fault(
        self, fault: LiteLLMError, node: str, transcript: Transcript, course: Course
    ) -> None:
        """Returns when the request may be sent again."""
        if isinstance(fault, Severed):
            self._breakers.severed(node, str(fault))
        elif isinstance(fault, Garbage):
            self._breakers.failed(node, str(fault))
        course.fault, course.refused_at = fault, math.inf
        course.shunned.add(node)
        if (pause := course.tries.pause(transcript.num_tokens)) is None:
            raise fault
        log.warning("stream moves on", agent=node, tokens=transcript.num_tokens, error=str(fault))
        if not course.has_other(self._views.value):
            await asyncio.sleep(pause)

    async def _held_until_served(
        self, course: Course, transcript: Transcript
    ) -> AsyncGenerator[LoadProgress]:
        """Progress of the load until some agent serves the model."""
        since = monotonic()
        deadline = asyncio.get_running_loop().time() + self._room.limits.seconds
        model = course.model
        try:
            with (
                self._uses.holding(model),
                self._room.place(
                    model,
                    transcript.tenant,
                    transcript.num_bytes,
                    has_begun=transcript.has_begun,
                    remaining_seconds=self._loads.remaining_seconds(model),
                ),
            ):
                while not isinstance(course.plan(self._views.value), Serve):
                    async with aclosing(self._loads.progress(model)) as steps:
                        while (progress := await self._next(steps, deadline, model)) is not None:
                            yield progress
        except LiteLLMError as error:
            raise (course.fault or error) from error
        finally:
            course.held_seconds += monotonic() - since
            waited = self._metrics[names.HELD_WAIT_SECONDS].labels(model=str(model))
            waited.observe(monotonic() - since)

    async def _next(
        self, steps: AsyncIterator[LoadProgress], deadline: float, model: ModelRef
    ) -> LoadProgress | None:
        try:
            async with asyncio.timeout_at(deadline):
                return await anext(steps, None)
        except TimeoutError:
            self._rejected("time")
            raise DeadlineExceeded(
                f"{model} was not loaded within {self._room.limits.seconds:g} s",
                where=str(model),
                remedy="try again: the load goes on",
                retry_after=max(self._loads.remaining_seconds(model), RETRY_SECONDS),
            ) from None
        except LiteLLMError:
            self._rejected("load_failed")
            raise

    def _rejected(self, reason: str) -> None:
        self._metrics[names.HELD_REJECTED_TOTAL].labels(reason=reason).inc()
