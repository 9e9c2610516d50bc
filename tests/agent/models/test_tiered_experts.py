"""Experts that come as they are asked for: the bits of a model that has them all in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from tests.agent.models.tiered import (
    EXPERTS,
    LAYERS,
    SEQUENCES,
    SIZES,
    SLOT,
    TOP_K,
    Run,
    Save,
    resident,
    tiered,
)
from torch import Tensor
from transformers import AutoConfig

from lite_llm.checkpoint import ConvertOptions, convert, load_rules, open_checkpoint
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.contracts.tiers import Medium
from lite_llm.experts import (
    POLICIES,
    Activity,
    ExpertCache,
    ExpertMeasures,
    Trace,
)
from lite_llm.experts.events import Happening
from lite_llm.experts.replay import events_of
from lite_llm.models import (
    Decoder,
)
from lite_llm.models.moe import MoeBlock
from lite_llm.telemetry import Metrics, Program, names, render


def guess_wrong(decoder: Decoder) -> None:
    """Ask early, and with certainty, for what the next layer will not choose."""
    for number in range(LAYERS):
        block = decoder.weights.get(number).ffn
        assert isinstance(block, MoeBlock)
        ahead: Any = block.experts.ahead
        if (right := getattr(ahead, "_route", None)) is not None:

            def wrong(x_TD: Tensor, right: Any = right) -> Any:
                routed = right(x_TD)
                routed.experts_TK.add_(5).remainder_(EXPERTS)
                return routed

            ahead._route = wrong


def tear(decoder: Decoder, cache: ExpertCache) -> None:
    """Throw every other expert out of its slot whenever its layer's turn comes, in mid-step."""
    for number in range(LAYERS):
        block = decoder.weights.get(number).ffn
        assert isinstance(block, MoeBlock)

        def tear_some(layer: int, routed: object, packing: object) -> None:
            for expert in cache.numbers[layer][::2]:
                cache.evict(expert)

        block.experts.observers.append(tear_some)


MATRIX = [
    # hot and warm slots, apart or one pool, policy, prefetch, chunks
    (3, 8, True, "lru", "off", [5, 1, 3]),
    (3, 8, False, "nearest", "on", [5, 1, 3]),
    (TOP_K * LAYERS + 2, 64, True, "nearest", "on", [5, 1, 3]),
    (6, 9, True, "lfu", "wrong", [1]),
    (11, 12, True, "lfru", "on", [64]),
    (11, 12, False, "lfru", "wrong", [64]),
    (20, 30, True, "least-stale", "wrong", [7, 2]),
    (38, 8, True, "nearest", "off", [64]),
    (16, 20, False, "published", "on", [2]),
]


@pytest.mark.parametrize(("hot", "warm", "apart", "policy", "prefetch", "chunks"), MATRIX)
def test_the_bits_are_the_resident_model_s(
    checkpoint: Path,
    run: Run,
    hot: int,
    warm: int,
    apart: bool,
    policy: str,
    prefetch: str,
    chunks: list[int],
) -> None:
    expected = run(resident(checkpoint), SEQUENCES)
    logs = []
    for _ in range(2):  # as after a restart
        budgets: dict[str, Any] = {"hot_bytes": hot * SLOT, "warm_bytes": warm * SLOT}
        settings: dict[str, Any] = {
            "policy": POLICIES[policy],
            "prefetch": prefetch != "off",
            "log": True,
            "apart": apart,
        }
        with tiered(checkpoint, **budgets, **settings) as (decoder, cache):
            if prefetch == "wrong":
                guess_wrong(decoder)
            for torn in (False, True):  # with slots that are empty, and from which some were torn
                if torn:
                    tear(decoder, cache)
                found = run(decoder, SEQUENCES, chunks)
                assert all(map(torch.equal, found, expected))
            alone = run(decoder, SEQUENCES[1:2], chunks)
            assert torch.equal(alone[0], expected[1])
            assert cache.log is not None
            logs.append(cache.log.digest())
            hot_bytes, warm_bytes = cache.arena.budget_bytes, cache.fetcher.arena.budget_bytes
            assert hot_bytes + warm_bytes <= (hot + warm) * SLOT
            assert not apart or hot_bytes <= hot * SLOT
            assert warm_bytes <= warm * SLOT
            is_roomy = cache.table.num_slots >= EXPERTS * LAYERS
            held = EXPERTS * LAYERS if is_roomy else 0  # all are placed hot
            assert (cache.table.num_pinned, cache.fetcher.table.num_pinned) == (held, 0)
            assert sum(cache.fetcher.tally.fetched.values())
            if prefetch == "wrong" and hot > 6:
                assert cache.table.counts.prefetches
    assert logs[0] == logs[1], "two runs decide the same"


