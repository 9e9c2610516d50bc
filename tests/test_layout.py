"""The rules of the house that no linter knows, and proof that each catches its violation."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ROOTS = ("proto", "operator", "orchestrator", "agent", "cli")
MAX_LINES = 400
DRAWERS = {"utils", "util", "helpers", "helper", "common", "base", "misc", "core", "types"}
ONLY_IN = {"torch": "agent", "cupy": "agent", "kopf": "operator"}
"""Packages that one program alone may import. The CLI may not either: it goes through programs."""


Plant = Callable[[str, str], Path]


def sources(repo: Path) -> list[Path]:
    """Every Python file that we write by hand."""
    return [
        path
        for folder in (*ROOTS, "tests", "benchmarks")
        for path in sorted((repo / folder).rglob("*.py"))
        if "_pb2" not in path.name
    ]


def imported(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            assert node.module is not None
            yield node.module
            if node.module == "lite_llm":
                yield from (f"lite_llm.{alias.name}" for alias in node.names)


def foreign_imports(repo: Path) -> list[str]:
    """Imports across programs that do not go through proto/, and packages outside their program."""
    room_of = {
        room.name: root
        for root in ROOTS
        for room in (repo / root / "lite_llm").iterdir()
        if not room.name.startswith((".", "__"))
    }
    faults = []
    for path in sources(repo):
        home = path.relative_to(repo).parts[0]
        for module in imported(path) if home in ROOTS else ():
            top, _, rest = module.partition(".")
            room = rest.split(".")[0]
            if (
                top == "lite_llm"
                and room
                and home != "cli"
                and room_of[room] not in (home, "proto")
            ):
                faults.append(f"{path.relative_to(repo)} imports {module} of {room_of[room]}/")
            if top in ONLY_IN and home != ONLY_IN[top]:
                faults.append(f"{path.relative_to(repo)} imports {top}, which is {ONLY_IN[top]}/'s")
    return faults


def long_files(repo: Path) -> list[str]:
    """Files that hold more than one idea, by their length."""
    lengths = {path: len(path.read_text().splitlines()) for path in sources(repo)}
    return [
        f"{path.relative_to(repo)} has {length} lines"
        for path, length in lengths.items()
        if length > MAX_LINES
    ]


def bad_names(repo: Path) -> list[str]:
    """Drawers for odds and ends, and names that hide the standard library's or other roots."""
    faults = []
    namespaces = {(root, *below) for root in ROOTS for below in ((), ("lite_llm",))}
    for path in sources(repo):
        relative = path.relative_to(repo)
        names = {part.removesuffix(".py") for part in relative.parts[1:]}
        if drawers := names & DRAWERS:
            faults.append(f"{relative}: say what it holds, not {drawers.pop()!r}")
        # Below lite_llm a name is never top-level, so only what a path could put first counts.
        if relative.parts[0] in ROOTS and relative.parts[1] != "lite_llm":
            faults.append(f"{relative} lies outside the namespace")
        if path.name == "__init__.py" and relative.parent.parts in namespaces:
            faults.append(f"{relative} would hide the other roots of the namespace")
        if path.name == "__init__.py" and relative.parts[0] == "tests":
            faults.append(f"{relative} would make a package of tests")
    for root in ROOTS:
        for room in (repo / root / "lite_llm").iterdir():
            if room.is_dir() and room.name in sys.stdlib_module_names:
                faults.append(f"{room.relative_to(repo)} is named like a standard module")
    return faults


def unmapped_rooms(repo: Path) -> list[str]:
    """Rooms without a sentence in docs/map.md, a docstring, a type marker, or a layer."""
    described = (repo / "docs" / "map.md").read_text()
    layers = (repo / "pyproject.toml").read_text()
    faults = []
    for root in ROOTS:
        for room in sorted((repo / root / "lite_llm").iterdir()):
            if not room.is_dir() or room.name == "__pycache__":
                continue
            if f"`{room.name}`" not in described:
                faults.append(f"{room.name} is missing in docs/map.md")
            if f"({room.name})" not in layers:
                faults.append(f"{room.name} has no layer in pyproject.toml")
            if not (room / "py.typed").exists():
                faults.append(f"{room.name} has no py.typed")
            init = room / "__init__.py"
            if not init.exists() or not ast.get_docstring(ast.parse(init.read_text())):
                faults.append(f"{room.name} does not say in its __init__ what it is")
    return faults


def stale_stubs(repo: Path, scratch: Path) -> list[str]:
    """Committed stubs that differ from what the .proto files give now."""
    protos = [str(path) for path in sorted((repo / "proto").rglob("*.proto"))]
    flags = [f"--{kind}_out={scratch}" for kind in ("python", "grpc_python")]
    flags += [f"--{kind}_out=quiet:{scratch}" for kind in ("mypy", "mypy_grpc")]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        str(repo / "proto"),
        *flags,
        *protos,
    ]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # protoc finds its plugins there
    subprocess.run(command, check=True, env={"PATH": path}, cwd=repo)
    fresh = {path.relative_to(scratch): path.read_bytes() for path in scratch.rglob("*_pb2*.py*")}
    kept = {
        path.relative_to(repo / "proto"): path.read_bytes()
        for path in (repo / "proto").rglob("*_pb2*.py*")
        if path.suffix in (".py", ".pyi")
    }
    return [f"{name}: run `make proto`" for name in sorted(fresh.keys() | kept.keys())
            if fresh.get(name) != kept.get(name)]  # fmt: skip


