"""A model whose experts come as they are asked for runs while the rest of it arrives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from transformers import AutoConfig

from lite_llm.engine.model import arriving_model
from lite_llm.experts import ExpertSettings, Trace
from lite_llm.models import Weights
from lite_llm.testing.checkpoints import write_tokenizer
from lite_llm.tiers import Layer, Load

EXPERTS, LAYERS, TOP_K = 6, 3, 2
TOKENS = [3, 1, 4, 1, 5]


@pytest.fixture
def directory(save_model: Callable[..., tuple[Path, Any]]) -> Path:
    sizes: dict[str, Any] = {
        "vocab_size": 128,
        "hidden_size": 48,
        "intermediate_size": 20,
        "moe_intermediate_size": 20,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": EXPERTS,
        "num_experts_per_tok": TOP_K,
        "dtype": "bfloat16",
    }
    directory, _ = save_model(AutoConfig.for_model("qwen3_moe", **sizes))
    write_tokenizer(directory, vocab=128)
    return directory


async def test_a_step_that_begins_before_the_last_layer_is_there_is_traced_whole(
    directory: Path, tmp_path: Path, run: Callable[..., list[Tensor]], monkeypatch: Any
) -> None:
    held, is_asked = asyncio.Event(), threading.Event()
    deliver, get = Load.layer, Weights.get

    async def late(self: Load, index: int) -> Layer:
        if index == 1:
            await held.wait()
        return await deliver(self, index)

    def asked(self: Weights, index: int) -> Any:
        if index == 1:
            is_asked.set()
        return get(self, index)

    monkeypatch.setattr(Load, "layer", late)
    monkeypatch.setattr(Weights, "get", asked)
    settings = ExpertSettings(hot_bytes=1 << 20, warm_bytes=1 << 20, trace=tmp_path / "trace")
    async with arriving_model(directory, settings) as (model, _):
        step = asyncio.create_task(asyncio.to_thread(run, model.decoder, [TOKENS]))
        await asyncio.to_thread(is_asked.wait)
        held.set()
        await step
    trace = Trace.read(tmp_path / "trace")
    assert trace.num_rows == len(TOKENS)
    assert trace.demands.layer_D.tolist() == list(range(LAYERS))
