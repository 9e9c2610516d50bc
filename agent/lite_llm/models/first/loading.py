"""Weights from a checkpoint, layer by layer, each tensor checked before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from lite_llm.checkpoint import Reader
from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.contracts.manifest import Manifest, TensorRecord
from lite_llm.models.first.config import LlamaConfig
from lite_llm.models.first.llama import Layer, Llama
from lite_llm.models.loading import Progress

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
DTYPES: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

Shape = tuple[int, ...]


def load_llama(reader: Reader, config: LlamaConfig) -> Iterator[Progress | Llama]:
    """Read a checkpoint's weights: progress per layer, then the model.

    Everything is checked against the manifest before the first byte of weights is read:
    :class:`Corrupt` names the tensor or the file that is not as it must be. Bytes that have
    checksums are checked as they are read.
    """
    records = checked_records(reader.manifest, config, reader.directory)
    layers = layer_shapes(config)
    done, total = 0, sum(record.span.length for record in records.values())

    def read(names: Iterable[str]) -> list[Tensor]:
        nonlocal done
        tensors = []
        for name in names:
            record = records[name]
            stored = torch.frombuffer(reader.read_checked(record.span), dtype=DTYPES[record.dtype])
            tensors.append(stored.reshape(record.shape).to(getattr(torch, config.dtype)))
            done += record.span.length
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


def checked_records(
    manifest: Manifest, config: LlamaConfig, directory: Path
) -> dict[str, TensorRecord]:
    """The record of every tensor of the architecture, if all are there and as they must be."""
    found = manifest.tensor_by_name
    records = {}
    for name, shape in all_shapes(config):
        record = found.get(name)
        if record is None:
            raise _corrupt(f"tensor {name} of {directory} is missing", name)
        if record.shape != shape:
            raise _corrupt(
                f"tensor {name} in {record.span.file} has shape {record.shape}, not {shape}", name
            )
        if record.dtype not in DTYPES:
            raise Unsupported(
                f"tensor {name} in {record.span.file} has dtype {record.dtype}",
                where=name,
                remedy=f"convert it to one of {', '.join(DTYPES)}",
            )
        records[name] = record
    for name in sorted(found.keys() - records.keys()):
        # Copies of what is computed, and of a tied head, that older exporters left behind.
        if not (name.endswith(".rotary_emb.inv_freq") or (config.tied and name == HEAD)):
            raise _corrupt(f"tensor {name} belongs to no part of this architecture", name)
    return records


def _corrupt(message: str, where: str) -> Corrupt:
    return Corrupt(message, where=where, remedy="fetch or convert the checkpoint again")
