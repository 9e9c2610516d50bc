"""Who is left alone, for how long, and how often a request is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from lite_llm.dispatch import Breakers, breakers, breaking
from lite_llm.dispatch.budgets import FRUITLESS, PAUSES, RESERVE, RetryBudget, Tries
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.agent_pb2 import AgentStatus


@pytest.fixture
async def views(monkeypatch: pytest.MonkeyPatch) -> Observed[ClusterView]:
    monkeypatch.setattr(breakers, "OPEN_SECONDS", 0.05)
    return Observed(ClusterView())


@pytest.fixture
async def all_of_them(views: Observed[ClusterView]) -> AsyncIterator[Breakers]:
    with breaking(views) as made:
        yield made


def avoided(views: Observed[ClusterView]) -> list[str]:
    return sorted(views.value.avoided)


async def wait_lifted(views: Observed[ClusterView]) -> float:
    since = asyncio.get_running_loop().time()
    async with asyncio.timeout(20):
        await views.wait_until(lambda view: None if view.avoided else True)
    return asyncio.get_running_loop().time() - since


async def test_a_cut_line_opens_at_once_and_longer_each_time(
    views: Observed[ClusterView], all_of_them: Breakers
) -> None:
    waits = []
    for _ in range(3):
        all_of_them.severed("a", "reset")
        all_of_them.severed("a", "another stream on the same line")
        assert avoided(views) == ["a"]
        waits.append(await wait_lifted(views))
    assert waits[0] >= 0.04
    assert waits[1] >= 0.09
    assert waits[2] >= 0.19


async def test_faults_of_an_agent_that_answers_add_up(
    views: Observed[ClusterView], all_of_them: Breakers
) -> None:
    for _ in range(breakers.FAULTS - 1):
        all_of_them.failed("a", "garbage")
    all_of_them.succeeded("a")
    for _ in range(breakers.FAULTS - 1):
        all_of_them.failed("a", "garbage")
        assert avoided(views) == []
    all_of_them.failed("a", "garbage")
    assert avoided(views) == ["a"]


async def test_one_request_tries_before_the_others(
    views: Observed[ClusterView], all_of_them: Breakers
) -> None:
    all_of_them.severed("a", "reset")
    await wait_lifted(views)
    all_of_them.tried("a")
    assert avoided(views) == ["a"], "while it is tried, nobody else goes there"
    all_of_them.succeeded("a")
    assert avoided(views) == []
    all_of_them.tried("a")
    assert avoided(views) == [], "it is well"


async def test_a_trial_that_fails_opens_again(
    views: Observed[ClusterView], all_of_them: Breakers
) -> None:
    all_of_them.severed("a", "reset")
    await wait_lifted(views)
    all_of_them.tried("a")
    all_of_them.severed("a", "reset")
    assert avoided(views) == ["a"]
    assert await wait_lifted(views) < breakers.TRIAL_SECONDS


async def test_agents_that_are_gone_are_forgotten(
    views: Observed[ClusterView], all_of_them: Breakers
) -> None:
    views.set(replace(views.value, agents={"b": AgentStatus(node="b")}))
    all_of_them.failed("b", "it broke")
    for number in range(10):
        all_of_them.severed(f"a{number}", "the line was cut")
        await wait_lifted(views)
    assert len(all_of_them._breakers) == 2, "the last one, and the one that is there"


def test_a_request_is_sent_again_some_times_and_more_often_if_it_gets_on() -> None:
    tries = Tries(RetryBudget())
    assert [tries.pause(0) for _ in range(FRUITLESS + 1)] == [*PAUSES, None]
    tries = Tries(RetryBudget())
    assert all(tries.pause(tokens) == 0 for tokens in range(1, 20))


def test_a_sick_fleet_gets_no_second_load() -> None:
    budget = RetryBudget()
    sent_again = 0
    for _ in range(1000):
        tries = Tries(budget)
        while tries.pause(0) is not None:
            sent_again += 1
    assert 1000 <= sent_again <= 1000 + 1000 * 0.1 + RESERVE + 1
