"""The wheel, built from the sdist and installed elsewhere, holds everything and stands alone."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ROOTS = ("proto", "operator", "orchestrator", "agent", "cli")
SITE = next(path for path in sys.path if path.endswith("site-packages"))


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, REPO, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def rooms() -> list[str]:
    """Names of all rooms that are packages."""
    return sorted(
        init.parent.name
        for root in ROOTS
        for init in (REPO / root / "lite_llm").glob("*/__init__.py")
    )


def test_the_wheel_holds_every_source_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    kept = {
        str(path.relative_to(REPO / root))
        for root in ROOTS
        for path in (REPO / root / "lite_llm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert kept
    assert kept - held == set()


def test_an_installed_wheel_imports_and_runs(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps", wheel,
        cwd=tmp_path)  # fmt: skip
    # Dependencies come from this environment; its .pth, which leads to the sources, is not read.
    program = (
        "import importlib, sys\n"
        f"for room in {rooms()!r}:\n"
        "    module = importlib.import_module(f'lite_llm.{room}')\n"
        f"    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__\n"
    )
    run(python, "-c", program, cwd=tmp_path, PYTHONPATH=SITE)
    told = run(tmp_path / "venv" / "bin" / "lite-llm", "--help", cwd=tmp_path, PYTHONPATH=SITE)
    assert "up" in told


@pytest.mark.parametrize("folder", [".", "operator", "operator/lite_llm", "agent/lite_llm", "/"])
def test_no_folder_hides_the_standard_library(folder: str) -> None:
    """Our `operator/` must not stand in for Python's own module of that name."""
    program = "import collections, operator, queue; operator.itemgetter; import lite_llm.contracts"
    run(sys.executable, "-c", program, cwd=(REPO / folder).resolve())