def test_a_directory_of_hugging_face_is_read_in_pieces(hugging_face: Path, run: Run) -> None:
    expected = run(resident(hugging_face), SEQUENCES)
    with tiered(hugging_face) as (decoder, cache):
        assert all(map(torch.equal, run(decoder, SEQUENCES, [4]), expected))
        assert cache.fetcher.tally.fetched[Medium.DRAM]


@pytest.mark.parametrize("is_converted", [False, True])
def test_experts_that_are_stored_otherwise_are_converted_on_their_way(
    save_model: Save, tmp_path: Path, run: Run, is_converted: bool
) -> None:
    sizes = {**SIZES, "num_local_experts": 6, "sliding_window": 7, "dtype": "bfloat16"}
    directory, _ = save_model(AutoConfig.for_model("gpt_oss", **sizes))  # interleaved, transposed
    if is_converted:
        *_, _ = convert(directory, tmp_path / "converted")
        directory = tmp_path / "converted"
    expected = run(resident(directory), SEQUENCES)
    with tiered(directory) as (decoder, _):
        assert all(map(torch.equal, run(decoder, SEQUENCES, [4]), expected))


def test_prompts_leave_what_decoding_uses_in_its_slots(checkpoint: Path, run: Run) -> None:
    decoding = [[5, 6, 7, 8, 9, 10, 11, 12]]
    with tiered(checkpoint, hot_bytes=20 * SLOT, prefetch=False) as (decoder, cache):
        for _ in range(3):
            run(decoder, decoding, [1])
        inside = {n for n in range(EXPERTS * LAYERS) if cache.table.find(n) is not None}
        run(decoder, [list(range(60, 120))], [64])
        assert inside <= {n for n in range(EXPERTS * LAYERS) if cache.table.find(n) is not None}


def test_a_tier_that_is_placed_hot_stays(hugging_face: Path, tmp_path: Path, run: Run) -> None:
    rules = tmp_path / "tiers.yaml"
    rules.write_text(
        "tiers:\n"
        '  - {name: hot, placement: hot, experts: "0-1", top_k_experts: 1}\n'
        "  - {name: rest, placement: warm, experts: rest, top_k_experts: 2}\n"
    )
    drawn = tmp_path / "drawn"
    *_, _ = convert(hugging_face, drawn, ConvertOptions(tiers=load_rules(rules)))
    expected = run(resident(drawn), SEQUENCES)
    with tiered(drawn, hot_bytes=(2 * LAYERS + 5) * SLOT) as (decoder, cache):
        assert cache.table.num_pinned == 2 * LAYERS
        assert all(map(torch.equal, run(decoder, SEQUENCES, [4]), expected))
        assert all((cache.table.find(n) is not None) == (n % EXPERTS < 2) for n in (0, 1, 12, 25))
        assert cache.table.num_pinned == 2 * LAYERS
    with tiered(drawn, hot_bytes=6 * SLOT) as (decoder, cache):
        assert cache.table.num_pinned == 0
        assert torch.equal(run(decoder, SEQUENCES[:1], [4])[0], expected[0])


