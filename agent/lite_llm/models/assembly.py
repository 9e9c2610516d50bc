"""Stored bytes become blocks: tensors over the bytes themselves, unless they must be converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, TensorRecord
from lite_llm.models.architecture import Expert, Norms
from lite_llm.models.inventory import FLOATS, STORED_DTYPES, Inventory, Piece
from lite_llm.models.weights import Head, Layer

Views = Mapping[str, memoryview]
"""Bytes of tensors by name."""


def assemble_embedding(inventory: Inventory, views: Views) -> Tensor:
    """``[V, D]``."""
    return _weight(inventory.embedding, views)


def assemble_layer(
    inventory: Inventory,
    number: int,
    views: Views,
    experts: Mapping[ExpertKey, Sequence[memoryview]],
) -> Layer:
    """Layer ``number``, over its tensors' bytes and its experts' parts in the manifest's order."""
    config = inventory.config.layers[number]
    tensors = {name: _weight(piece, views) for name, piece in inventory.layers[number].items()}

    def before(norms: Norms) -> Tensor:
        return tensors[f"{norms.before}.weight"]

    def after(norms: Norms) -> Tensor | None:
        return tensors.get(f"{norms.after}.weight")

    arrived = [
        _expert(record, experts[record.key], inventory.config.dtype)
        for record in inventory.experts[number]
    ]
    return Layer(
        attention=config.attention.build(_only(tensors, config.attention.weights())),
        ffn=config.ffn.build(_only(tensors, config.ffn.weights()), arrived),
        before_attention_D=before(config.attention_norms),
        after_attention_D=after(config.attention_norms),
        before_ffn_D=before(config.ffn_norms),
        after_ffn_D=after(config.ffn_norms),
    )


def assemble_head(inventory: Inventory, views: Views, embedding_VD: Tensor) -> Head:
    """The last norm and the output, which may be the embedding."""
    head = inventory.head
    output_VD = embedding_VD if head is None else _weight(head, views)
    return Head(_weight(inventory.norm, views), output_VD)


def tensor_of(view: memoryview, record: TensorRecord) -> Tensor:
    """The tensor over ``view``, which it keeps alive; nobody may write to it.

    Copied only where the bytes don't lie at a multiple of an element's size.
    """
    dtype = STORED_DTYPES[record.dtype]
    if not isinstance(view, memoryview):  # a device's memory, as an array that DLPack knows
        return from_dlpack(view).view(dtype).reshape(record.shape)
    # By way of DLPack, which has a flag for memory that is read-only; torch.frombuffer warns.
    words = np.frombuffer(view, dtype=f"u{dtype.itemsize}")
    if not words.flags.aligned:
        words = words.copy()
    return from_dlpack(words).view(dtype).reshape(record.shape)


def _weight(piece: Piece, views: Views) -> Tensor:
    stored = tensor_of(views[piece.record.name], piece.record)
    return stored[piece.begin : piece.end].to(piece.dtype)


def _expert(record: ExpertRecord, views: Sequence[memoryview], dtype: torch.dtype) -> Expert:
    parts = {}
    for part, view in zip(record.parts, views, strict=True):
        stored = tensor_of(view, part)
        converts = part.dtype in FLOATS and "scale" not in part.name
        parts[part.name] = stored.to(dtype) if converts else stored
    return Expert(record.key, record.router_row, parts)


def _only(tensors: Mapping[str, Tensor], wanted: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in wanted}
