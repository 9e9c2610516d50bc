"""From a Pod to the processes that it stands for: arguments, variables, mounts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lite_llm.testing.kubelet.environment import (
    Object,
    Place,
    Sources,
    Unstartable,
    expand,
    named,
    variables_of,
)
from lite_llm.testing.kubelet.volumes import kind_of


@dataclass(frozen=True)
class Mount:
    """A file or directory of the machine, and where the container sees it."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerPlan:
    """All that starting a container takes."""

    name: str
    argv: tuple[str, ...]
    variables: Mapping[str, str]
    directory: str
    mounts: tuple[Mount, ...]


def plan_container(
    container: Object,
    pod: Object,
    place: Place,
    sources: Sources,
    *,
    volumes: Path,
    given: Mapping[str, str],
    entrypoints: Mapping[str, Sequence[str]],
) -> ContainerPlan:
    """Plan one container of a Pod whose volumes lie, by name, in the directory ``volumes``.

    Raises:
        Unstartable: it cannot be run as asked; reason and message say why.
    """
    variables = variables_of(container, pod, place, sources, given)
    # An image brings its entry point; without one `args` alone say no program.
    command = container.get("command") or entrypoints.get(container.get("image", ""), ())
    argv = (*command, *(container.get("args") or ()))
    if not command:
        raise Unstartable(
            f"image {container.get('image')} is not pulled but its command run: set command, "
            "or tell the kubelet its entry point",
            "CreateContainerError",
        )
    return ContainerPlan(
        name=container["name"],
        argv=tuple(expand(word, variables) for word in argv),
        variables=variables,
        directory=container.get("workingDir") or "/",
        mounts=tuple(
            _mount(mount, pod, volumes, variables)
            for mount in sorted(
                container.get("volumeMounts") or (),
                key=lambda mount: len(PurePosixPath(mount["mountPath"]).parts),
            )
        ),
    )


def _mount(mount: Object, pod: Object, volumes: Path, variables: Mapping[str, str]) -> Mount:
    volume = named(mount["name"], pod["spec"].get("volumes") or ())
    if volume is None:
        raise Unstartable(f"there is no volume {mount['name']}")
    kind = kind_of(volume)
    source = Path(volume["hostPath"]["path"]) if kind == "hostPath" else volumes / volume["name"]
    inside = mount.get("subPath") or expand(mount.get("subPathExpr") or "", variables)
    if PurePosixPath(inside).is_absolute() or ".." in PurePosixPath(inside).parts:
        raise Unstartable(f"subPath {inside} leads out of volume {mount['name']}")
    written = kind in ("emptyDir", "hostPath")
    return Mount(
        source / inside,
        mount["mountPath"],
        read_only=bool(mount.get("readOnly")) or not written,
    )
