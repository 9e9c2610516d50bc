"""Where an agent loads a model from: what its spec names, or what ingestion made of that."""

from __future__ import annotations

from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource, ModelSpec

_OVER = (
    model_pb2.INGESTION_STATE_UNSPECIFIED,
    model_pb2.INGESTION_STATE_DONE,
    model_pb2.INGESTION_STATE_FAILED,
)


def source_to_load(spec: ModelSpec, ingestion: Ingestion | None) -> ModelSource:
    """The first place of an ingested checkpoint; the spec's own source if there is none of it."""
    if ingestion is None or ingestion.source != spec.source:
        return spec.source
    if ingestion.state != model_pb2.INGESTION_STATE_DONE or not ingestion.locations:
        return spec.source
    return ModelSource(uri=ingestion.locations[0])


def is_under_way(spec: ModelSpec, ingestion: Ingestion | None) -> bool:
    """Whether the spec's source is being brought in right now: a load should wait for it."""
    return (
        ingestion is not None and ingestion.source == spec.source and ingestion.state not in _OVER
    )


def loadable(spec: ModelSpec, ingestion: Ingestion | None) -> ModelSpec:
    """The spec as an agent gets it: with the source that it is to load from."""
    source = source_to_load(spec, ingestion)
    if source == spec.source:
        return spec
    moved = ModelSpec()
    moved.CopyFrom(spec)
    moved.source.CopyFrom(source)
    return moved
