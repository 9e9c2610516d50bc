"""A request's JSON to its struct; what is wrong with it is told by the field's name."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import Struct

from lite_llm.contracts.errors import InvalidRequest

S = TypeVar("S", bound=Struct)


def decode(body: bytes, kind: type[S]) -> S:
    """The struct in a JSON body; :class:`InvalidRequest` names the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        problem, field = _located(str(error))
        raise InvalidRequest(problem, where=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is not JSON: {error}", remedy="send one JSON object, encoded as UTF-8"
        ) from error


def _located(text: str) -> tuple[str, str]:
    """What is wrong and the field's path, out of msgspec's message, which ends in the path."""
    problem, _, path = re.sub("- at `key` in `", "of a key - at `", text).partition(" - at `$")
    field = path.strip("`").lstrip(".")
    if missing := re.search(r"missing required field `(\w+)`", problem):
        field = f"{field}.{missing[1]}" if field else missing[1]
    return (f"{field}: {problem}" if field else f"the body: {problem}"), field
