"""Probes: thresholds, defaults, ports by name."""

from typing import Any

import pytest

from lite_llm.testing.kubelet.probes import Probe, Verdict, port_number


def probe(**given: Any) -> Probe:
    found = Probe.of({"livenessProbe": {"tcpSocket": {"port": 1}, **given}}, "livenessProbe")
    assert found
    return found


def test_defaults_are_those_of_kubernetes() -> None:
    assert probe() == Probe("tcpSocket", {"port": 1}, 0.0, 10.0, 1.0, 1, 3, None)
    assert Probe.of({"livenessProbe": {"exec": {"command": []}}}, "readinessProbe") is None
    given = probe(initialDelaySeconds=5, periodSeconds=2, timeoutSeconds=4, failureThreshold=1)
    assert given == Probe("tcpSocket", {"port": 1}, 5.0, 2.0, 4.0, 1, 1, None)
    assert probe(terminationGracePeriodSeconds=0).grace == 0.0


@pytest.mark.parametrize(
    ("at_first", "outcomes", "passed"),
    [
        (False, "+", "n"),
        (False, "++", "ny"),
        (False, "+-++", "nnny"),
        (True, "---", "yyn"),
        (True, "--+---", "yyyyyn"),
        (True, "---+-++", "yynnnny"),
    ],
)
def test_a_verdict_turns_at_its_threshold(at_first: bool, outcomes: str, passed: str) -> None:
    twice_up_thrice_down = probe(successThreshold=2, failureThreshold=3)
    verdict, seen = Verdict(at_first), ""
    for outcome in outcomes:
        verdict = verdict.after(outcome == "+", twice_up_thrice_down)
        seen += "y" if verdict.passed else "n"
    assert seen == passed


def test_enough_failures_in_a_row_end_the_container() -> None:
    given, verdict = probe(failureThreshold=2), Verdict(True)
    fates = []
    for outcome in (False, True, False, False):
        verdict = verdict.after(outcome, given)
        fates.append(verdict.failed(given))
    assert fates == [False, False, False, True]


def test_ports_have_numbers_or_names() -> None:
    container = {
        "name": "main",
        "ports": [{"containerPort": 1}, {"name": "http", "containerPort": 80}],
    }
    assert port_number(8080, container) == 8080
    assert port_number("8080", container) == 8080
    assert port_number("http", container) == 80
    with pytest.raises(ValueError, match="main has no port called grpc"):
        port_number("grpc", container)
