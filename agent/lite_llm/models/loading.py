"""Weights from safetensors files, layer by layer, each tensor checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.models.config import LlamaConfig, read_json
from lite_llm.models.llama import Layer, Llama

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
ITEM_BYTES: Final = {"F32": 4, "BF16": 2, "F16": 2}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Progress:
    """Bytes of weights read, of all that will be."""

    done_bytes: int
    total_bytes: int


def load_llama(directory: Path, config: LlamaConfig) -> Iterator[Progress | Llama]:
    """Read the weights of the checkpoint in ``directory``: progress per layer, then the model.

    Everything is checked against the headers before the first byte of weights is read:
    :class:`Corrupt` names the tensor or the file that is not as it must be.
    """
    layers = layer_shapes(config)
    with ExitStack() as files:
        source = _Checkpoint(directory, files)
        sizes = source.check(all_shapes(config), tied=config.tied)
        done, total = 0, sum(sizes.values())

        def read(names: Iterable[str]) -> list[Tensor]:
            nonlocal done
            tensors = []
            for name in names:
                # A copy: what stays mapped would be read from disk at the first token only.
                tensors.append(source.tensor(name).to(getattr(torch, config.dtype), copy=True))
                done += sizes[name]
            return tensors

        yield Progress(0, total)
        outer_names = outer_shapes(config)
        outer_tensors = dict(zip(outer_names, read(outer_names), strict=True))
        yield Progress(done, total)
        read_layers = []
        for number in range(config.num_layers):
            read_layers.append(Layer(*read(layer_tensor(number, name) for name in layers)))
            yield Progress(done, total)
    embedding_VD = outer_tensors[EMBEDDING]
    yield Llama(
        config,
        embedding_VD=embedding_VD,
        layers=read_layers,
        norm_D=outer_tensors[NORM],
        head_VD=outer_tensors.get(HEAD, embedding_VD),
    )


def all_shapes(config: LlamaConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of all tensors; lazily, for a hostile number of layers is no number."""
    yield from outer_shapes(config).items()
    for number in range(config.num_layers):
        for name, shape in layer_shapes(config).items():
            yield layer_tensor(number, name), shape


def outer_shapes(config: LlamaConfig) -> dict[str, Shape]:
    """Names and shapes of the tensors outside the layers."""
    vocab_by_hidden = (config.vocab_size, config.hidden_size)
    head = {} if config.tied else {HEAD: vocab_by_hidden}
    return {EMBEDDING: vocab_by_hidden, NORM: (config.hidden_size,), **head}


def layer_shapes(config: LlamaConfig) -> dict[str, Shape]:
    """Names within a layer and their shapes, in the order of :class:`Layer`'s fields."""
    hidden, ffn = config.hidden_size, config.ffn_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }


def layer_tensor(number: int, name: str) -> str:
    """The full name of a layer's tensor."""
    return f"model.layers.{number}.{name}.weight"


class _Checkpoint:
    """The files of a checkpoint and which tensor is in which."""

    def __init__(self, directory: Path, files: ExitStack) -> None:
        self._where: dict[str, tuple[Path, Any]] = {}
        for path in _shards(directory):
            try:
                file = files.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise _corrupt(f"{path} can't be read: {error}", str(path)) from error
            for name in file.keys():  # noqa: SIM118  not a dict: the file can't be iterated
                if name in self._where:
                    raise _corrupt(f"tensor {name} is in {path} and in another file", name)
                self._where[name] = path, file

    def check(self, expected: Iterable[tuple[str, Shape]], *, tied: bool) -> dict[str, int]:
        """Bytes of every expected tensor, if all are there and as they must be."""
        sizes = {name: self._checked_bytes(name, shape) for name, shape in expected}
        for name in sorted(self._where.keys() - sizes.keys()):
            # Copies of what is computed, and of a tied head, that older exporters left behind.
            if not (name.endswith(".rotary_emb.inv_freq") or (tied and name == HEAD)):
                raise _corrupt(f"tensor {name} belongs to no part of this architecture", name)
        return sizes

    def _checked_bytes(self, name: str, shape: Shape) -> int:
        if name not in self._where:
            raise _corrupt(f"tensor {name} is missing", name)
        path, file = self._where[name]
        header = file.get_slice(name)
        found, dtype = tuple(header.get_shape()), str(header.get_dtype())
        if found != shape:
            raise _corrupt(f"tensor {name} in {path} has shape {found}, not {shape}", name)
        if dtype not in ITEM_BYTES:
            raise Unsupported(
                f"tensor {name} in {path} has dtype {dtype}",
                where=name,
                remedy=f"convert it to one of {', '.join(ITEM_BYTES)}",
            )
        return math.prod(shape) * ITEM_BYTES[dtype]

    def tensor(self, name: str) -> Tensor:
        path, file = self._where[name]
        try:
            tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _corrupt(f"tensor {name} in {path} can't be read: {error}", name) from error
        return tensor


def _shards(directory: Path) -> list[Path]:
    if not (directory / INDEX).exists():
        return [directory / SINGLE]
    weight_map = read_json(directory / INDEX).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    # A name with a slash would reach outside of the checkpoint.
    if not names or any(not isinstance(name, str) or "/" in name for name in names):
        raise _corrupt(f"{directory / INDEX} has no valid weight_map", str(directory / INDEX))
    return [directory / name for name in sorted(set(names))]


def _corrupt(message: str, where: str) -> Corrupt:
    return Corrupt(message, where=where, remedy="fetch or convert the checkpoint again")
