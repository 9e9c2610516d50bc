"""Plans: every byte wanted is read once, in execution order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lite_llm.contracts.manifest import FileRecord, Manifest, Span, TensorRecord
from lite_llm.tiers import EMBEDDINGS, LoadPlan, plan_load
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.plan import plan_expert, stage_of


def assert_sound(plan: LoadPlan) -> None:
    """Each chunk of each run is in exactly one request, and each stage knows all it needs."""
    cells = [(request.run, chunk) for request in plan.requests for chunk in request.chunks]
    assert len(cells) == len(set(cells))
    assert set(cells) == {(n, chunk) for n, run in enumerate(plan.runs) for chunk in run.chunks}
    assert [request.stage for request in plan.requests] == sorted(r.stage for r in plan.requests)
    for stage in plan.stages:
        have = {
            (plan.requests[need].run, chunk)
            for need in stage.needs
            for chunk in plan.requests[need].chunks
        }
        for span in stage.spans:
            number, offset = plan.place(span)
            run = plan.runs[number]
            assert run.start + offset == span.offset
            chunks = Chunks(run.file).covering(span.offset, span.length)
            assert {(number, chunk) for chunk in chunks} <= have


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("model.embed_tokens.weight", EMBEDDINGS),
        ("transformer.wte.weight", EMBEDDINGS),
        ("model.layers.0.mlp.up_proj.weight", 0),
        ("transformer.h.11.attn.weight", 11),
        ("model.language_model.layers.7.self_attn.rotary_emb.inv_freq", 7),
        ("model.norm.weight", 12),
        ("lm_head.weight", 12),
    ],
)
def test_stages_by_name(name: str, stage: int) -> None:
    assert stage_of(name, 12) == stage


def test_a_whole_model_is_one_run_a_file_in_execution_order(checkpoint: Any) -> None:
    plan = plan_load(checkpoint.manifest)
    assert_sound(plan)
    assert [run.file.name for run in plan.runs] == ["dense.bin", "experts.bin"]
    assert [stage.index for stage in plan.stages] == [EMBEDDINGS, 0, 1, 2, 3]
    assert plan.num_bytes == checkpoint.manifest.num_bytes


def test_one_expert_is_one_request_of_little_more_than_its_size(checkpoint: Any) -> None:
    for record in checkpoint.manifest.experts:
        plan = plan_load(checkpoint.manifest, dense=False, wants_expert={record.key}.__contains__)
        assert_sound(plan)
        assert len(plan.requests) == 1
        assert plan.num_bytes <= record.num_bytes + 2 * 4096 + 2 * (64 << 10)


def test_parts_of_a_model_leave_out_what_lies_between(
    make_checkpoint: Callable[..., Any],
) -> None:
    manifest = make_checkpoint(experts=16).manifest
    plan = plan_load(manifest, dense=False, wants_expert=lambda key: key.expert in {0, 15})
    assert_sound(plan)
    assert len(plan.runs) == 4  # the end of one layer touches the start of the next
    assert plan.num_bytes < manifest.file_by_name["experts.bin"].num_bytes


def test_layers_are_read_in_pieces_smaller_for_the_first_and_tiny_ones_share_chunks() -> None:
    file = FileRecord("f", 40 << 20, chunk_bytes=1 << 20, chunk_checksums=(0,) * 40)
    tensors = tuple(
        TensorRecord(f"model.layers.{n}.w", Span("f", offset, length), (length,), "U8")
        for n, (offset, length) in enumerate(
            [(0, 5 << 20), (5 << 20, 30 << 20), (35 << 20, 100), ((35 << 20) + 100, 100)]
        )
    )
    plan = plan_load(Manifest(model="m", architecture={}, files=(file,), tensors=tensors))
    assert_sound(plan)
    assert [request.num_bytes >> 20 for request in plan.requests] == [2, 2, 1, 8, 8, 8, 6, 1]
    assert plan.stage_by_index[2].needs == plan.stage_by_index[3].needs == {7}
    assert plan.num_bytes == 36 << 20


def test_one_layer_alone_is_read_in_large_pieces() -> None:
    file = FileRecord("f", 20 << 20, chunk_bytes=1 << 20, chunk_checksums=(0,) * 20)
    tensors = (TensorRecord("model.layers.3.w", Span("f", 0, 20 << 20), (20 << 20,), "U8"),)
    plan = plan_load(Manifest(model="m", architecture={}, files=(file,), tensors=tensors))
    assert [request.num_bytes >> 20 for request in plan.requests] == [8, 8, 4]


def test_the_plan_for_one_expert_is_the_one_that_asks_for_it_alone(checkpoint: Any) -> None:
    for record in checkpoint.manifest.experts:
        alone = plan_load(checkpoint.manifest, dense=False, wants_expert={record.key}.__contains__)
        assert plan_expert(checkpoint.manifest, record.key) == alone


def test_layers_that_lie_out_of_order_are_read_in_order() -> None:
    file = FileRecord("f", 3 << 20, chunk_bytes=1 << 20, chunk_checksums=(0,) * 3)
    tensors = tuple(
        TensorRecord(f"model.layers.{layer}.w", Span("f", at << 20, 1 << 20), (1 << 20,), "U8")
        for at, layer in enumerate([1, 10, 2])
    )
    plan = plan_load(Manifest(model="m", architecture={}, files=(file,), tensors=tensors))
    assert_sound(plan)
    assert [request.chunks.start for request in plan.requests] == [0, 2, 1]


def test_a_tensor_without_elements_asks_for_nothing() -> None:
    file = FileRecord("f", 4096)
    empty = TensorRecord("model.layers.0.w", Span("f", 0, 0), (0,), "U8")
    plan = plan_load(Manifest(model="m", architecture={}, files=(file,), tensors=(empty,)))
    assert plan.runs == ()
    assert plan.stage_by_index[0].needs == frozenset()
