"""A mixture of experts of random weights in our format, and one sequence to run through it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lite_llm.checkpoint import convert
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.kvcache import KvLayout

PAGE_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes; the experts are nearly all of it."""

    layers: int
    experts: int
    top_k: int
    hidden: int
    inner: int

    @property
    def expert_bytes(self) -> int:
        return 3 * self.hidden * self.inner * 2

    @property
    def num_bytes(self) -> int:
        """Of all experts."""
        return self.layers * self.experts * self.expert_bytes

    @property
    def config(self) -> dict[str, object]:
        """``config.json``."""
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "vocab_size": 512,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "hidden_act": "silu",
            "dtype": "bfloat16",
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "moe_intermediate_size": self.inner,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        }


def make_checkpoint(directory: Path, shape: Shape) -> Path:
    """In ``directory``, if it is not there yet, converted from Hugging Face's format."""
    target = directory / "converted"
    if (target / "checkpoint.idx").exists():
        return target
    source = directory / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(shape.config))
    random = np.random.default_rng(1)
    normal = torch.from_numpy(random.standard_normal(1 << 24, dtype=np.float32)).bfloat16()
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(_shards(shape)):
        name = f"model-{number:05}.safetensors"
        weight_map |= dict.fromkeys(tensors, name)
        _write(source / name, tensors, normal, random)
    index = {"metadata": {}, "weight_map": weight_map}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    for _ in convert(source, target):
        pass
    shutil.rmtree(source)
    return target


def _shards(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    hidden, inner = shape.hidden, shape.inner
    yield {"model.embed_tokens.weight": (512, hidden), "model.norm.weight": (hidden,)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        attention = {"q": (512, hidden), "k": (128, hidden), "v": (128, hidden), "o": (hidden, 512)}
        tensors: dict[str, tuple[int, ...]] = {
            f"{prefix}.self_attn.{name}_proj.weight": size for name, size in attention.items()
        }
        tensors |= {f"{prefix}.self_attn.{name}_norm.weight": (64,) for name in "qk"}
        tensors |= {
            f"{prefix}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")
        }
        tensors[f"{prefix}.mlp.gate.weight"] = (shape.experts, hidden)
        for expert in range(shape.experts):
            for name, size in (("gate", (inner, hidden)), ("up", (inner, hidden))):
                tensors[f"{prefix}.mlp.experts.{expert}.{name}_proj.weight"] = size
            tensors[f"{prefix}.mlp.experts.{expert}.down_proj.weight"] = (hidden, inner)
        yield tensors


def _write(
    path: Path, tensors: dict[str, tuple[int, ...]], normal: Tensor, random: np.random.Generator
) -> None:
    header: dict[str, object] = {}
    end = 0
    for name, size in tensors.items():
        start, end = end, end + 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for size in tensors.values():
            count = int(np.prod(size))
            at = int(random.integers(len(normal) - count))
            values = normal[at : at + count] * size[-1] ** -0.5 if len(size) > 1 else None
            ones = torch.ones(count, dtype=torch.bfloat16)
            file.write((ones if values is None else values).view(torch.int16).numpy().tobytes())


def forget(directory: Path) -> None:
    """Drop the files' pages from the page cache."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class Pages:
    """The cache of one sequence."""

    def __init__(self, layout: KvLayout, tokens: int) -> None:
        pages = -(-tokens // PAGE_TOKENS)
        self._pages_SN = torch.arange(pages, dtype=torch.int32)[None]
        self._kv = [
            PagedKv(
                torch.zeros((pages, each.kv_heads, PAGE_TOKENS, each.key_dim), dtype=layout.dtype),
                torch.zeros(
                    (pages, each.kv_heads, PAGE_TOKENS, each.value_dim), dtype=layout.dtype
                ),
            )
            for each in layout.layers
        ]

    def step(self, position: int) -> tuple[LayerPages, ...]:
        """For one row."""
        where = torch.tensor([position], dtype=torch.int32)
        rows = Rows(torch.zeros(1, dtype=torch.int32), where, self._pages_SN)
        return tuple(LayerPages(kv, rows) for kv in self._kv)
