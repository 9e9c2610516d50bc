"""Every log call of the house has a constant message and only fields that are on the list."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lite_llm.telemetry.logs import FIELDS

ROOT = Path(__file__).parents[3]
PROGRAMS = ("proto", "operator", "orchestrator", "agent", "cli")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
PYTHONS_OWN = {"exc_info", "stack_info"}


def fields(keywords: list[ast.keyword]) -> Iterator[str]:
    """Names of a call's fields, given as keywords or in the standard library's ``extra``."""
    for keyword in keywords:
        match keyword:
            case ast.keyword(arg="extra", value=ast.Dict(keys=keys)):
                yield from (str(getattr(key, "value", key)) for key in keys)
            case ast.keyword(arg="extra", value=ast.Call(keywords=inner)):
                yield from (name.arg for name in inner if name.arg)
            case ast.keyword(arg=str(name)) if name not in PYTHONS_OWN:
                yield name


def faults(source: str) -> list[str]:
    """What is wrong with the log calls in ``source``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)) if (
                level in LEVELS
            ):
                match node.args:
                    case [ast.Constant(value=str())]:
                        pass
                    case _:
                        found.append(f"line {node.lineno}: the message is not one constant")
                found += [
                    f"line {node.lineno}: add {name!r} to FIELDS in telemetry/logs.py"
                    for name in sorted(set(fields(node.keywords)) - FIELDS.keys())
                ]
    return found


def test_every_log_call_is_in_order() -> None:
    paths = [path for program in PROGRAMS for path in (ROOT / program).rglob("*.py")]
    wrong = [
        f"{path.relative_to(ROOT)}: {fault}" for path in paths for fault in faults(path.read_text())
    ]
    assert len(paths) > 20
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("log.info(f'model {x}')", "not one constant"),
        ("log.info('model %s', x)", "not one constant"),
        ("log.error(message)", "not one constant"),
        ("log.info('model', modell=x)", "add 'modell' to FIELDS"),
        ("log.info('model', extra={'modell': x})", "add 'modell' to FIELDS"),
        ("log.info('model', extra=everything)", "add 'extra' to FIELDS"),
    ],
)
def test_faults_are_found(source: str, words: str) -> None:
    assert words in faults(source)[0]


def test_good_calls_pass() -> None:
    assert faults("log.exception('call failed', model=m, exc_info=error)") == []
    assert faults("log.info('lease lost', extra={'lease': 7})") == []


def test_fields_are_described() -> None:
    assert all(name.isidentifier() and meaning for name, meaning in FIELDS.items())
