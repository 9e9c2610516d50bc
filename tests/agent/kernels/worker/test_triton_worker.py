"""A worker on a CUDA device, from the checkpoint to the answer, where there may be none: on one
that stands in for it (see the conftest), and in the last test on a real one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import transformers
from torch import Tensor

from lite_llm.checkpoint import ConvertOptions, TierRule, TierRules, convert
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidSettings, OutOfMemory
from lite_llm.engine import device
from lite_llm.engine.compute_thread import ComputeThread
from lite_llm.engine.served import ServingSettings
from lite_llm.engine.service import WorkerService
from lite_llm.kernels import warm_up
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.testing.checkpoints import Shape, tiny_llama, write_tokenizer
from lite_llm.wire import ref_to_proto

WAIT = 240.0  # seconds; for the machine's worst day
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="kernels are compiled: see the last test"
)
quiet = pytest.mark.filterwarnings("ignore:(invalid|overflow|divide|All-NaN).*:RuntimeWarning")


@asynccontextmanager
async def worker(
    settings: ServingSettings, enter: Callable[[], None] = warm_up
) -> AsyncIterator[WorkerService]:
    """``enter`` is called in each thread that touches tensors."""

    def prepare() -> None:
        warm_up()
        enter()

    # These assemble what was loaded.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=enter))
    with ComputeThread(prepare) as compute:
        service = WorkerService(compute, settings)  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        async with service:
            yield service


async def load(service: WorkerService, directory: Path) -> None:
    source = model_pb2.ModelSource(uri=str(directory))
    spec = model_pb2.ModelSpec(ref=ref_to_proto(ModelRef("default", "tiny")), source=source)
    async with asyncio.timeout(WAIT):
        request = agent_pb2.LoadRequest(spec=spec)
        async for _ in service.Load(request, cast(Any, None)):
            pass


async def answered(
    service: WorkerService, text: str, *, tiers: Sequence[str] = (), **sampling: Any
) -> list[Any]:
    """Tokens with their log probabilities."""
    start = generate_pb2.GenerateStart(text=text)
    start.tiers.tiers.extend(tiers)
    start.sampling.CopyFrom(generate_pb2.SamplingParameters(logprobs=1, **sampling))

    async def asking() -> AsyncIterator[generate_pb2.GenerateRequest]:
        yield generate_pb2.GenerateRequest(start=start)

    context = cast(Any, SimpleNamespace(add_done_callback=lambda call: None))
    told: list[Any] = []
    async with asyncio.timeout(WAIT):
        async for event in service.Generate(asking(), context):
            told += [(each.token_id, each.logprob) for each in event.tokens.logprobs]
    return told


def assert_alike(ours: list[Any], theirs: list[Any]) -> None:
    """The same tokens, about as likely."""
    assert [token for token, _ in ours] == [token for token, _ in theirs]
    likely, as_likely = ([number for _, number in each] for each in (ours, theirs))
    assert likely == pytest.approx(as_likely, abs=1e-3)


SHAPE = Shape(layers=1, hidden=32, ffn=48, heads=2, kv_heads=1, context=128)


@interpreted
@quiet
async def test_a_worker_serves_from_the_device_what_it_serves_from_the_processor(
    tmp_path: Path, stand_in: Any
) -> None:
    directory, told = tiny_llama(tmp_path, seed=2, shape=SHAPE), []
    for name in ("cpu", "cuda"):
        settings = ServingSettings(device=name, kv_bytes=1 << 20, kv_host_bytes=1 << 18)
        async with worker(settings, stand_in.enter) as service:
            await load(service, directory)
            loaded = cast(Any, service)._served._model.decoder
            assert loaded.weights.embedding().device.type == name
            assert loaded.weights.head().output_VD.device.type == name
            asked = [
                answered(service, text, max_tokens=3, **sampling)
                for text, sampling in (
                    ("the same", {"temperature": 0}),
                    ("another one", {"temperature": 0.9, "seed": 3, "repetition_penalty": 1.2}),
                )
            ]
            told.append(await asyncio.gather(*asked))
            if name == "cuda":
                assert stand_in.locked, "pages in host memory are locked for the device's copies"
    for ours, theirs in zip(*told, strict=True):
        assert_alike(ours, theirs)
    assert stand_in.captures.replayed > 0
    assert stand_in.locked == [], "and given back"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two tiers."""
    source = tmp_path_factory.mktemp("source")
    config = transformers.MixtralConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        sliding_window=None,
        initializer_range=0.2,
    )
    torch.manual_seed(3)
    transformers.MixtralForCausalLM(config).save_pretrained(source)
    write_tokenizer(source, vocab=320)
    near = TierRule(name="near", placement="hot", experts="0-2")
    far = TierRule(name="far", placement="warm", experts="3")
    directory = tmp_path_factory.mktemp("model") / "converted"
    for _ in convert(source, directory, ConvertOptions(tiers=TierRules([near, far]))):
        pass
    return directory


@interpreted
@quiet
async def test_a_mixture_and_a_request_of_some_tiers_run_on_the_device(
    mixture: Path, stand_in: Any
) -> None:
    told = []
    for name in ("cpu", "cuda"):
        async with worker(
            ServingSettings(device=name, kv_bytes=1 << 20), stand_in.enter
        ) as service:
            await load(service, mixture)
            near = answered(service, "the same", tiers=["near"], max_tokens=3, temperature=0)
            whole = answered(service, "the same", max_tokens=3, temperature=0)
            told.append(await asyncio.gather(near, whole))
    for ours, theirs in zip(*told, strict=True):
        assert_alike(ours, theirs)


async def test_a_gpu_that_is_not_there_is_said_and_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    async with worker(ServingSettings(device="cuda")) as service:
        with pytest.raises(InvalidSettings, match="sees no CUDA device"):
            await load(service, tiny_llama(tmp_path, seed=2, shape=SHAPE))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(InvalidSettings, match="cupy and triton is not installed"):
        device.opened("cuda")
    with pytest.raises(InvalidSettings, match="there is no device 'tpu'"):
        device.opened("tpu")


async def test_a_device_without_room_for_the_cache_says_so(
    tmp_path: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    async with worker(ServingSettings(device="cuda", kv_bytes=1 << 20)) as service:
        monkeypatch.setattr(torch, "zeros", refused)
        with pytest.raises(OutOfMemory, match=r"has no 1\.0 MiB left for the key-value cache"):
            await load(service, tiny_llama(tmp_path, seed=2, shape=SHAPE))


def test_the_cache_gets_what_weights_leave_of_the_device(stand_in: Any) -> None:
    cuda = torch.device("cuda", 0)
    assert device.room_for_pages(cuda) == 32 << 20, "half of what is free, where little is"
    torch.cuda.mem_get_info = lambda device: (40 << 30, 80 << 30)  # type: ignore[assignment,misc]  # undone by stand_in
    cuda = torch.device("cuda", 0)
    assert device.room_for_pages(cuda) == (40 << 30) - (3 << 30)


@pytest.mark.gpu
async def test_on_a_gpu_a_worker_serves_what_it_serves_from_the_processor(tmp_path: Path) -> None:
    directory, told = tiny_llama(tmp_path, seed=2), []
    for name in ("cpu", "cuda"):
        settings = ServingSettings(device=name, kv_bytes=1 << 24, kv_host_bytes=1 << 22)
        async with worker(settings) as service:
            await load(service, directory)
            asked = [
                answered(service, text, max_tokens=24, temperature=0)
                for text in ("the same", "another one", "and one more")
            ]
            told.append(await asyncio.gather(*asked))
    for ours, theirs in zip(*told, strict=True):
        assert_alike(ours, theirs)
