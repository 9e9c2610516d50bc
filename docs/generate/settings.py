"""What can be set about each program, from the settings' own docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from markdown import code, page, table

from lite_llm.agent import AgentSettings
from lite_llm.controllers import OperatorSettings
from lite_llm.dispatch import HoldLimits
from lite_llm.metastore import StoreSettings
from lite_llm.orchestrator import OrchestratorSettings
from lite_llm.registry import RegistrySettings

SETTINGS = (
    OrchestratorSettings,
    HoldLimits,
    RegistrySettings,
    AgentSettings,
    OperatorSettings,
    StoreSettings,
)


def settings_page() -> str:
    """A table for each settings object."""
    parts = [
        f"## {each.__name__}\n\n{_first_line(each)}\n\n"
        + table(("setting", "type", "default", "what"), _rows(each))
        for each in SETTINGS
    ]
    return page(
        "Settings",
        "One frozen object a program, with units; the [command line](cli.md) and its environment "
        "variables make them. Python that embeds a program makes them itself.",
        *parts,
    )


def _first_line(settings: type[Any]) -> str:
    return (
        (inspect.getdoc(settings) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
    )


def _rows(settings: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    (definition,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(definition, ast.ClassDef)
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        told = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            told = str(following.value.value).replace("``", "`")
        default = ast.unparse(statement.value) if statement.value else ""
        if default.startswith("field("):
            default = ""
        yield (
            code(statement.target.id),
            code(ast.unparse(statement.annotation)),
            code(default),
            told,
        )
