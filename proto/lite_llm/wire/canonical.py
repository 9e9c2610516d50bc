"""Messages out of canonical JSON, built directly: a twentieth of what a general parser takes.

An orchestrator reads some hundred heartbeats a second. What is not plainly what
:func:`lite_llm.wire.dumps` writes is left to the general parser, which also says what is wrong.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
Reading = Callable[[Any], Any]
"""A field's value as the message's constructor takes it; ``ValueError`` if it is not canonical."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name twice")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)
_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_FLOAT = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def built(value: bytes, kind: type[M]) -> M | None:
    """The message in ``value``; None if that is not canonical JSON of a message of this version."""
    readings = _readings(kind.DESCRIPTOR)
    if readings is None:
        return None
    try:
        return kind(**_read(_DECODER.decode(value.decode()), readings))
    except (TypeError, ValueError, RecursionError):  # an encoding's errors are ValueErrors, too
        return None


def _read(fields: Any, readings: Mapping[str, Reading]) -> dict[str, Any]:
    """What the constructor takes as it is, it also judges."""
    if type(fields) is not dict:
        raise ValueError("not an object")
    return {
        name: reading(value) if (reading := readings.get(name)) else value
        for name, value in fields.items()
    }


@cache
def _readings(descriptor: Descriptor) -> Mapping[str, Reading] | None:
    """Of the fields whose JSON is not what the constructor takes; None if a field is too odd."""
    readings: dict[str, Reading] = {}
    for field in descriptor.fields:
        message = field.message_type
        if field.containing_oneof is not None:
            return None
        if message is not None and message.GetOptions().map_entry:
            if message.fields_by_name["value"].cpp_type != FieldDescriptor.CPPTYPE_STRING:
                return None
            readings[field.name] = _object
            continue
        reading = _of_one(field)
        if reading is None:
            return None
        if field.is_repeated:
            readings[field.name] = _each(reading)
        elif reading is not _as_it_is:
            readings[field.name] = reading
    return readings


def _of_one(field: FieldDescriptor) -> Reading | None:
    if field.message_type is not None:
        inner = _readings(field.message_type)
        return None if inner is None else lambda value: _read(value, inner)
    if field.cpp_type in _LONG:
        return _long
    if field.cpp_type in _FLOAT:
        return _finite
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _bool
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("not true or false")
    return value


def _each(reading: Reading) -> Reading:
    def all_of(values: Any) -> list[Any]:
        if type(values) is not list:
            raise ValueError("not a list")
        return [reading(value) for value in values]

    return all_of


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict or not all(type(each) is str for each in value.values()):
        raise ValueError("not a map of strings")
    return value


def _long(value: Any) -> int:
    number = int(value) if type(value) is str else 0
    if str(number) != value:
        raise ValueError("not a whole number in quotes")
    return number


def _finite(value: Any) -> float:
    if type(value) not in (float, int) or not math.isfinite(value):
        raise ValueError("not a plain number")
    return float(value)


def _bytes(value: Any) -> bytes:
    try:
        read = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if base64.b64encode(read).decode() != value:
        raise ValueError("not canonical base64")
    return read
