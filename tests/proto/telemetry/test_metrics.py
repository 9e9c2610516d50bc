"""Metrics come out as declared, and nothing undeclared gets in."""

import re
import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from lite_llm.telemetry import Metrics, names, render, vllm_names
from lite_llm.telemetry.kinds import Counter, Gauge, Histogram, Label, Metric, Program
from lite_llm.telemetry.metrics import MAX_VALUE_LENGTH, OTHER

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"


def filled() -> Metrics:
    """Every declared metric with one value in it."""
    metrics = Metrics()
    for metric in names.METRICS:
        labels = {label.name: label.values[0] if label.values else "x" for label in metric.labels}
        match metric:
            case Counter():
                metrics[metric].labels(**labels).inc(3)
            case Histogram():
                metrics[metric].labels(**labels).observe(3)
            case Gauge():
                metrics[metric].labels(**labels).set(3)
    return metrics


def exposed_as(metric: Metric) -> set[str]:
    match metric:
        case Histogram():
            return {metric.name + suffix for suffix in ("_bucket", "_sum", "_count")}
        case _:
            return {metric.name}


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_every_metric_is_exposed_under_its_declared_name(accept: str, parse: object) -> None:
    body, _ = render(filled().registry, accept)
    assert callable(parse)
    samples = {sample.name for family in parse(body.decode()) for sample in family.samples}
    wanted = set().union(*(exposed_as(metric) for metric in names.METRICS))
    assert wanted <= samples
    ours = {name for name in samples if re.match(r"lite_llm_|vllm:", name)}
    assert {name for name in ours - wanted if not name.endswith("_created")} == set()


def test_the_content_type_follows_what_is_asked_for() -> None:
    registry = Metrics([names.HELD_BYTES]).registry
    text, text_type = render(registry)
    openmetrics, openmetrics_type = render(registry, OPENMETRICS)
    assert text_type.startswith("text/plain; version=0.0.4")
    assert openmetrics_type.startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.endswith(b"# EOF\n")
    assert b"# UNIT lite_llm_held_bytes bytes" in openmetrics
    assert b"# EOF" not in text
    assert render(registry, "nonsense; q=")[1] == text_type


def test_the_process_itself_is_measured() -> None:
    body, _ = render(Metrics([]).registry)
    assert b"process_resident_memory_bytes" in body


def test_registries_are_apart() -> None:
    one, other = Metrics(), Metrics()
    one[names.HELD_BYTES].labels().set(7)
    assert one.registry.get_sample_value("lite_llm_held_bytes") == 7
    assert other.registry.get_sample_value("lite_llm_held_bytes") == 0


def test_counters_of_listed_labels_start_at_zero() -> None:
    registry = Metrics().registry
    for reason in ("count", "bytes", "time"):
        labels = {"reason": reason}
        assert registry.get_sample_value("lite_llm_held_rejected_total", labels) == 0


def test_a_program_has_its_own_metrics_only() -> None:
    metrics = Metrics(names.exported_by(Program.OPERATOR))
    metrics[names.RECONCILE_ERRORS_TOTAL].labels(controller="model").inc()
    with pytest.raises(LookupError, match="lite_llm_held_bytes is not among"):
        metrics[names.HELD_BYTES]
    with pytest.raises(LookupError, match="vllm:num_requests_running"):
        metrics[vllm_names.NUM_REQUESTS_RUNNING]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({}, "has the labels"),
        ({"path": "cold"}, "has the labels"),
        ({"path": "cold", "outcome": "ok", "user": "eve"}, "has the labels"),
        ({"path": "tepid", "outcome": "ok"}, "'tepid' is not declared for the label 'path'"),
        ({"path": "cold", "outcome": ""}, "'' is not declared"),
    ],
)
def test_other_labels_are_refused(labels: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Metrics()[names.COLD_STARTS_TOTAL].labels(**labels)


def test_labels_are_refused_where_none_are_declared() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        Metrics()[names.HELD_BYTES].labels(model="x")


def test_invented_values_beyond_the_cap_are_other() -> None:
    metrics = Metrics(max_values=3)
    for number in range(10):
        metrics[names.TIME_TO_FIRST_TOKEN_SECONDS].labels(model=f"m{number}").observe(1)
    # One cap for a label wherever it stands, so that a model has one name in all metrics.
    metrics[names.HELD_REQUESTS].labels(model="m1").inc()
    metrics[names.HELD_REQUESTS].labels(model="m8").inc()
    registry = metrics.registry
    count = "lite_llm_time_to_first_token_seconds_count"
    assert [registry.get_sample_value(count, {"model": f"m{n}"}) for n in range(4)] == [
        1,
        1,
        1,
        None,
    ]
    assert registry.get_sample_value(count, {"model": OTHER}) == 7
    assert registry.get_sample_value("lite_llm_held_requests", {"model": "m1"}) == 1
    assert registry.get_sample_value("lite_llm_held_requests", {"model": OTHER}) == 1


def test_a_value_longer_than_any_name_is_other() -> None:
    metrics = Metrics()
    metrics[names.HELD_REQUESTS].labels(model="m" * (MAX_VALUE_LENGTH + 1)).inc()
    assert metrics.registry.get_sample_value("lite_llm_held_requests", {"model": OTHER}) == 1


def test_the_cap_holds_among_threads() -> None:
    metrics = Metrics(max_values=50)
    family = metrics[names.HELD_REQUESTS]

    def invent(offset: int) -> None:
        for number in range(200):
            family.labels(model=f"{offset + number}").inc()

    threads = [threading.Thread(target=invent, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    body, _ = render(metrics.registry)
    values = re.findall(rb'lite_llm_held_requests\{model="[^"]*"\} ([\d.]+)', body)
    assert len(values) == 51
    assert sum(map(float, values)) == 800


def test_a_model_that_is_gone_leaves_no_series() -> None:
    metrics = Metrics()
    for model in ("a", "b"):
        for state in ("warm", "active"):
            metrics[names.REPLICAS].labels(model=model, state=state).set(1)
    metrics[names.REPLICAS].remove(model="a")
    body, _ = render(metrics.registry)
    assert body.count(b'lite_llm_replicas{model="a"') == 0
    assert body.count(b'lite_llm_replicas{model="b"') == 2
    with pytest.raises(ValueError, match="no label 'user'"):
        metrics[names.REPLICAS].remove(user="eve")


def test_hostile_values_can_not_break_the_exposition() -> None:
    metrics = Metrics()
    hostile = 'x"} 1\nlite_llm_held_bytes 99\n\\'
    metrics[names.HELD_REQUESTS].labels(model=hostile).set(5)
    families = {family.name: family for family in parse_text(render(metrics.registry)[0].decode())}
    assert [sample.value for sample in families["lite_llm_held_bytes"].samples] == [0]
    assert families["lite_llm_held_requests"].samples[0].labels == {"model": hostile}


def test_a_metric_of_ones_own_list_works() -> None:
    own = Counter("lite_llm_x_total", "X.", frozenset({Program.AGENT}), (Label("y", ("z",)),))
    metrics = Metrics([own])
    metrics[own].labels(y="z").inc()
    assert metrics.registry.get_sample_value("lite_llm_x_total", {"y": "z"}) == 1
