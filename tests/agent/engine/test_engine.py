"""The engine's door: many readers in the event loop, one compute thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from lite_llm.contracts.errors import Internal, Overloaded
from lite_llm.engine import Answering, Engine, Finished, Request, Step, StepLoop, Token
from lite_llm.engine import engine as engine_module
from lite_llm.engine.compute_thread import ComputeThread
from lite_llm.models import Decoder

WAIT = 60.0  # seconds; for the machine's worst day
Ask = Callable[..., Request]


@asynccontextmanager
async def serving(driver: Any) -> AsyncIterator[Engine]:
    with ComputeThread(lambda: None) as compute:
        engine = Engine(driver.steps)
        job = compute.submit(engine.run())
        yield engine
        engine.close()
        async with asyncio.timeout(WAIT):
            assert [item async for item in job] == []


async def whole(engine: Engine, request: Request) -> list[Step]:
    async with asyncio.timeout(WAIT):
        return [step async for step in engine.submit(request)]


async def until(engine: Engine, *, running: int, waiting: int) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            if (engine.running, engine.waiting) == (running, waiting):
                return
            await asyncio.sleep(0.01)


async def test_many_at_once_are_answered_as_each_alone(drive: Any, ask: Ask) -> None:
    requests = [ask(text, n=n) for text, n in (("one", 1), ("two", 3), ("three", 1))]
    alone = [drive().run(request)[0] for request in requests]
    async with serving(drive()) as engine:
        answers = await asyncio.gather(*(whole(engine, request) for request in requests))
        await until(engine, running=0, waiting=0)
    for answer, reader in zip(answers, alone, strict=True):
        for index in range(3):
            told = [step for step in answer if isinstance(step, Token) and step.index == index]
            assert told == reader.tokens(index)
        assert sum(isinstance(step, Finished) for step in answer) == len(reader.ends)


async def test_who_reads_late_gets_all_and_slows_down_nobody(
    drive: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "OUTBOX_STEPS", 6)
    driver = drive()
    async with serving(driver) as engine:
        late = engine.submit(ask(max_tokens=60))
        assert len(await whole(engine, ask("another", max_tokens=100))) == 103
        assert late.full
        assert late._num_put == 6
        async with asyncio.timeout(WAIT):
            told = [step async for step in late]
    assert [step for step in told if isinstance(step, Token)] == drive().run(ask(max_tokens=60))[
        0
    ].tokens()


async def test_a_paused_request_gives_way_to_one_that_waits(
    drive: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "OUTBOX_STEPS", 4)
    async with serving(drive(max_sequences=1)) as engine:
        unread = engine.submit(ask(max_tokens=60))
        assert len(await whole(engine, ask("another"))) == 27
        async with asyncio.timeout(WAIT):
            assert len([step async for step in unread]) == 63


async def test_a_pause_between_a_read_and_its_count_ends(
    drive: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "OUTBOX_STEPS", 4)
    driver = drive()
    engine = Engine(driver.steps)
    answering = engine.submit(ask())
    for number in range(3):
        answering.put(Token(0, number, ""))
        answering.deliver(Token(0, number, ""))
    woken: list[bool] = []
    monkeypatch.setattr(engine, "wake", lambda: woken.append(True))
    plain = Answering.__setattr__

    def late(self: Answering, name: str, value: Any) -> None:
        if name == "_num_read":  # the compute thread is quicker
            self._num_put += 1
            assert self.full
        plain(self, name, value)

    with monkeypatch.context() as patched:
        patched.setattr(Answering, "__setattr__", late)
        await anext(answering)
    assert not answering.full
    assert woken


async def test_a_large_request_is_let_in_when_nothing_waits(
    drive: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its sequences has a copy of the prompt."""
    large = ask(n=3, max_tokens=4)
    monkeypatch.setattr(engine_module, "QUEUE_BYTES", 3 * 8 * len(large.prompt) - 1)
    async with serving(drive(max_sequences=1)) as engine:
        running = engine.submit(ask(max_tokens=400))
        await anext(running)
        waiting = engine.submit(large)
        with pytest.raises(Overloaded):
            engine.submit(ask())
        running.cancel()
        async with asyncio.timeout(WAIT):
            assert len([step async for step in waiting]) == 2 + 3 * 5


@pytest.mark.parametrize("limit", ["QUEUE_REQUESTS", "QUEUE_BYTES"])
async def test_a_full_queue_says_when_to_come_back(
    drive: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    one = ask(max_tokens=400)
    size = 1 if limit == "QUEUE_REQUESTS" else engine_module.TOKEN_BYTES * len(one.prompt)
    monkeypatch.setattr(engine_module, limit, size)
    async with serving(drive(max_sequences=1)) as engine:
        running = engine.submit(one)
        assert await anext(running)
        waiting = engine.submit(one)
        with pytest.raises(Overloaded) as refused:
            engine.submit(one)
        assert refused.value.retry_after > 0
        assert refused.value.recoverable
        assert (engine.running, engine.waiting) == (1, 1)
        waiting.cancel()
        engine.submit(one).cancel()
        running.cancel()
        await until(engine, running=0, waiting=0)


async def test_cancelling_ends_reading_at_once(drive: Any, ask: Ask) -> None:
    driver = drive()
    async with serving(driver) as engine:
        answering = engine.submit(ask(max_tokens=400))
        seen = [await anext(answering) for _ in range(4)]
        answering.cancel()
        assert [step async for step in answering] == []
        assert answering.is_cancelled
        assert len(seen) == 4
        # The thread takes calls in order: what was cancelled is gone when this one is answered.
        await whole(engine, ask(max_tokens=1))
    assert not driver.steps._groups


async def test_a_request_that_fails_fails_alone(
    drive: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = Decoder.logits

    def broken(self: Decoder, hidden_RD: torch.Tensor) -> torch.Tensor:
        return unchanged(self, hidden_RD) * (torch.nan if sick.is_set() else 1.0)

    sick = asyncio.Event()
    monkeypatch.setattr(Decoder, "logits", broken)
    async with serving(drive()) as engine:
        sick.set()
        with pytest.raises(Internal, match="logits"):
            await whole(engine, ask())
        await until(engine, running=0, waiting=0)
        sick.clear()
        assert len(await whole(engine, ask())) == 27


async def test_closing_ends_every_answer(drive: Any, ask: Ask) -> None:
    async with serving(drive()) as engine:
        answering = engine.submit(ask(max_tokens=400))
        assert await anext(answering)
    assert [step async for step in answering] == []


async def test_a_broken_step_loop_is_told_to_whoever_watches(
    drive: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: StepLoop) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(StepLoop, "step", broken)
    with ComputeThread(lambda: None) as compute:
        engine = Engine(drive().steps)
        job: AsyncIterator[None] = compute.submit(engine.run())
        answering = engine.submit(ask())
        with pytest.raises(RuntimeError, match="a bug"):
            await anext(job)
        answering.cancel()


def test_the_thread_sleeps_while_there_is_nothing_to_do(drive: Any) -> None:
    driver = drive()

    async def idle() -> int:
        steps = 0
        unchanged = driver.steps.step

        def counted() -> bool:
            nonlocal steps
            steps += 1
            return bool(unchanged())

        driver.steps.step = counted
        async with serving(driver) as engine:
            for _ in range(3):
                engine.wake()
            await asyncio.sleep(0.2)
        return steps

    assert asyncio.run(idle()) <= 3
