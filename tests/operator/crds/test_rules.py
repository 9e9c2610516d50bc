"""Every rule of the schemas, passing and failing, by two judges of CEL.

One is a library from PyPI. The other is Kubernetes' own code, built into a program that
LITE_LLM_CRD_CHECK names; it also weighs what rules cost.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lite_llm.testing.custom_resources import CustomResource

REPO = Path(__file__).resolve().parents[3]
CRDS = sorted((REPO / "crds").glob("*.yaml"))
EXAMPLES = sorted((REPO / "docs" / "examples").glob("*.yaml"))
KINDS = {known.kind: known for known in map(CustomResource, CRDS)}
CRD_CHECK = Path(
    os.environ.get("LITE_LLM_CRD_CHECK", Path.home() / ".cache" / "crd-check" / "crd-check")
)

Body = dict[str, Any]


class Case(NamedTuple):
    """``good`` is admitted and ``bad`` refused with ``message``; ``old`` makes both changes."""

    message: str
    good: Body
    bad: Body
    old: Body | None = None


def model(name: str = "m", **spec: Any) -> Body:
    return body("LiteLLMModel", name, {"source": {"uri": "hf://owner/tiny"}, **spec})


def tier(name: str = "near", **fields: Any) -> Body:
    told = {"id": 0, "groups": 2, "expertsPerGroup": 4, "placement": "Hot", "topKGroups": 1}
    return {"name": name, **told, **fields}


def tier_set(*tiers: Body, name: str = "t", **spec: Any) -> Body:
    return body("TierSet", name, {"tiers": list(tiers or [tier()]), **spec})


def body(kind: str, name: str, spec: Body) -> Body:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "lite-llm.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


OTHER = {"uri": "hf://owner/other"}
TWO = (tier("near"), tier("far", id=1, placement="Cold"))
FLOOR = {"start": "08:00", "end": "18:30"}
CASES = [
    Case("metadata.name must have at most 63", model("n" * 63), model("n" * 64)),
    Case("spec.aliases must not repeat", model(aliases=["chat"]), model(aliases=["m"])),
    Case(
        "spec.source may change only together",
        model(source=OTHER, version="m-v1.1.0"),
        model(source=OTHER, version="m-v1.0.0"),
        old=model(version="m-v1.0.0"),
    ),
    Case(
        "spec.source may change only together",
        model(source=OTHER, version="m-v1.0.0"),
        model(source=OTHER),
        old=model(),
    ),
    Case(
        "spec.tierSetRef needs",
        model(tierSetRef={"name": "t"}),
        model(tierSetRef={"name": "t"}, backend="vllm"),
    ),
    Case("spec.profile is for", model(profile="small", backend="vllm"), model(profile="small")),
    Case(
        "spec.cache.pinnedTiers needs",
        model(cache={"pinnedTiers": ["near"]}),
        model(cache={"pinnedTiers": ["near"]}, backend="llamacpp"),
    ),
    Case("spec.backend can't be", model(backend="vllm"), model(), old=model(backend="vllm")),
    Case(
        "spec.scaling.minReplicas must not exceed",
        model(scaling={"minReplicas": 1}),
        model(scaling={"minReplicas": 2}),
    ),
    Case(
        "minReplicas of every",
        model(scaling={"floors": [FLOOR | {"minReplicas": 1}]}),
        model(scaling={"floors": [FLOOR | {"minReplicas": 2}]}),
    ),
    Case(
        "keys of spec.placement.agentLabels",
        model(placement={"agentLabels": {"k" * 317: "v"}}),
        model(placement={"agentLabels": {"k" * 318: "v"}}),
    ),
    Case("metadata.name must have at most 63", tier_set(name="n" * 63), tier_set(name="n" * 64)),
    Case("every tier in spec.tiers", tier_set(*TWO), tier_set(tier("near"), tier("far"))),
    Case("spec.topKTiers must", tier_set(*TWO, topKTiers=2), tier_set(*TWO, topKTiers=3)),
    Case("spec.minMode must", tier_set(minMode="Balanced"), tier_set(minMode="Max")),
    Case("spec.maxMode must", tier_set(maxMode="Balanced"), tier_set(maxMode="Fast")),
    Case("topKGroups must", tier_set(tier(topKGroups=2)), tier_set(tier(topKGroups=3))),
    Case("topKExperts must", tier_set(tier(topKExperts=4)), tier_set(tier(topKExperts=5))),
    Case(
        "id, groups and expertsPerGroup",
        tier_set(tier(placement="Warm"), tier("far", id=1)),
        tier_set(tier(id=7)),
        old=tier_set(tier()),
    ),
    Case(
        "a tier that takes over the id",
        tier_set(tier("renamed"), tier("near", id=1)),
        tier_set(tier("renamed", groups=8)),
        old=tier_set(tier("other"), tier("far", id=2)),
    ),
    Case(
        "spec.routingSeed can't",
        tier_set(routingSeed="0" * 32, topKTiers=1),
        tier_set(routingSeed="f" * 32),
        old=tier_set(),
    ),
]
IDS = [f"{case.good['kind']}-{case.message[:30]}" for case in CASES]


def judged_by_kubernetes(tmp: Path, new: Body, old: Body | None = None) -> str:
    """What Kubernetes' own code says: empty if it admits."""
    paths = [tmp / "new.yaml", *([tmp / "old.yaml"] if old else [])]
    for path, told in zip(paths, (new, old), strict=False):
        path.write_text(yaml.safe_dump(told))
    change = ["--old", str(paths[1])] if old else []
    done = subprocess.run(
        [CRD_CHECK, "--strict", "--cr", str(paths[0]), *change, *map(str, CRDS)],
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture
def kubernetes() -> None:
    """Needs Kubernetes' own code."""
    if not os.access(CRD_CHECK, os.X_OK):
        pytest.skip(f"no Kubernetes' own CEL: {CRD_CHECK} is not there (LITE_LLM_CRD_CHECK)")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_rule_holds(case: Case) -> None:
    kind = KINDS[case.good["kind"]]
    assert kind.faults(case.good, case.old) == []
    (fault,) = kind.faults(case.bad, case.old)
    assert fault.startswith(case.message)


@pytest.mark.usefixtures("kubernetes")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_rule_holds_in_kubernetes(case: Case, tmp_path: Path) -> None:
    assert judged_by_kubernetes(tmp_path, case.good, case.old) == ""
    assert case.message in judged_by_kubernetes(tmp_path, case.bad, case.old)


def test_every_rule_is_tried() -> None:
    for kind in KINDS.values():
        tried = [case.message for case in CASES if case.good["kind"] == kind.kind]
        for path, message in kind.rules():
            assert any(message.startswith(known) for known in tried), f"{path}: {message}"


SHOWN = [
    pytest.param(told, id=f"{path.stem}-{told['kind']}")
    for path in EXAMPLES
    for told in yaml.safe_load_all(path.read_text())
]


@pytest.mark.parametrize("example", SHOWN)
def test_an_example_is_admitted(example: Body) -> None:
    assert KINDS[example["kind"]].faults(example) == []


@pytest.mark.usefixtures("kubernetes")
def test_kubernetes_takes_the_definitions() -> None:
    """Structure, names, columns, subresources, defaults, and the cost of every rule."""
    done = subprocess.run([CRD_CHECK, *map(str, CRDS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == len(CRDS)


@pytest.mark.usefixtures("kubernetes")
@pytest.mark.parametrize("example", SHOWN)
def test_kubernetes_takes_an_example(example: Body, tmp_path: Path) -> None:
    example["metadata"]["namespace"] = "default"
    assert judged_by_kubernetes(tmp_path, example) == ""
