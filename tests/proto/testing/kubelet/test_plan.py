"""Plans of containers: which program, with what, seeing which mounts."""

from pathlib import Path
from typing import Any

import pytest

from lite_llm.testing.kubelet.environment import Place, Sources, Unstartable
from lite_llm.testing.kubelet.plan import ContainerPlan, Mount, plan_container

VOLUMES = Path("/pods/u-1/volumes")


def plan(**container: Any) -> ContainerPlan:
    volumes = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "host", "hostPath": {"path": "/srv/models"}},
    ]
    pod = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {"containers": [container], "volumes": volumes},
    }
    return plan_container(
        {"name": "main", **container},
        pod,
        Place("node-1", "198.18.0.2", "198.18.0.7"),
        Sources(),
        volumes=VOLUMES,
        given={"PATH": "/bin"},
        entrypoints={"agent:1": ("python", "-m", "agent")},
    )


def test_command_and_arguments_are_expanded() -> None:
    found = plan(
        command=["serve", "--at=$(IP)"],
        args=["$(NOT_SET)", "$$(IP)"],
        env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        workingDir="/srv",
    )
    assert found.argv == ("serve", "--at=198.18.0.7", "$(NOT_SET)", "$(IP)")
    assert found.variables == {"PATH": "/bin", "IP": "198.18.0.7"}
    assert found.directory == "/srv"
    assert plan(command=["true"]).directory == "/"


def test_an_entry_point_stands_in_for_the_image() -> None:
    assert plan(image="agent:1", args=["--fast"]).argv == ("python", "-m", "agent", "--fast")
    assert plan(image="agent:1", command=["true"], args=["x"]).argv == ("true", "x")
    with pytest.raises(Unstartable, match="agent:2") as refused:
        plan(image="agent:2", args=["--fast"])
    assert refused.value.reason == "CreateContainerError"


def test_mounts_are_ordered_so_that_one_may_lie_in_another() -> None:
    found = plan(
        command=["true"],
        env=[{"name": "NAME", "value": "llama"}],
        volumeMounts=[
            {"name": "settings", "mountPath": "/data/etc/app.toml", "subPath": "app.toml"},
            {"name": "scratch", "mountPath": "/data"},
            {"name": "host", "mountPath": "/m/x", "subPathExpr": "$(NAME)/v1", "readOnly": True},
        ],
    )
    assert found.mounts == (
        Mount(VOLUMES / "scratch", "/data"),
        Mount(Path("/srv/models/llama/v1"), "/m/x", read_only=True),
        Mount(VOLUMES / "settings/app.toml", "/data/etc/app.toml", read_only=True),
    )


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({"name": "nothing", "mountPath": "/x"}, "no volume nothing"),
        ({"name": "scratch", "mountPath": "/x", "subPath": "../../etc"}, "leads out of volume"),
        ({"name": "scratch", "mountPath": "/x", "subPath": "/etc"}, "leads out of volume"),
    ],
)
def test_bad_mounts_are_refused(mount: dict[str, str], message: str) -> None:
    with pytest.raises(Unstartable, match=message):
        plan(command=["true"], volumeMounts=[mount])
