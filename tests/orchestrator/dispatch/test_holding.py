"""Requests that wait for a model: how many, at what price, and who is sent away."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import replace

import aiohttp
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Overloaded, WorkerCrashed
from lite_llm.dispatch import HoldLimits
from lite_llm.dispatch.holding import OVERHEAD_BYTES, HoldingRoom
from lite_llm.dispatch.setbacks import FIRST_SECONDS, MAX_SECONDS, Setbacks
from lite_llm.dispatch.timeline import Timeline, path_of, phase_name
from lite_llm.metastore import Store
from lite_llm.orchestrator import OrchestratorSettings, running
from lite_llm.proto.v1 import generate_pb2
from lite_llm.proto.v1.generate_pb2 import LoadProgress
from lite_llm.proto.v1.model_pb2 import Medium
from lite_llm.telemetry import Metrics
from lite_llm.testing.stub_agent import StubAgent

MODEL = ModelRef("default", "tiny")
HERD = 1000


@pytest.mark.usefixtures("model")
async def test_a_herd_on_a_model_at_zero_is_served_by_one_load(
    settings: OrchestratorSettings, store: Store, agent: StubAgent
) -> None:
    agent.may_load.clear()

    async def ask(http: aiohttp.ClientSession, stream: bool) -> int:
        body = {"model": "tiny", "prompt": "Count:", "stream": stream}
        async with http.post("/v1/completions", json=body) as response:
            assert b"one" in await response.read()
            return response.status

    async with (
        running(replace(settings, hold=HoldLimits(seconds=200)), store) as door,
        aiohttp.ClientSession(
            f"http://{door.http_address}", connector=aiohttp.TCPConnector(limit=0)
        ) as http,
    ):
        herd = [asyncio.create_task(ask(http, bool(number % 2))) for number in range(HERD)]
        async with asyncio.timeout(120):
            await agent.loading.wait()
        async with http.get("/metrics") as response:
            assert 'lite_llm_held_requests{model="default/tiny"}' in await response.text()
        agent.may_load.set()
        assert await asyncio.gather(*herd) == [200] * HERD
    assert len(agent.loads) == 1
    assert len(agent.generations) == HERD


@pytest.mark.usefixtures("model")
async def test_beyond_the_bound_clients_are_told_when_to_come_back(
    settings: OrchestratorSettings, store: Store, agent: StubAgent
) -> None:
    agent.may_load.clear()
    small = replace(settings, hold=HoldLimits(requests=3))
    async with (
        running(small, store) as door,
        aiohttp.ClientSession(f"http://{door.http_address}") as http,
    ):

        async def ask(**fields: object) -> tuple[int, str]:
            body = {"model": "tiny", "prompt": "Count:", **fields}
            async with http.post("/v1/completions", json=body) as response:
                await response.read()
                return response.status, response.headers.get("Retry-After", "")

        held = [asyncio.create_task(ask()) for _ in range(3)]
        await agent.loading.wait()
        while True:
            async with http.get("/metrics") as response:
                if 'held_requests{model="default/tiny"} 3.0' in await response.text():
                    break
        assert await ask() == (429, "5")
        assert await ask(stream=True) == (429, "5")
        agent.may_load.set()
        assert [status for status, _ in await asyncio.gather(*held)] == [200] * 3
        assert (await ask())[0] == 200
        async with http.get("/metrics") as response:
            assert 'held_rejected_total{reason="count"} 2.0' in await response.text()


def place(
    room: HoldingRoom, tenant: str = "a", size: int = 0, begun: bool = False
) -> AbstractContextManager[None]:
    return room.place(MODEL, tenant, size, has_begun=begun, remaining_seconds=12.0)


def test_the_room_is_bounded_by_count_tenant_and_bytes() -> None:
    limits = HoldLimits(requests=3, tenant_requests=2, num_bytes=10 * OVERHEAD_BYTES)
    room = HoldingRoom(limits, Metrics())
    held = [place(room), place(room)]
    for each in held:
        each.__enter__()
    with pytest.raises(Overloaded, match="of this tenant") as caught, place(room):
        pass
    assert caught.value.retry_after == 12.0
    with pytest.raises(Overloaded, match="bytes"), place(room, "b", 9 * OVERHEAD_BYTES):
        pass
    with (
        place(room, "b"),
        place(room, begun=True),
        pytest.raises(Overloaded, match="3 requests"),
        place(room, "c"),
    ):
        pass
    for each in held:
        each.__exit__(None, None, None)
    with place(room, size=8 * OVERHEAD_BYTES):
        pass


def test_a_broken_model_is_left_alone_for_longer_and_longer() -> None:
    now = 0.0
    setbacks = Setbacks(lambda: now)
    setbacks.check(MODEL, 1)
    waits = []
    for _ in range(9):
        setbacks.failed(MODEL, 1, WorkerCrashed("broken", where="n1", remedy="mend it"))
        with pytest.raises(WorkerCrashed, match="broken") as caught:
            setbacks.check(MODEL, 1)
        waits.append(caught.value.retry_after)
        now += caught.value.retry_after
        setbacks.check(MODEL, 1)
    assert waits[0] == FIRST_SECONDS
    assert waits == sorted(waits)
    assert waits[-1] == MAX_SECONDS
    setbacks.failed(MODEL, 1, WorkerCrashed("broken"))
    setbacks.check(MODEL, 2)
    setbacks.failed(MODEL, 2, WorkerCrashed("broken"))
    setbacks.succeeded(MODEL)
    setbacks.check(MODEL, 2)


def test_a_timeline_adds_up() -> None:
    now = 0.0
    timeline = Timeline(lambda: now)
    for phase in (generate_pb2.LOAD_PHASE_READ, generate_pb2.LOAD_PHASE_READ,
                  generate_pb2.LOAD_PHASE_INIT):  # fmt: skip
        now += 2.0
        timeline.saw(LoadProgress(phase=phase))
    now += 1.0
    told = timeline.told()
    seconds = {phase_name(each.phase): each.seconds for each in told.phases}
    assert seconds == {"queue": 2.0, "read": 4.0, "init": 1.0}
    timeline.saw(LoadProgress(phase=generate_pb2.LoadPhase.ValueType(99)))
    now += 3.0
    seconds = {phase_name(each.phase): each.seconds for each in timeline.told().phases}
    assert seconds["init"] == 4.0, "a phase of a newer agent counts to the one before it"
    media = (Medium.MEDIUM_DRAM, Medium.MEDIUM_NVME, Medium.MEDIUM_UNSPECIFIED)
    assert [path_of(medium) for medium in media] == ["hot", "warm", "cold"]
