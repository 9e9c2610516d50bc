"""Variables of containers: expansion, references and fields, as Kubernetes documents them."""

import base64
from typing import Any

import pytest

from lite_llm.testing.kubelet.environment import (
    Place,
    Sources,
    Unstartable,
    expand,
    pod_field,
    quantity,
    resource_field,
    variables_of,
)

POD: dict[str, Any] = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "u-1",
        "labels": {"app": "web", "tier/x": 'say "hi"\n'},
    },
    "spec": {"serviceAccountName": "seller", "containers": [{"name": "main"}]},
}
PLACE = Place("node-1", "198.18.0.2", "198.18.0.7", {"cpu": "8", "memory": "1Gi"})
SOURCES = Sources(
    config_maps={
        "plain": {"data": {"A": "1", "bad name": "x"}, "binaryData": {"B": "Yg=="}},
    },
    secrets={"hidden": {"data": {"PASSWORD": base64.b64encode(b"hunter2").decode()}}},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $(A", "$A ${A} $(A"),
        ("100$", "100$"),
        ("$(C)", "$(A)"),  # values are not expanded again
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2", "C": "$(A)"}) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['app']", ""),
        ("metadata.labels", 'app="web"\ntier/x="say \\"hi\\"\\n"'),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "seller"),
        ("status.hostIP", "198.18.0.2"),
        ("status.podIP", "198.18.0.7"),
    ],
)
def test_fields(path: str, expected: str) -> None:
    assert pod_field(path, POD, PLACE) == expected


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(Unstartable, match="color"):
        pod_field("spec.color", POD, PLACE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2),
        ("1500m", 1.5),
        ("1k", 1000),
        ("2Gi", 2 << 30),
        ("1.5Mi", 1536 << 10),
        ("1e3", 1000),
    ],
)
def test_quantities(text: str, expected: float) -> None:
    assert quantity(text) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"resource": "limits.cpu"}, "2"),  # rounded up
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "requests.cpu"}, "2"),  # a limit is also the request, if none is given
        ({"resource": "limits.memory", "divisor": "1Mi"}, "1024"),  # the node's, if none is given
    ],
)
def test_resources(reference: dict[str, str], expected: str) -> None:
    container = {"resources": {"limits": {"cpu": "1500m"}}}
    assert resource_field(reference, container, PLACE) == expected


def variables(**container: Any) -> dict[str, str]:
    return variables_of(container, POD, PLACE, SOURCES, {"PATH": "/bin"})


def test_later_variables_see_earlier_ones_and_override_them() -> None:
    found = variables(
        envFrom=[
            {"configMapRef": {"name": "plain"}},
            {"prefix": "S_", "secretRef": {"name": "hidden"}},
        ],
        env=[
            {"name": "A", "value": "$(A)0"},
            {"name": "C", "value": "$(A) $(D) $(S_PASSWORD)"},
            {"name": "D", "value": "4"},
            {"name": "EMPTY"},
        ],
    )
    assert found == {
        "PATH": "/bin",
        "A": "10",
        "B": "b",
        "S_PASSWORD": "hunter2",
        "C": "10 $(D) hunter2",
        "D": "4",
        "EMPTY": "",
    }


def test_values_come_from_fields_config_maps_and_secrets() -> None:
    origins = {
        "IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "A": {"configMapKeyRef": {"name": "plain", "key": "A"}},
        "PASSWORD": {"secretKeyRef": {"name": "hidden", "key": "PASSWORD"}},
        "CPUS": {"resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}},
        "ABSENT": {"secretKeyRef": {"name": "nothing", "key": "x", "optional": True}},
    }
    found = variables(env=[{"name": name, "valueFrom": one} for name, one in origins.items()])
    assert found == {
        "PATH": "/bin",
        "IP": "198.18.0.7",
        "A": "1",
        "PASSWORD": "hunter2",
        "CPUS": "8",
    }


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"secretRef": {"name": "nothing"}}]}, 'secret "nothing" not found'),
        (
            {
                "env": [
                    {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "plain", "key": "Z"}}}
                ]
            },
            "couldn't find key Z in configMap plain",
        ),
        ({"env": [{"name": "X", "valueFrom": {"moonRef": {}}}]}, "moonRef"),
    ],
)
def test_references_that_lead_nowhere_say_so(container: dict[str, Any], message: str) -> None:
    with pytest.raises(Unstartable, match=message) as refused:
        variables(**container)
    assert refused.value.reason == "CreateContainerConfigError"
