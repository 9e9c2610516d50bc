"""What is said about a model follows from what is known of it."""

from dataclasses import replace

import pytest

from lite_llm.agent.residency import (
    Holding,
    residency_of,
    without_counts,
    words_for,
)
from lite_llm.contracts import Medium, ModelRef, ModelState
from lite_llm.proto.v1 import generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2 import Residency, TierResidency
from lite_llm.proto.v1.generate_pb2 import LoadProgress

SERVING = Holding(
    ref=ModelRef("default", "tiny"),
    state=ModelState.ACTIVE,
    reason="serving",
    medium=Medium.GPU,
    weight_bytes=7,
    running=1,
    waiting=2,
    generation=3,
    context_tokens=512,
    kv_hit_rate=0.25,
    digest="ab",
)


def test_everything_is_told() -> None:
    medium = model_pb2.MEDIUM_GPU
    assert residency_of(SERVING, "node-1") == Residency(
        model=model_pb2.ModelRef(namespace="default", name="tiny"),
        node="node-1",
        state=model_pb2.MODEL_STATE_ACTIVE,
        nearest=medium,
        tiers=[TierResidency(tier="dense", medium=medium, bytes=7)],
        running_requests=1,
        waiting_requests=2,
        reason="serving",
        observed_generation=3,
        context_tokens=512,
        kv_hit_rate=0.25,
        checkpoint_digest="ab",
    )


def test_what_is_not_here_has_no_tiers() -> None:
    far = residency_of(replace(SERVING, medium=Medium.OBJECT_STORE), "n")
    assert far.nearest == model_pb2.MEDIUM_OBJECT_STORE
    assert not far.tiers
    assert residency_of(replace(SERVING, medium=Medium.NVME), "n").tiers


def test_counts_alone_are_not_worth_a_write() -> None:
    told = residency_of(SERVING, "n")
    busier = residency_of(replace(SERVING, running=5, waiting=0), "n")
    crashed = residency_of(replace(SERVING, state=ModelState.RECOVERING), "n")
    assert told != busier
    assert without_counts(told) == without_counts(busier)
    assert without_counts(told) != without_counts(crashed)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (LoadProgress(phase=generate_pb2.LOAD_PHASE_QUEUE), "cold: queued"),
        (LoadProgress(phase=generate_pb2.LOAD_PHASE_SCHEDULE), "cold: asking s3 what there is"),
        (
            LoadProgress(
                phase=generate_pb2.LOAD_PHASE_FETCH,
                done_bytes=3 << 20,
                total_bytes=4 << 20,
                remaining_seconds=12.3,
            ),
            "cold: fetching 3.0 MiB of 4.0 MiB from s3, 12 s left",
        ),
        (
            LoadProgress(
                phase=generate_pb2.LOAD_PHASE_READ,
                done_bytes=3 << 20,
                total_bytes=4 << 20,
                remaining_seconds=12.3,
            ),
            "cold: reading 3.0 MiB of 4.0 MiB from disk, 12 s left",
        ),
        (
            LoadProgress(phase=generate_pb2.LOAD_PHASE_READ, total_bytes=9, remaining_seconds=-1),
            "cold: reading 0 B of 9 B from disk",
        ),
        (LoadProgress(phase=generate_pb2.LOAD_PHASE_INIT), "warm: preparing the engine"),
    ],
)
def test_words_for_people(progress: LoadProgress, words: str) -> None:
    assert words_for(progress, "s3") == words
