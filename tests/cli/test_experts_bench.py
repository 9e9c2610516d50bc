"""``lite-llm bench experts`` on a small trace: what is printed adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lite_llm.cli.app import app
from lite_llm.cli.experts_bench import parse_budgets
from lite_llm.contracts.errors import Corrupt, InvalidRequest, InvalidSettings
from lite_llm.experts.policies import policy_named
from lite_llm.experts.replay import events_of
from lite_llm.experts.traces import Trace
from lite_llm.experts.traces_synthetic import Statistics, synthetic_trace


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["bench", "experts", "--replay", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "small.trace"
    statistics = Statistics(layers=2, experts=8, top_k=2, sessions=1, tokens=30)
    synthetic_trace(statistics).write(path)
    return path


def test_scripts_get_every_count(trace: Path) -> None:
    told = json.loads(run(trace, "--policy", "all", "--budget", "25%,100%", "--json"))
    assert told["accesses"] == 30 * 2 * 2
    assert [budget["slots"] for budget in told["budgets"]] == [4, 16]
    for budget in told["budgets"]:
        assert {"nearest", "lru", "b2-layer-lru"} <= budget["policies"].keys()
        for found in budget["policies"].values():
            assert found["hits"] + found["misses"] == told["accesses"]
            assert found["hit_rate"] == found["hits"] / told["accesses"]
    best = told["budgets"][0]["belady_hit_rate"]
    nearest = told["budgets"][0]["policies"]["nearest"]
    assert nearest["of_belady"] == pytest.approx(nearest["hit_rate"] / best)


def test_people_see_a_line_for_each(trace: Path) -> None:
    head, titles, *lines = run(trace, "--budget", "25%", "--expert-bytes", "9MiB").splitlines()
    assert head.endswith("30 rows, 2 layers, 16 experts, 120 accesses")
    assert "of Belady" in titles
    assert lines[0].split()[1] == "(Belady)"
    assert [line.split()[0] for line in lines[1:]] == ["nearest", "lru"]
    assert "MiB" in lines[1]
    assert "1 layers ahead with a recall of 0.50" in run(
        trace, "--lookahead", "1", "--recall", "0.5"
    )


def test_what_cannot_be_meant_is_refused(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no file"):
        run(tmp_path)
    with pytest.raises(InvalidSettings, match="no policy 'fifo'"):
        run(trace, "--policy", "fifo")
    trace.write_bytes(trace.read_bytes()[:-1])
    with pytest.raises(Corrupt, match=r"small\.trace is not a trace"):
        run(trace)
    for budget in ("10", "101%", "", "-5%", "10%;20%"):
        with pytest.raises(InvalidRequest, match="not a share"):
            parse_budgets(budget)
    assert parse_budgets("10%, 12.5%,100%") == [0.1, 0.125, 1.0]


def test_what_a_serving_model_recorded_becomes_events_and_activations(
    trace: Path, tmp_path: Path
) -> None:
    events, activations = tmp_path / "events", tmp_path / "activations.json"
    run(trace, "--slots", "5", "--events", str(events), "--activations", str(activations))
    log = events_of(Trace.read(trace), policy_named("nearest"), 5)
    assert events.read_text().splitlines() == [*log.lines()]
    counts = json.loads(activations.read_text())
    assert sum(sum(layer) for layer in counts.values()) == 120
