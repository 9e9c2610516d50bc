"""The alerts: rules that Prometheus takes, that fire where they should, each with a page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lite_llm.telemetry import names
from lite_llm.telemetry.kinds import Histogram

REPO = Path(__file__).resolve().parents[2]
RULES = REPO / "charts" / "lite-llm" / "rules" / "alerts.yaml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
METRIC = re.compile(r"\b(?:lite_llm_|vllm:)\w+")


def promtool(*words: str) -> None:
    program = shutil.which("promtool") or str(REPO / ".venv" / "bin" / "promtool")
    assert Path(program).exists(), "no promtool: run make setup"
    result = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def exported() -> set[str]:
    """Names as queries have them."""
    found = set()
    for metric in names.METRICS:
        found.add(metric.name)
        if isinstance(metric, Histogram):
            found |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return found


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", str(RULES))


def test_each_alert_fires_where_it_should_and_only_there() -> None:
    tests = Path(__file__).with_name("alerts_test.yaml")
    promtool("test", "rules", str(tests))
    tried = tests.read_text()
    assert [alert["alert"] for alert in ALERTS if alert["alert"] not in tried] == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_each_alert_has_a_page_and_metrics_that_exist(alert: dict[str, Any]) -> None:
    page = REPO / "docs" / "runbooks" / Path(alert["annotations"]["runbook_url"]).name
    assert page.read_text().startswith(f"# {alert['alert']}\n")
    assert alert["expr"] in page.read_text()
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert set(METRIC.findall(alert["expr"])) <= exported()


def test_no_page_without_an_alert() -> None:
    pages = {page.name for page in (REPO / "docs" / "runbooks").glob("*.md")} - {"README.md"}
    assert pages == {Path(alert["annotations"]["runbook_url"]).name for alert in ALERTS}
