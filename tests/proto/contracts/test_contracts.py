"""Contracts stand on the standard library alone, so that anything may stand on them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lite_llm.contracts

ROOM = Path(lite_llm.contracts.__file__).parent
FILES = sorted(ROOM.rglob("*.py"))


def imported(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, level=level):
                found.add("." * level + (module or ""))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_the_standard_library_is_imported(path: Path) -> None:
    for module in imported(path.read_text()):
        assert module.partition(".")[0] in sys.stdlib_module_names or module.startswith(
            "lite_llm.contracts"
        ), module


def test_an_import_within_a_function_is_seen() -> None:
    assert imported("def f():\n    import grpc\n    from . import x") == {"grpc", "."}


def test_importing_contracts_loads_nothing_else() -> None:
    program = (
        "import sys; before = set(sys.modules); import lite_llm.contracts;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - sys.stdlib_module_names))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["lite_llm"]


def test_exports_exist() -> None:
    assert all(hasattr(lite_llm.contracts, name) for name in lite_llm.contracts.__all__)
    assert lite_llm.contracts.__all__ == sorted(
        lite_llm.contracts.__all__,
        key=lambda name: (not name.isupper(), not name[0].isupper(), name),
    )
