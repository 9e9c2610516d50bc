"""JSON from strangers: bounded in size, no key twice, no depth that breaks, errors by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from lite_llm.contracts.errors import Corrupt

REMEDY: Final = "fetch or convert the checkpoint again"

T = TypeVar("T")
Pairs = list[tuple[str, Any]]


def corrupt(message: str, where: str) -> Corrupt:
    """The error that every reader in this room raises; ``where`` is the file and the field."""
    return Corrupt(f"{where}: {message}", where=where, remedy=REMEDY)


def parse_object(
    data: bytes, where: str, *, max_bytes: int, special_floats: bool = False
) -> dict[str, Any]:
    """The JSON object in ``data``; :class:`Corrupt` names ``where`` for anything else.

    ``special_floats`` admits Infinity and NaN, spelled as transformers 5 does:
    ``{"__float__": "NaN"}``.
    """
    if len(data) > max_bytes:
        raise corrupt(f"{len(data)} bytes of JSON, more than {max_bytes}", where)
    value = _parse(data, where, _unique, _tagged if special_floats else _refused)
    if not isinstance(value, dict):
        raise corrupt("not a JSON object", where)
    return value


def refuse_duplicate_keys(data: bytes, where: str) -> None:
    """Raise :class:`Corrupt` if any object in ``data`` has a key twice; nothing is kept of it."""

    def forget(pairs: Pairs) -> None:
        _unique(pairs)

    _parse(data, where, forget, _refused)


def converted(value: Any, kind: type[T], where: str) -> T:
    """``value``, parsed before, as ``kind``; :class:`Corrupt` names the field that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise corrupt(str(error), where) from error


def decoded(data: bytes | msgspec.Raw, kind: type[T], where: str) -> T:
    """JSON ``data`` as ``kind``, straight into its fields; :class:`Corrupt` for what differs."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise corrupt(str(error), where) from error


def canonical(value: Any) -> bytes:
    """The one spelling of ``value``: sorted keys, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def _parse(
    data: bytes, where: str, hook: Callable[[Pairs], Any], constant: Callable[[str], Any]
) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=hook, parse_constant=constant)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError, too
        raise corrupt(f"invalid JSON: {error}", where) from error


def _unique(pairs: Pairs) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"key {name[:80]!r} twice")
            seen.add(name)
    return found


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _tagged(name: str) -> dict[str, str]:
    return {"__float__": name}
