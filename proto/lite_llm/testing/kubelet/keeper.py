"""Keeps one container of a Pod: starts it, watches its probes, restarts it, ends it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lite_llm.testing.kubelet.backoff import BackOff
from lite_llm.testing.kubelet.checks import passes
from lite_llm.testing.kubelet.container import Container, StartFailed
from lite_llm.testing.kubelet.environment import Object
from lite_llm.testing.kubelet.plan import ContainerPlan
from lite_llm.testing.kubelet.probes import Probe, Verdict
from lite_llm.testing.kubelet.status import (
    START_ERROR,
    ContainerFacts,
    Running,
    Terminated,
    Waiting,
    will_run_again,
)

MINIMUM_GRACE_SECONDS = 2.0  # Kubernetes' own, also for a container whose preStop took it all
HOOK_SECONDS = 60.0  # postStart has no limit of its own
LOG_TAIL_BYTES = 2048  # Kubernetes' limit for a message taken from a log


@dataclass(frozen=True)
class Upkeep:
    """How a Pod's containers are kept."""

    restart_policy: str
    pod_ip: str
    grace_seconds: float
    back_off: BackOff
    directory: Path


class Keeper:
    """One container of a Pod and the facts about it; ``changed`` is called after each change."""

    def __init__(
        self, spec: Object, facts: ContainerFacts, upkeep: Upkeep, changed: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.facts = facts
        self._upkeep = upkeep
        self._changed = changed
        self._container: Container | None = None
        self._said_goodbye: Container | None = None
        self._ending = asyncio.Event()

    def note(self, **facts: Any) -> None:
        """Replace some of the facts."""
        self.facts = replace(self.facts, **facts)
        self._changed()

    def log_path(self, *, previous: bool = False) -> Path:
        """The log of the latest run, or of the one before."""
        return self._upkeep.directory / f"{self.spec['name']}.{self.facts.restarts - previous}.log"

    async def keep(self, plan: ContainerPlan) -> None:
        """Run the container until it is over for good, or :meth:`end_for_good` ended it."""
        in_a_row = 0
        if isinstance(self.facts.state, Terminated):  # in the life of an earlier kubelet
            if not will_run_again(self.facts.state, self._upkeep.restart_policy):
                return
            self.note(restarts=self.facts.restarts + 1)
        while not self._ending.is_set():
            began = time.monotonic()
            ended = await self._run(plan)
            again = will_run_again(ended, self._upkeep.restart_policy)
            if not again or self._ending.is_set():
                return
            if time.monotonic() - began >= self._upkeep.back_off.forgotten_seconds:
                in_a_row = 0
            if delay := self._upkeep.back_off.delay(in_a_row):
                message = f"back-off {delay:g}s restarting failed container={plan.name}"
                self.note(state=Waiting("CrashLoopBackOff", message), last=ended)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), delay)
                    self.note(state=ended)
                    return
            in_a_row += 1
            self.note(restarts=self.facts.restarts + 1)

    async def _run(self, plan: ContainerPlan) -> Terminated:
        before = self.facts.state if isinstance(self.facts.state, Terminated) else self.facts.last
        run, started_at = uuid.uuid4().hex, time.time()
        scratch = self._upkeep.directory / "runs" / run
        try:
            container = await Container.start(plan, scratch=scratch, log=self.log_path())
        except StartFailed as error:
            now = time.time()
            ended = Terminated(START_ERROR, now, now, message=str(error), reason="StartError")
            self.note(state=ended, last=before, run=run)
            return ended
        self._container = container
        self.note(state=Running(started_at), last=before, run=run)
        care = asyncio.create_task(self._care_for(container))
        try:
            code = await container.wait()
        finally:
            self._container = None
            care.cancel()
            await asyncio.gather(care, return_exceptions=True)
            container.kill()
            await container.wait()
        ended = Terminated(code, started_at, time.time(), message=self._last_words(code))
        self.note(state=ended, ready=False, started=False)
        if not care.cancelled() and (failure := care.exception()):
            raise failure
        return ended

    def _last_words(self, code: int) -> str:
        if code == 0 or self.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return ""
        return self.log_path().read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    # -- while it runs

    async def _care_for(self, container: Container) -> None:
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook and not await self._act(hook, container, HOOK_SECONDS):
            await self._end(container, self._upkeep.grace_seconds)
            return
        probes = {
            name: Probe.of(self.spec, f"{name}Probe")
            for name in ("startup", "readiness", "liveness")
        }
        if startup := probes["startup"]:
            async for verdict in self._verdicts(startup, container, Verdict(passed=False)):
                if verdict.passed:
                    break
                if verdict.failed(startup):
                    await self._end(container, startup.grace)
                    return
        self.note(started=True, ready=probes["readiness"] is None)
        async with asyncio.TaskGroup() as both:
            if readiness := probes["readiness"]:
                both.create_task(self._watch_readiness(readiness, container))
            if liveness := probes["liveness"]:
                both.create_task(self._watch_liveness(liveness, container))

    async def _watch_readiness(self, probe: Probe, container: Container) -> None:
        async for verdict in self._verdicts(probe, container, Verdict(passed=False)):
            if verdict.passed != self.facts.ready:
                self.note(ready=verdict.passed)

    async def _watch_liveness(self, probe: Probe, container: Container) -> None:
        async for verdict in self._verdicts(probe, container, Verdict(passed=True)):
            if verdict.failed(probe):
                await self._end(container, probe.grace)
                return

    async def _verdicts(self, probe: Probe, container: Container, verdict: Verdict) -> Any:
        await asyncio.sleep(probe.initial_delay)
        while True:
            outcome = await passes(
                probe.handler,
                probe.action,
                container=container,
                spec=self.spec,
                ip=self._upkeep.pod_ip,
                timeout=probe.timeout,
            )
            verdict = verdict.after(outcome, probe)
            yield verdict
            await asyncio.sleep(probe.period)

    # -- its end

    async def end_for_good(self, grace_seconds: float) -> None:
        """End it and do not restart it: preStop, SIGTERM, and SIGKILL when the time is over."""
        self._ending.set()
        if self._container:
            await self._end(self._container, grace_seconds)

    async def _end(self, container: Container, grace_seconds: float | None) -> None:
        grace = self._upkeep.grace_seconds if grace_seconds is None else grace_seconds
        deadline = time.monotonic() + grace
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and grace > 0 and container is not self._said_goodbye:
            self._said_goodbye = container  # once, even if asked to end again, and sooner
            await self._act(hook, container, grace)
        if grace > 0:
            container.terminate()
            left = max(deadline - time.monotonic(), MINIMUM_GRACE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(container.wait(), left)
                return
        container.kill()
        await container.wait()

    async def _act(self, hook: Object, container: Container, timeout: float) -> bool:
        ((handler, action),) = hook.items()
        return await passes(
            handler,
            action,
            container=container,
            spec=self.spec,
            ip=self._upkeep.pod_ip,
            timeout=timeout,
        )
