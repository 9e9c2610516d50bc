"""The list of metrics keeps its own rules, and the words it shares with the contracts."""

import re

import pytest

from lite_llm.contracts import Medium, ModelState
from lite_llm.proto.v1 import generate_pb2
from lite_llm.telemetry import names, vllm_names
from lite_llm.telemetry.kinds import Counter, Histogram, Metric, Program

every_metric = pytest.mark.parametrize("metric", names.METRICS, ids=lambda metric: metric.name)


def test_names_are_unique() -> None:
    spelled = [metric.name for metric in names.METRICS]
    assert len(set(spelled)) == len(spelled) > 40


@every_metric
def test_a_name_says_whose_it_is(metric: Metric) -> None:
    pattern = r"vllm:[a-z0-9_]+" if metric in vllm_names.METRICS else r"lite_llm_[a-z0-9_]+"
    assert re.fullmatch(pattern, metric.name)


@every_metric
def test_a_name_ends_in_its_unit_and_only_counters_in_total(metric: Metric) -> None:
    stem = metric.name.removesuffix("_total") if isinstance(metric, Counter) else metric.name
    assert metric.unit in ("", "seconds", "bytes")
    assert stem.endswith(f"_{metric.unit}" if metric.unit else "")
    assert metric.unit or not stem.endswith(("_seconds", "_bytes"))
    if isinstance(metric, Counter):
        assert metric.name.endswith("_total")
    elif metric is not vllm_names.ITERATION_TOKENS:  # vLLM's own slip, which dashboards rely on
        assert not metric.name.endswith("_total")


@every_metric
def test_a_metric_is_described_and_exported(metric: Metric) -> None:
    assert metric.help.endswith(".")
    assert metric.programs
    labels = [label.name for label in metric.labels]
    assert len(set(labels)) == len(labels)
    for label in metric.labels:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", label.name)
        assert label.name not in ("le", "quantile", "other")
        assert len(set(label.values)) == len(label.values)


@every_metric
def test_listed_series_stay_few(metric: Metric) -> None:
    series = 1
    for label in metric.labels:
        series *= len(label.values) or 1
    assert series <= 200


@pytest.mark.parametrize(
    "metric", [m for m in names.METRICS if isinstance(m, Histogram)], ids=lambda m: m.name
)
def test_buckets_grow(metric: Histogram) -> None:
    assert len(metric.buckets) >= 10
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_cold_starts_are_resolved_at_their_targets_and_up_to_minutes() -> None:
    buckets = names.COLD_START_SECONDS.buckets
    assert {0.1, 2, 8, 15} <= set(buckets)
    assert max(buckets) >= 600


def test_words_are_those_of_the_contracts() -> None:
    assert [medium.name.lower() for medium in Medium] == list(names.MEDIA)
    assert [state.value.lower() for state in ModelState] == list(names.STATES)
    phases = [
        name.removeprefix("LOAD_PHASE_").lower() for name in generate_pb2.LoadPhase.keys()[1:]
    ]
    assert phases == list(names.PHASE.values)


def test_the_protocol_of_endpoint_pickers_is_complete() -> None:
    exported = {metric.name for metric in names.exported_by(Program.AGENT)}
    assert exported >= {
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
    }


def test_every_metric_is_exported_by_some_program_and_none_by_all_by_accident() -> None:
    lists = {program: set(names.exported_by(program)) for program in Program}
    assert set().union(*lists.values()) == set(names.METRICS)
    assert names.TIER_BYTES not in lists[Program.OPERATOR]
    assert names.HELD_REQUESTS not in lists[Program.AGENT]
