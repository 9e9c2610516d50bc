"""What the chart passes to programs is what these programs take."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
from click import Command, Context

from lite_llm.cli.app import app
from lite_llm.testing.guard import find_program

REPO = Path(__file__).resolve().parents[2]
FOLDERS = {"operator": "operator", "orchestrator": "orchestrator", "agent": "agent"}
PROGRAMS = {**FOLDERS, "farewell": "operator"}
DOWNWARD = {"POD_IP", "POD_NAME", "POD_NAMESPACE", "NODE_NAME"}
"""For arguments to refer to; no program reads them."""

Templates = list[tuple[str, dict[str, Any]]]


@functools.cache
def command(name: str) -> Command:
    """The parser of one of our programs."""
    found: Command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined] # a Group
    return found


def parsed(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Context:
    """Arguments by the program's own parser, which refuses what it does not know."""
    for variable in ("LITE_LLM_ETCD", "KUBECONFIG"):
        monkeypatch.delenv(variable, raising=False)
    return command(name).make_context(name, list(arguments))


def test_arguments_are_taken_by_the_programs(
    templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    for component, template in templates:
        if component not in PROGRAMS:
            continue
        program = PROGRAMS[component]
        (container,) = template["spec"]["containers"]
        assert "command" not in container, "the image's entry point is the program"
        context = parsed(program, container["args"], monkeypatch)
        assert context.params["etcd"].startswith(("http://", "https://"))
        known = {one.envvar for one in command(program).params if one.envvar}
        for variable in container.get("env", ()):
            name = variable["name"]
            assert name in known | DOWNWARD | {"HTTPS_PROXY"}, f"{component} does not read {name}"


def test_references_in_arguments_lead_to_variables(templates: Templates) -> None:
    for component, template in templates:
        for container in template["spec"]["containers"]:
            names = [variable["name"] for variable in container.get("env", ())]
            assert len(set(names)) == len(names), component
            for argument in container["args"]:
                assert set(re.findall(r"\$\((\w+)\)", argument)) <= set(names), argument


def test_files_in_arguments_lie_in_volumes(templates: Templates) -> None:
    for component, template in templates:
        for container in template["spec"]["containers"]:
            mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
            for argument in container["args"]:
                if match := re.fullmatch(r"--[a-z-]+=(/.*)", argument):
                    path = Path(match[1])
                    assert any(path.is_relative_to(mount) for mount in mounts), (component, path)


@pytest.mark.parametrize("program", FOLDERS)
def test_the_image_starts_the_program_as_nobody(program: str, render: Any) -> None:
    text = (REPO / program / "Dockerfile").read_text()
    said = dict(re.findall(r"^(ENTRYPOINT|USER) (.+)$", text, flags=re.MULTILINE))
    assert json.loads(said["ENTRYPOINT"]) == ["lite-llm", program]
    for one in render({}):
        if one["kind"] in ("Deployment", "DaemonSet"):
            context = one["spec"]["template"]["spec"]["securityContext"]
            user, group = context["runAsUser"], context["runAsGroup"]
            assert said["USER"] == f"{user}:{group}"


@pytest.mark.parametrize("program", FOLDERS)
def test_the_image_is_built_of_pinned_parts(program: str) -> None:
    text = (REPO / program / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert len(bases) == 2, "what builds is not what ships"
    for base in bases:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-slim-\w+", base), f"{base} may change"
    assert "--constraint constraints.txt" in text
    assert not re.search(r"^ADD |sudo|curl|wget|chmod 777|:latest", text, flags=re.MULTILINE)
    # Only what is named reaches the build: no secret of a checkout can slip in.
    ignored = (REPO / program / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for line in ignored:
        assert not line.startswith("!") or (REPO / line.removeprefix("!")).exists()


@pytest.mark.parametrize("program", FOLDERS)
def test_the_image_s_file_passes_the_linter(program: str) -> None:
    hadolint = find_program("hadolint", remedy="run `make setup`: it is in the dev extra")
    linted = subprocess.run(
        [hadolint, "--no-color", REPO / program / "Dockerfile"], capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout
