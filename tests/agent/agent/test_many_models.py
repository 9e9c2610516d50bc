"""More models than memory: every request is answered, and no budget is exceeded.

Seconds of it run here; ``LITE_LLM_SOAK_SECONDS=120 pytest`` runs longer, with fifty models.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from lite_llm.agent import AgentSettings, running
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.wire import open_channel

SOAK_SECONDS = float(os.environ.get("LITE_LLM_SOAK_SECONDS", "0"))
MODELS, CLIENTS = (50, 6) if SOAK_SECONDS else (4, 3)
FIT = 3 if SOAK_SECONDS else 2
LEAST_REQUESTS = 8  # of all clients together
COST = 64 << 20
WAIT = 240.0 + SOAK_SECONDS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("checkpoint"), seed=5)


def model_of(number: int) -> model_pb2.ModelRef:
    return model_pb2.ModelRef(namespace="default", name=f"model-{number}")


async def test_models_take_turns(checkpoint: Path, tmp_path: Path) -> None:
    settings = AgentSettings(
        state_directory=tmp_path / "state",
        node="node-1",
        worker_threads=1,
        worker_bytes=COST,
        kv_bytes=1 << 20,
        memory_bytes=FIT * (COST + (3 << 20)) + COST,
        prefork=True,
        heartbeat_seconds=0.3,
        patience_seconds=3.0,
    )
    answers: dict[str, list[int]] = {}
    most_used = asked = 0
    ends_at = time.monotonic() + SOAK_SECONDS
    async with (
        asyncio.timeout(WAIT),
        open_store(StoreSettings()) as store,
        running(settings, store) as agent,
        open_channel(agent.grpc_address) as channel,
    ):
        stub = AgentStub(channel)
        for number in range(MODELS):  # declared: their bytes are here, none of them runs
            spec = model_pb2.ModelSpec(ref=model_of(number))
            spec.source.uri = str(checkpoint)
            request = agent_pb2.LoadRequest(spec=spec, target=model_pb2.MEDIUM_NVME)
            _ = [progress async for progress in stub.Load(request)]

        async def client(seed: int) -> None:
            nonlocal asked
            chance = random.Random(seed)
            while asked < LEAST_REQUESTS or time.monotonic() < ends_at:
                asked += 1
                name = model_of(chance.randrange(MODELS))
                sampling = generate_pb2.SamplingParameters(max_tokens=8, ignore_eos=True)
                start = generate_pb2.GenerateStart(
                    request_id=f"{seed}-{asked}", model=name, text="the same", sampling=sampling
                )
                call = stub.Generate(iter([generate_pb2.GenerateRequest(start=start)]))
                found = [token async for event in call for token in event.tokens.token_ids]
                assert len(found) == 8
                # One checkpoint under many names: whoever answers, the answer is the same.
                assert answers.setdefault("", found) == found

        async def look() -> None:
            nonlocal most_used
            async for report in stub.Watch(agent_pb2.AgentStatusRequest()):
                active = [
                    held
                    for held in report.residencies
                    if held.state == model_pb2.MODEL_STATE_ACTIVE
                ]
                assert len(active) <= FIT
                dram = report.status.media[0]
                assert dram.used_bytes <= dram.capacity_bytes
                most_used = max(most_used, len(active))

        looking = asyncio.create_task(look())
        async with asyncio.TaskGroup() as clients:
            for seed in range(CLIENTS):
                clients.create_task(client(seed))
        assert not looking.done(), "a budget was exceeded"
        looking.cancel()
        await asyncio.wait([looking])
    assert most_used == FIT


async def test_a_deleted_state_directory_is_made_again(checkpoint: Path, tmp_path: Path) -> None:
    settings = AgentSettings(
        state_directory=tmp_path / "state",
        cache_directory=tmp_path / "cache",
        node="node-1",
        worker_threads=1,
        prefork=False,
        kv_bytes=1 << 20,
    )
    async with (
        asyncio.timeout(WAIT),
        open_store(StoreSettings()) as store,
        running(settings, store) as agent,
        open_channel(agent.grpc_address) as channel,
    ):
        await asyncio.to_thread(shutil.rmtree, tmp_path / "state")
        spec = model_pb2.ModelSpec(ref=model_of(0))
        spec.source.uri = str(checkpoint)
        steps = [s async for s in AgentStub(channel).Load(agent_pb2.LoadRequest(spec=spec))]
        assert steps[-1].message == "serving"