def test_budgets_that_hold_too_few_are_refused(checkpoint: Path) -> None:
    too_small: list[dict[str, Any]] = [{"hot_bytes": 2 * SLOT}, {"warm_bytes": SLOT // 2}]
    for small in too_small:
        with pytest.raises(InvalidSettings, match="fewer than"), tiered(checkpoint, **small):
            pass


def test_what_was_asked_for_is_measured_and_traced(
    checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    with tiered(checkpoint, trace=tmp_path / "trace") as (decoder, cache):
        run(decoder, SEQUENCES, [5, 1])
        told = cache.where()
        metrics = Metrics(names.exported_by(Program.AGENT))
        ExpertMeasures(cache, metrics, "default/it").tell()
    text = render(metrics.registry)[0].decode()
    assert 'lite_llm_expert_demands_total{model="default/it",outcome="hit"}' in text
    assert 'lite_llm_expert_slots{model="default/it",state="capacity"} 14.0' in text
    assert [(layer, tier, len(media)) for layer, tier, media in told] == [
        (layer, 0, EXPERTS) for layer in range(LAYERS)
    ]
    media = b"".join(media for _, _, media in told)
    assert media.count(Medium.GPU) == cache.table.num_slots == 14
    assert media.count(Medium.DRAM)
    trace = Trace.read(tmp_path / "trace")
    assert trace.num_rows == sum(map(len, SEQUENCES))
    assert trace.experts_of_layer == dict.fromkeys(range(LAYERS), EXPERTS)


def test_thrash_and_starvation_are_told_with_a_remedy(checkpoint: Path, run: Run) -> None:
    metrics = Metrics(names.exported_by(Program.AGENT))
    with tiered(checkpoint, hot_bytes=4 * SLOT) as (decoder, cache):
        measures = ExpertMeasures(cache, metrics, "default/it")
        run(decoder, SEQUENCES[3:])  # one token, which leaves most experts alone
        run(decoder, SEQUENCES[3:])
        with capture_logs() as logs:
            measures.tell()
        unused = int((cache.table.uses_N == 0).sum())
    assert [log["remedy"] for log in logs if "not in the pool" in log["event"]]
    text = render(metrics.registry)[0].decode()
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if "default/it" in line)
    assert float(told['lite_llm_experts_starved{model="default/it"}']) == unused > 0
    assert float(told['lite_llm_expert_miss_share{model="default/it"}']) > 0.5
    for metric in (names.EXPERTS_STARVED, names.EXPERT_MISS_SHARE):
        assert metric.help


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_served_run_s_events_are_replayed(
    checkpoint: Path, tmp_path: Path, run: Run, prefetch: bool
) -> None:
    settings: dict[str, Any] = {"trace": tmp_path / "trace", "log": True, "prefetch": prefetch}
    with tiered(checkpoint, hot_bytes=17 * SLOT, **settings) as (decoder, cache):
        run(decoder, SEQUENCES, [7, 1])
        assert cache.log is not None
        assert bool(cache.table.counts.prefetches) == prefetch
        slots, policy = cache.table.num_slots, cache.settings.policy
    replayed = events_of(Trace.read(tmp_path / "trace"), policy, slots)
    assert [*replayed.lines()] == [*cache.log.lines()]
    assert Happening.EVICT in replayed.counts()
    assert events_of(Trace.read(tmp_path / "trace"), POLICIES["lru"], slots).events


def test_tiers_are_drawn_from_what_a_serving_model_recorded(
    checkpoint: Path, hugging_face: Path, tmp_path: Path, run: Run
) -> None:
    expected = run(resident(checkpoint), SEQUENCES)
    with tiered(checkpoint, trace=tmp_path / "trace") as (decoder, _):
        run(decoder, SEQUENCES)
    activity = Activity.of(Trace.read(tmp_path / "trace"))
    activity.write(tmp_path / "activations.json")
    rules = tmp_path / "tiers.yaml"
    rules.write_text(
        "activations: activations.json\n"
        "tiers:\n"
        "  - {name: hot, placement: hot, most_used: 4, top_k_experts: 1}\n"
        "  - {name: rest, placement: warm, experts: rest, top_k_experts: 2}\n"
    )
    drawn = tmp_path / "drawn"
    *_, _ = convert(hugging_face, drawn, ConvertOptions(tiers=load_rules(rules)))
    with open_checkpoint(drawn) as reader:
        hot = [record for record in reader.manifest.experts if record.key.tier == 0]
    for layer, counts in activity.counts.items():
        rows = {record.router_row for record in hot if record.key.layer == layer}
        assert len(rows) == 4
        assert min(counts[row] for row in rows) >= max(
            count for row, count in enumerate(counts) if row not in rows
        )
    with tiered(drawn, hot_bytes=(4 * LAYERS + 5) * SLOT) as (decoder, cache):
        assert cache.table.num_pinned == 4 * LAYERS
        assert all(map(torch.equal, run(decoder, SEQUENCES, [4]), expected))


def test_what_a_wave_runs_from_is_not_thrown_out_under_it(checkpoint: Path) -> None:
    with tiered(checkpoint) as (_, cache):
        experts = [*cache.numbers[1]][:3]
        for wanted in (experts, experts):  # the second time they have settled
            waves = [*cache.bring(1, wanted, ())]
        assert [wave.places for wave in waves] == [None]
        waves.clear()
        wave = cache.bring(1, experts, ())
        weights = next(wave).weights
        before = [each.gate.weight_NK.clone() for each in weights]
        for expert in experts:
            cache.evict(expert)
        for other in range(len(cache.numbers[2])):  # takes whatever is free
            cache.expect(2, [other], 1.0, 1)
        for job in [job for slot in cache.slots for job in slot.jobs]:
            job.wait()
        assert all(map(torch.equal, before, (each.gate.weight_NK for each in weights)))
        assert all(cache.table.find(expert) is not None for expert in experts)
        wave.close()
        cache.evict(experts[0])
        assert cache.table.find(experts[0]) is None
        del weights
