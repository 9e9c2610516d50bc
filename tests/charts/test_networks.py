"""Default-deny, and exactly the connections that programs make."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

PORTS = {
    "operator": [8090],
    "orchestrator": [8080, 8081],
    "agent": [9000, 9001],
    "etcd": [2379, 2380, 2381],
}
DIALS = {
    ("operator", "etcd", 2379),
    ("orchestrator", "etcd", 2379),
    ("agent", "etcd", 2379),
    ("orchestrator", "agent", 9000),
    ("agent", "agent", 9000),
    ("etcd", "etcd", 2380),
}
"""Who of the release speaks to whom; clients may be anybody, and so ask orchestrators."""

Policy = dict[str, Any]


def labels(component: str) -> dict[str, str]:
    """Of a Pod of the release."""
    return {
        "app.kubernetes.io/name": "lite-llm",
        "app.kubernetes.io/instance": "llm",
        "app.kubernetes.io/component": component,
    }


def selects(selector: dict[str, Any], pod: dict[str, str]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= pod.items()


def permits(
    policies: list[Policy], direction: str, pod: dict[str, str], peer: dict[str, str], port: int
) -> bool:
    """Whether policies let ``pod`` have ``peer`` of its own namespace at a port, in a direction."""
    side = "from" if direction == "ingress" else "to"
    bound = [one["spec"] for one in policies if selects(one["spec"]["podSelector"], pod)]
    if not bound:
        return True
    return any(
        any(rule_port["port"] == port for rule_port in rule["ports"])
        and (
            side not in rule
            or any("podSelector" in one and selects(one["podSelector"], peer) for one in rule[side])
        )
        for spec in bound
        for rule in spec.get(direction, ())
    )


@pytest.fixture(scope="module")
def policies(render: Any) -> list[Policy]:
    return [one for one in render({}) if one["kind"] == "NetworkPolicy"]


def test_everything_is_denied_first(policies: list[Policy]) -> None:
    (deny,) = (one for one in policies if one["metadata"]["name"].endswith("default-deny"))
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny["spec"]
    assert "egress" not in deny["spec"]
    assert all(selects(deny["spec"]["podSelector"], labels(component)) for component in PORTS)
    assert all(one["spec"]["policyTypes"] == ["Ingress", "Egress"] for one in policies)


def test_programs_reach_whom_they_dial_and_nobody_else(policies: list[Policy]) -> None:
    reached = {
        (source, target, port)
        for source, target in itertools.product(PORTS, PORTS)
        for port in PORTS[target]
        if permits(policies, "egress", labels(source), labels(target), port)
        and permits(policies, "ingress", labels(target), labels(source), port)
    }
    assert reached == DIALS


def test_a_stranger_reaches_the_door_alone(policies: list[Policy]) -> None:
    stranger = {"app": "browser"}
    reached = {
        (target, port)
        for target, ports in PORTS.items()
        for port in ports
        if permits(policies, "ingress", labels(target), stranger, port)
    }
    assert reached == {("orchestrator", 8080), ("orchestrator", 8081)}


def test_agents_reach_no_api_server_and_the_operator_no_origin(render: Any) -> None:
    api, origin = ({"ipBlock": {"cidr": f"10.0.0.{number}/32"}} for number in (1, 2))
    values = {"networkPolicies": {"apiServer": [api], "origins": [origin], "clients": [api]}}
    policies = {
        one["metadata"]["labels"].get("app.kubernetes.io/component"): one["spec"]
        for one in render(values)
        if one["kind"] == "NetworkPolicy"
    }

    def outside(component: str) -> list[Any]:
        rules = policies[component]["egress"]
        return [peer for rule in rules for peer in rule.get("to", ()) if "ipBlock" in peer]

    assert outside("operator") == [api]
    assert outside("orchestrator") == [origin]
    assert outside("agent") == [origin]
    assert outside("etcd") == []
    assert policies["orchestrator"]["ingress"][0]["from"] == [api]
