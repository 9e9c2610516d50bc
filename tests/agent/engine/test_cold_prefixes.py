"""Prefixes on disk: found again, waited for asleep, and no request is lost with them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lite_llm.engine import Engine, Request, Started, Step, Token
from lite_llm.engine.compute_thread import ComputeThread
from lite_llm.kvcache.page_file import PageFile

WAIT = 60.0  # seconds; for the machine's worst day
PAGES = 12  # a prompt of 70 tokens and its answer have six
Ask = Callable[..., Request]


@pytest.fixture(autouse=True)
def a_disk_that_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it may be slower than computing a tiny model's prefix anew."""
    monkeypatch.setattr("lite_llm.kvcache.mover._Pace.add", lambda pace, seconds: None)


@pytest.fixture
def cold(drive: Any, tmp_path: Path) -> Callable[..., Any]:
    """Makes drivers with a disk."""

    def new(**settings: int) -> Any:
        return drive(pages=PAGES, disk_pages=200, directory=tmp_path, **settings)

    return new


@pytest.fixture
def prompts(ask: Ask) -> list[Request]:
    """More than the device holds."""
    return [
        ask(prompt=range(first, first + 70), max_tokens=8, logprobs=2)
        for first in (2, 80, 150, 220)
    ]


@asynccontextmanager
async def serving(driver: Any) -> AsyncIterator[Engine]:
    with ComputeThread(lambda: None) as compute:
        engine = Engine(driver.steps)
        driver.kv.on_arrival = engine.wake
        job = compute.submit(engine.run())
        try:
            yield engine
        finally:  # or a test that fails waits for the thread for ever
            engine.close()
        async with asyncio.timeout(WAIT):
            assert [item async for item in job] == []


async def whole(engine: Engine, request: Request) -> list[Step]:
    async with asyncio.timeout(WAIT):
        return [step async for step in engine.submit(request)]


def tokens(steps: list[Step]) -> list[Token]:
    return [step for step in steps if isinstance(step, Token)]


def num_cached(steps: list[Step]) -> int:
    return next(step.num_cached for step in steps if isinstance(step, Started))


@pytest.mark.parametrize("host_pages", [0, 4])
async def test_what_comes_from_disk_is_what_was_computed(
    drive: Any, cold: Callable[..., Any], prompts: list[Request], host_pages: int
) -> None:
    alone = [drive().run(request)[0].tokens() for request in prompts]
    async with serving(cold(host_pages=host_pages)) as engine:
        for found in (0, 64):
            for request, expected in zip(prompts, alone, strict=True):
                steps = await whole(engine, request)
                assert tokens(steps) == expected
                assert num_cached(steps) == found
        at_once = await asyncio.gather(*(whole(engine, request) for request in prompts * 2))
        assert [tokens(steps) for steps in at_once] == alone * 2


async def test_who_waits_for_the_disk_sleeps_and_is_woken(
    cold: Callable[..., Any], prompts: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, read = threading.Event(), PageFile.read
    monkeypatch.setattr(PageFile, "read", lambda *a: (allowed.wait(WAIT), read(*a))[1])
    driver = cold()
    async with serving(driver) as engine:
        first, *others = [await whole(engine, request) for request in prompts]
        assert len(others) == 3
        answering = engine.submit(prompts[0])
        async with asyncio.timeout(WAIT):
            assert isinstance(await anext(answering), Started)
            short = replace(prompts[3], limits=replace(prompts[3].limits, max_tokens=4))
            assert len(tokens(await whole(engine, short))) == 4  # nobody else waits
            steps = engine.steps
            await asyncio.sleep(0.05)
            assert engine.steps <= steps + 2, "it turns in circles"
            allowed.set()
            assert tokens([step async for step in answering]) == tokens(first)


async def test_of_two_that_have_no_room_together_one_waits_for_the_other(
    drive: Any, cold: Callable[..., Any], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(prompt=range(first, first + 140), max_tokens=4) for first in (2, 60, 120)]
    alone = [drive().run(request)[0].tokens() for request in requests]
    read = PageFile.read

    def slow(*arguments: Any) -> None:
        time.sleep(0.002)
        read(*arguments)

    monkeypatch.setattr(PageFile, "read", slow)
    driver = cold()
    async with serving(driver) as engine:
        for request in requests:
            await whole(engine, request)
        told = await asyncio.gather(*(whole(engine, request) for request in requests[:2]))
    assert [tokens(steps) for steps in told] == alone[:2]
    assert driver.value("vllm:num_preemptions_total") == 0


@pytest.mark.parametrize("call", ["pwrite", "preadv"])
async def test_a_disk_that_fails_costs_time_and_no_answer(
    drive: Any,
    cold: Callable[..., Any],
    prompts: list[Request],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    alone = [drive().run(request)[0].tokens() for request in prompts]
    monkeypatch.setattr(os, call, refuse)
    with capture_logs() as logs:
        async with serving(cold()) as engine:
            for _ in range(3):
                for request, expected in zip(prompts, alone, strict=True):
                    assert tokens(await whole(engine, request)) == expected
    told = [line["event"] for line in logs]
    assert told.count("pages are not kept on disk") == (call == "pwrite")
    assert told.count("pages on disk are lost") == 1
    assert len(told) == len(set(told)), "one line each"
