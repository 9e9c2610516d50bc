"""Looks after one worker: whether it answers, whether its steps end, and what it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc.aio

from lite_llm.agent.workers import Worker
from lite_llm.proto.v1 import agent_pb2


class Pulses:
    """Judges what a worker says of its steps: no I/O, times on the caller's clock, in seconds."""

    def __init__(self, hang_seconds: float, now: float) -> None:
        self._hang_seconds = hang_seconds
        self._steps = 0
        self._answered_at = self._moved_at = now

    def answered(self, pulse: agent_pb2.Pulse, now: float) -> None:
        """It said so at ``now``."""
        self._answered_at = now
        # The first step waits for weights that are still on their way.
        if not pulse.stepping or not pulse.steps or pulse.steps != self._steps:
            self._steps, self._moved_at = pulse.steps, now

    def verdict(self, now: float) -> str:
        """Why it must be ended; empty while all is well."""
        if now - self._answered_at > self._hang_seconds:
            return f"did not answer for {now - self._answered_at:.0f} s"
        if self._answered_at - self._moved_at > self._hang_seconds:
            return f"was in one step for {self._answered_at - self._moved_at:.0f} s"
        return ""


async def watch(
    worker: Worker,
    tell: Callable[[agent_pb2.AgentReport], None],
    *,
    every_seconds: float,
    hang_seconds: float,
) -> None:
    """Until cancelled, ask the worker how it is; one that hangs is killed, and that is the end."""
    loop = asyncio.get_running_loop()
    pulses = Pulses(hang_seconds, loop.time())
    patience = min(hang_seconds, 4 * every_seconds)
    while not (verdict := pulses.verdict(loop.time())):
        try:
            report = await worker.stub.Status(agent_pb2.AgentStatusRequest(), timeout=patience)
        except grpc.aio.AioRpcError:  # it may be busy, and if it is gone others notice sooner
            pass
        else:
            pulses.answered(report.pulse, loop.time())
            tell(report)
        await asyncio.sleep(every_seconds)
    worker.kill(verdict)
