"""Where an agent loads from: one table."""

from __future__ import annotations

import pytest

from lite_llm.placement.sources import is_under_way, loadable, source_to_load
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource, ModelSpec

HUB, OTHER = ModelSource(uri="hf://a/b"), ModelSource(uri="hf://a/c")
SPEC = ModelSpec(source=HUB, generation=3)


def ingestion(state: int, source: ModelSource = HUB, *locations: str) -> Ingestion:
    number = model_pb2.IngestionState.ValueType(state)
    return Ingestion(source=source, state=number, locations=locations)


DONE, FAILED = model_pb2.INGESTION_STATE_DONE, model_pb2.INGESTION_STATE_FAILED
FETCHING = model_pb2.INGESTION_STATE_FETCHING


@pytest.mark.parametrize(
    ("known", "uri", "waits"),
    [
        (None, "hf://a/b", False),
        (ingestion(DONE, HUB, "s3://x/b", "s3://y/b"), "s3://x/b", False),
        (ingestion(DONE, OTHER, "s3://x/c"), "hf://a/b", False),
        (ingestion(DONE), "hf://a/b", False),
        (ingestion(FETCHING), "hf://a/b", True),
        (ingestion(FETCHING, OTHER), "hf://a/b", False),
        (ingestion(FAILED), "hf://a/b", False),
    ],
)
def test_source(known: Ingestion | None, uri: str, waits: bool) -> None:
    assert source_to_load(SPEC, known).uri == uri
    assert is_under_way(SPEC, known) is waits
    assert loadable(SPEC, known).source.uri == uri
    assert loadable(SPEC, known).generation == 3
    assert SPEC.source.uri == "hf://a/b", "specs in the view are never changed"
