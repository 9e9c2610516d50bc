"""Which stored bytes become which weight, checked against the manifest before any is read. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod

import torch

from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.contracts.manifest import ExpertRecord, Manifest, TensorRecord
from lite_llm.experts import FLOATS, STORED_DTYPES
from lite_llm.models.architecture import DecoderConfig, LayerConfig, Weight
from lite_llm.models.moe import with_routing_seed

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")


@dataclass(frozen=True)
class Piece:
    """A weight: consecutive rows of a stored tensor, mostly all."""

    record: TensorRecord
    begin: int
    end: int
    dtype: torch.dtype
    """To compute with."""


@dataclass(frozen=True)
class Inventory:
    """A checkpoint that has all that a model needs, each tensor as it must be."""

    config: DecoderConfig
    manifest: Manifest
    """Of what is read: without leftovers and layers that don't run. Load by this one."""
    embedding: Piece
    norm: Piece
    head: Piece | None
    """None: the head is the embedding."""
    layers: tuple[Mapping[str, Piece], ...]
    """By the names of the layer's weights."""
    experts: tuple[tuple[ExpertRecord, ...], ...]
    """Of each layer, sorted by key."""

    @property
    def num_bytes(self) -> int:
        """That are read."""
        return self.dense_bytes + sum(expert.num_bytes for expert in self.manifest.experts)

    @property
    def dense_bytes(self) -> int:
        """Of what is no expert's."""
        return sum(record.span.length for record in self.manifest.tensors)


def take_inventory(manifest: Manifest, config: DecoderConfig) -> Inventory:
    """Find every weight of ``config``, whose routers get the checkpoint's seed.

    Raises :class:`Corrupt` naming the tensor that is missing, of another shape or belongs to no
    part of the model, and :class:`Unsupported` naming one of a type that is not implemented.
    """
    config = with_routing_seed(config, manifest.routing_seed)
    find = _Finder(manifest, config)
    by_hidden = (config.vocab_size, config.hidden_size)
    embedding = find.whole(EMBEDDING, Weight(by_hidden))
    layers = tuple(
        find.layer(number, _weights(layer, config.hidden_size))
        for number, layer in enumerate(config.layers)
    )
    norm = find.whole(NORM, Weight((config.hidden_size,)))
    head = None if config.tied else find.whole(HEAD, Weight(by_hidden))
    experts = tuple(_experts(manifest, config))
    for name in sorted(manifest.tensor_by_name.keys() - find.found):
        if not _is_left_over(name, config):
            raise _corrupt(f"tensor {name} belongs to no part of this architecture", name)
    read = replace(
        manifest,
        tensors=tuple(record for record in manifest.tensors if record.name in find.found),
        experts=tuple(chain.from_iterable(experts)),
    )
    return Inventory(config, read, embedding, norm, head, layers, experts)


class _Finder:
    def __init__(self, manifest: Manifest, config: DecoderConfig) -> None:
        self._records = manifest.tensor_by_name
        self._model = manifest.model
        self._dtype = config.dtype
        self.found: set[str] = set()
        self._stored_in = {
            weight: (tensor, weights)
            for tensor, weights in config.stored.items()
            for weight in weights
        }

    def whole(self, name: str, weight: Weight) -> Piece:
        record = self._record(name, weight.shape)
        return Piece(record, 0, weight.shape[0], weight.dtype or self._dtype)

    def layer(self, number: int, weights: Mapping[str, Weight]) -> dict[str, Piece]:
        prefix = f"model.layers.{number}."
        pieces = {}
        for name, weight in weights.items():
            base, _, kind = name.rpartition(".")
            if prefix + name in self._records or base not in self._stored_in:
                pieces[name] = self.whole(prefix + name, weight)
                continue
            tensor, parts = self._stored_in[base]
            rows = [weights[f"{part}.{kind}"].shape[0] for part in parts]
            begin = sum(rows[: parts.index(base)])
            shape = (sum(rows), *weight.shape[1:])
            record = self._record(f"{prefix}{tensor}.{kind}", shape)
            end = begin + weight.shape[0]
            pieces[name] = Piece(record, begin, end, weight.dtype or self._dtype)
        return pieces

    def _record(self, name: str, shape: tuple[int, ...]) -> TensorRecord:
        record = self._records.get(name)
        if record is None:
            raise _corrupt(f"tensor {name} of {self._model} is missing", name)
        if record.shape != shape:
            raise _corrupt(
                f"tensor {name} in {record.span.file} has shape {record.shape}, not {shape}", name
            )
        _check_dtype(record, name, FLOATS)
        self.found.add(name)
        return record


def _weights(layer: LayerConfig, hidden_size: int) -> dict[str, Weight]:
    attention, ffn = layer.attention.weights(), layer.ffn.weights()
    norms = (*layer.attention_norms.names, *layer.ffn_norms.names)
    width = Weight((hidden_size,))
    return {**attention, **ffn, **{f"{name}.weight": width for name in norms}}


def _experts(manifest: Manifest, config: DecoderConfig) -> Iterator[tuple[ExpertRecord, ...]]:
    by_layer: dict[int, list[ExpertRecord]] = defaultdict(list)
    for expert in sorted(manifest.experts, key=lambda expert: expert.key):
        by_layer[expert.key.layer].append(expert)
    if by_layer and (last := max(by_layer)) >= len(config.layers) + config.extra_layers:
        raise _corrupt(f"layer {last} has experts, but the model ends before it", f"layer {last}")
    for number, layer in enumerate(config.layers):
        for expert in by_layer[number]:
            for part in expert.parts:
                _check_dtype(part, f"{part.name} of expert {expert.key}", STORED_DTYPES)
        layer.ffn.check_experts(number, by_layer[number])
        yield tuple(by_layer[number])


def _check_dtype(record: TensorRecord, name: str, accepted: Iterable[str]) -> None:
    if record.dtype not in accepted:
        raise Unsupported(
            f"tensor {name} in {record.span.file} has dtype {record.dtype}",
            where=name,
            remedy=f"convert it to one of {', '.join(accepted)}",
        )
    num_bytes = prod(record.shape) * STORED_DTYPES[record.dtype].itemsize
    if record.span.length != num_bytes:
        raise _corrupt(f"tensor {name} has {record.span.length} bytes, not {num_bytes}", name)


def _is_left_over(name: str, config: DecoderConfig) -> bool:
    """Copies of what is computed or tied, left by older exporters, and layers that don't run."""
    match, layers = _LAYER.match(name), len(config.layers)
    if match is not None and layers <= int(match[1]) < layers + config.extra_layers:
        return True
    return name.endswith(".rotary_emb.inv_freq") or (config.tied and name == HEAD)


def _corrupt(message: str, where: str) -> Corrupt:
    return Corrupt(message, where=where, remedy="fetch or convert the checkpoint again")