def broken_layers(repo: Path) -> str:
    """What import-linter finds in ``repo``, with no other root of the namespace in sight."""
    program = (
        "import sys; from importlinter.cli import lint_imports;"
        f"sys.path[:] = [p for p in sys.path if not p.startswith({str(REPO)!r}) or '.venv' in p];"
        f"sys.path[:0] = {[str(repo / root) for root in ROOTS]!r};"
        "sys.exit(lint_imports(no_cache=True))"
    )
    # -S and the site folder by hand: the editable install's .pth would bring the real roots along.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.append({site!r}); {program}"],
        cwd=repo, capture_output=True, text=True,
    )  # fmt: skip
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_the_house_is_in_order(tmp_path: Path) -> None:
    assert foreign_imports(REPO) == []
    assert long_files(REPO) == []
    assert bad_names(REPO) == []
    assert unmapped_rooms(REPO) == []
    assert stale_stubs(REPO, tmp_path) == []


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources to plant violations in."""
    copy = tmp_path_factory.mktemp("house")
    for folder in (*ROOTS, "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.cache")
        shutil.copytree(REPO / folder, copy / folder, ignore=ignored)
    for folder in ("tests", "benchmarks"):
        (copy / folder).mkdir()
    shutil.copy(REPO / "pyproject.toml", copy)
    return copy


@pytest.fixture
def plant(house: Path) -> Iterator[Plant]:
    """Writes files into the copy and takes them out again."""
    planted: dict[Path, bytes | None] = {}

    def write(name: str, text: str) -> Path:
        path = house / name
        planted[path] = path.read_bytes() if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return house

    yield write
    for path, before in planted.items():
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def test_the_copy_is_clean(house: Path, tmp_path: Path) -> None:
    assert broken_layers(house) == ""
    assert foreign_imports(house) == []
    assert stale_stubs(house, tmp_path) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proto/lite_llm/contracts/planted.py", "import lite_llm.metastore\n"),
        ("orchestrator/lite_llm/placement/planted.py", "from lite_llm import gateway\n"),
        ("agent/lite_llm/models/planted.py", "def f():\n    import lite_llm.engine\n"),
        ("agent/lite_llm/agent/planted.py", "from lite_llm.testing import guard\n"),
    ],
)
def test_an_upward_import_is_caught(plant: Plant, name: str, text: str) -> None:
    assert "BROKEN" in broken_layers(plant(name, text))


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("orchestrator/lite_llm/gateway/planted.py", "import torch.nn\n", "torch"),
        ("proto/lite_llm/testing/planted.py", "import torch\n", "torch"),
        ("cli/lite_llm/cli/planted.py", "def f():\n    import torch\n", "torch"),
        ("agent/lite_llm/agent/planted.py", "from kopf import on\n", "kopf"),
        ("agent/lite_llm/agent/planted.py", "import lite_llm.gateway\n", "orchestrator/"),
        ("orchestrator/lite_llm/gateway/planted.py", "from lite_llm import agent\n", "agent/"),
    ],
)
def test_a_foreign_import_is_caught(plant: Plant, name: str, text: str, fault: str) -> None:
    (found,) = foreign_imports(plant(name, text))
    assert name in found
    assert fault in found


def test_a_file_of_401_lines_is_caught(plant: Plant) -> None:
    name = "orchestrator/lite_llm/gateway/planted.py"
    assert long_files(plant(name, "x = 1\n" * 400)) == []
    assert long_files(plant(name, "x = 1\n" * 401)) == [f"{name} has 401 lines"]


def test_a_stale_stub_is_caught(plant: Plant, tmp_path: Path) -> None:
    name = "proto/lite_llm/proto/v1/error.proto"
    changed = (REPO / name).read_text().replace("string remedy = 4;", "string advice = 4;")
    faults = stale_stubs(plant(name, changed), tmp_path)
    assert faults
    assert all("error_pb2" in fault for fault in faults)


@pytest.mark.parametrize(
    "name",
    [
        "agent/lite_llm/engine/utils.py",
        "proto/lite_llm/common/names.py",
        "agent/lite_llm/__init__.py",
        "operator/__init__.py",
        "operator/loose.py",
        "tests/agent/__init__.py",
        "agent/lite_llm/queue/__init__.py",
    ],
)
def test_a_bad_name_is_caught(plant: Plant, name: str) -> None:
    assert bad_names(plant(name, '"""Planted."""\n'))


def test_a_room_that_the_map_does_not_know_is_caught(plant: Plant) -> None:
    faults = unmapped_rooms(plant("agent/lite_llm/attic/__init__.py", '"""Planted."""\n'))
    assert "attic is missing in docs/map.md" in faults
