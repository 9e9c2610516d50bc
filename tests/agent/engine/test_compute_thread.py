"""Jobs run one after another in one thread; the event loop reads them or lets them go."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from lite_llm.engine.compute_thread import ComputeThread

WAIT = 20.0  # seconds; generous, for nothing here takes any


def counting(upto: int, *, gate: threading.Event | None = None) -> Iterator[int]:
    for number in range(upto):
        if gate is not None:
            assert gate.wait(WAIT)
        yield number


async def test_items_arrive_in_order_from_the_prepared_thread() -> None:
    names = []
    with ComputeThread(lambda: names.append(threading.current_thread().name)) as compute:
        job = compute.submit(counting(100))
        assert [item async for item in job] == list(range(100))
        assert [item async for item in job] == []  # over is over
    assert names == ["compute_0"]


async def test_jobs_wait_for_their_turn() -> None:
    begun, gate = threading.Event(), threading.Event()

    def first_items() -> Iterator[int]:
        begun.set()
        yield from counting(2, gate=gate)

    with ComputeThread(lambda: None) as compute:
        first, second, third = map(compute.submit, (first_items(), counting(2), counting(2)))
        assert await asyncio.to_thread(begun.wait, WAIT)
        third.cancel()
        gate.set()
        assert [item async for item in first] == [0, 1]
        assert [item async for item in second] == [0, 1]
        assert [item async for item in third] == []
        assert third.cancelled


async def test_nobody_needs_to_read_a_job_for_the_next_to_run() -> None:
    with ComputeThread(lambda: None) as compute:
        compute.submit(counting(10_000))
        assert [item async for item in compute.submit(counting(3))] == [0, 1, 2]


async def test_cancel_ends_reading_at_once_and_work_before_the_next_item() -> None:
    taken: list[int] = []
    gate = threading.Event()

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number
            assert gate.wait(WAIT)

    with ComputeThread(lambda: None) as compute:
        job = compute.submit(items())
        assert await anext(job) == 0
        job.cancel()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(job), WAIT)
        gate.set()
        assert [item async for item in compute.submit(counting(1))] == [0]
    assert len(taken) <= 2


async def test_errors_belong_to_the_reader() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with ComputeThread(lambda: None) as compute:
        job = compute.submit(failing())
        assert await anext(job) == 1
        with pytest.raises(ValueError, match="broken"):
            await anext(job)
        assert [item async for item in compute.submit(counting(1))] == [0]


async def test_leaving_the_block_cancels_what_is_left() -> None:
    with ComputeThread(lambda: None) as compute:
        endless = compute.submit(iter(int, 1))
        queued = compute.submit(counting(3))
        assert await anext(endless) == 0
    assert endless.cancelled
    assert queued.cancelled
