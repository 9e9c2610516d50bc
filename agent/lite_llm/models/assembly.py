"""Stored bytes become blocks: tensors over the bytes themselves, unless they must be converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, TensorRecord
from lite_llm.experts import (
    Bank,
    ExpertWeights,
    ResidentBank,
    converted,
    matrices_of,
    tensor_of,
)
from lite_llm.models.architecture import Norms
from lite_llm.models.inventory import Inventory, Piece
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
    experts: Bank,
) -> Layer:
    """Layer ``number``, over its tensors' bytes."""
    config = inventory.config.layers[number]
    tensors = {name: _weight(piece, views) for name, piece in inventory.layers[number].items()}

    def before(norms: Norms) -> Tensor:
        return tensors[f"{norms.before}.weight"]

    def after(norms: Norms) -> Tensor | None:
        return tensors.get(f"{norms.after}.weight")

    return Layer(
        attention=config.attention.build(_only(tensors, config.attention.weights())),
        ffn=config.ffn.build(_only(tensors, config.ffn.weights()), experts),
        before_attention_D=before(config.attention_norms),
        after_attention_D=after(config.attention_norms),
        before_ffn_D=before(config.ffn_norms),
        after_ffn_D=after(config.ffn_norms),
    )


def assemble_experts(
    inventory: Inventory, number: int, views: Mapping[ExpertKey, Sequence[memoryview]]
) -> ResidentBank:
    """All experts of layer ``number``, over their parts' bytes in the manifest's order."""
    by_row = sorted(inventory.experts[number], key=lambda record: record.router_row)
    dtype = inventory.config.dtype
    return ResidentBank([_expert(record, views[record.key], dtype) for record in by_row])


def assemble_head(inventory: Inventory, views: Views, embedding_VD: Tensor) -> Head:
    """The last norm and the output, which may be the embedding."""
    head = inventory.head
    output_VD = embedding_VD if head is None else _weight(head, views)
    return Head(_weight(inventory.norm, views), output_VD)


def _weight(piece: Piece, views: Views) -> Tensor:
    stored = _tensor(views[piece.record.name], piece.record)
    return stored[piece.begin : piece.end].to(piece.dtype)


def _expert(record: ExpertRecord, views: Sequence[memoryview], dtype: torch.dtype) -> ExpertWeights:
    parts = {
        part.name: converted(_tensor(view, part), part.name, dtype)
        for part, view in zip(record.parts, views, strict=True)
    }
    return matrices_of(parts, dtype)


def _tensor(view: memoryview, record: TensorRecord) -> Tensor:
    return tensor_of(view, record.shape, record.dtype)


def _only(tensors: Mapping[str, Tensor], wanted: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in wanted}
