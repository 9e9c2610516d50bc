"""The protocol's conventions, and its memory: what version 1 once said keeps its meaning.

``protocol_v1.txt`` lists every field, enum value and call ever released. After *adding* something::

    .venv/bin/python tests/proto/test_protocol.py

appends it. What is removed must be reserved in the ``.proto``; nothing is ever changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool

from lite_llm.proto.v1 import agent_pb2, error_pb2, generate_pb2, model_pb2, orchestrator_pb2

FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (agent_pb2, error_pb2, generate_pb2, model_pb2, orchestrator_pb2)
]
SOURCES = Path(model_pb2.__file__).parent
MEMORY = Path(__file__).parent / "wire" / "protocol_v1.txt"
STORED = ("ModelSpec", "TierSetSpec", "AgentStatus", "Residency", "Assignment")
MEASURED = re.compile(r"time|size|memory|grace|idle|delay|interval|capacity|bandwidth|speed")
AMOUNT = re.compile(r"_(bytes|seconds|ms|at|tokens|length|per_\w+)$")
COMMENT_TELLS = re.compile(r"second|byte|count|how many|at least|at most|\d to \d", re.IGNORECASE)


TYPE_NAMES: dict[int, str] = {
    number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()
}


def described(field: FieldDescriptor) -> str:
    """Number and type of a field, as far as they matter on the wire and in JSON."""
    kind = TYPE_NAMES[field.type]
    named = field.message_type or field.enum_type
    many = "repeated " if field.is_repeated else ""
    return f"{field.number}: {many}{named.full_name if named else kind}"


def said(files: list[FileDescriptor]) -> dict[str, str]:
    """What the protocol says now: each name with its number and type."""
    lines: dict[str, str] = {}
    for file in files:
        for message in file.message_types_by_name.values():
            lines |= {field.full_name: described(field) for field in message.fields}
        for enum in file.enum_types_by_name.values():
            lines |= {f"{enum.full_name}.{value.name}": f"{value.number}" for value in enum.values}
        for service in file.services_by_name.values():
            for call in service.methods:
                asks, answers = call.input_type.full_name, call.output_type.full_name
                lines[call.full_name] = (
                    f"{'stream ' * call.client_streaming}{asks} -> "
                    f"{'stream ' * call.server_streaming}{answers}"
                )
    return lines


def reserved(files: list[FileDescriptor], name: str, meaning: str) -> bool:
    """Whether a field or value that is gone has left both its name and its number behind."""
    home, _, last = name.rpartition(".")
    number = int(re.split(r"\D", meaning, maxsplit=1)[0] or -1)
    for file in files:
        for message in file.message_types_by_name.values():
            if message.full_name == home:
                kept = DescriptorProto()
                message.CopyToProto(kept)
                spans = [range(span.start, span.end) for span in kept.reserved_range]
                return last in kept.reserved_name and any(number in span for span in spans)
        for enum in file.enum_types_by_name.values():
            if enum.full_name == home:
                values = EnumDescriptorProto()
                enum.CopyToProto(values)
                spans = [range(span.start, span.end + 1) for span in values.reserved_range]
                return last in values.reserved_name and any(number in span for span in spans)
    return False


def breaches(files: list[FileDescriptor], remembered: dict[str, str]) -> list[str]:
    """What an older peer or a stored value would misunderstand."""
    now = said(files)
    found = [
        f"{name} was {meaning}, and is {now[name]}"
        for name, meaning in remembered.items()
        if name in now and now[name] != meaning
    ]
    found += [
        f"{name} ({meaning}) is gone: reserve its name and number"
        for name, meaning in remembered.items()
        if name not in now and not reserved(files, name, meaning)
    ]
    return found


def remembered() -> dict[str, str]:
    lines = MEMORY.read_text().splitlines()
    return dict(line.split(" = ", 1) for line in lines)


def test_nothing_changed_its_meaning() -> None:
    assert breaches(FILES, remembered()) == []


def test_everything_new_is_remembered() -> None:
    new = said(FILES).keys() - remembered().keys()
    assert not new, f"run .venv/bin/python tests/proto/test_protocol.py to remember {sorted(new)}"


SAMPLE = {"v.M.a": "1: string", "v.M.b": "2: uint32", "v.E.E_UNSPECIFIED": "0", "v.E.E_X": "1"}


STRING, BYTES, UINT32 = "TYPE_STRING", "TYPE_BYTES", "TYPE_UINT32"


def field_of(name: str, number: int, kind: str) -> FieldDescriptorProto:
    return FieldDescriptorProto(
        name=name,
        number=number,
        type=FieldDescriptorProto.Type.Value(kind),
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )


def sample(
    *, fields: dict[str, int], reserve: bool = False, kind: str = STRING
) -> list[FileDescriptor]:
    """A small file; ``kind`` is the type of field a."""
    pool = DescriptorPool()
    proto = FileDescriptorProto(name="v.proto", package="v", syntax="proto3")
    message = proto.message_type.add(name="M")
    for name, number in fields.items():
        message.field.append(field_of(name, number, kind if name == "a" else UINT32))
    enum = proto.enum_type.add(name="E")
    enum.value.add(name="E_UNSPECIFIED", number=0)
    if reserve:
        message.reserved_range.add(start=2, end=3)
        message.reserved_name.append("b")
        enum.reserved_range.add(start=1, end=1)
        enum.reserved_name.append("E_X")
    else:
        enum.value.add(name="E_X", number=1)
    pool.Add(proto)
    return [pool.FindFileByName("v.proto")]


def test_breaches_are_found() -> None:
    assert breaches(sample(fields={"a": 1, "b": 2}), SAMPLE) == []
    assert breaches(sample(fields={"a": 1, "b": 2, "c": 3}), SAMPLE) == []
    assert breaches(sample(fields={"a": 1}, reserve=True), SAMPLE) == []
    assert breaches(sample(fields={"a": 1}), SAMPLE) == [
        "v.M.b (2: uint32) is gone: reserve its name and number"
    ]
    assert breaches(sample(fields={"a": 1, "b": 3}), SAMPLE) == [
        "v.M.b was 2: uint32, and is 3: uint32"
    ]
    assert breaches(sample(fields={"a": 1, "b": 2}, kind=BYTES), SAMPLE) == [
        "v.M.a was 1: string, and is 1: bytes"
    ]


def messages() -> Iterator[Descriptor]:
    for file in FILES:
        yield from file.message_types_by_name.values()


def source(file: FileDescriptor) -> str:
    return (SOURCES / Path(file.name).name).read_text()


def comment_before(text: str, declaration: str) -> str:
    """The comment lines right above a declaration, and the one on its line."""
    match = re.search(rf"((?:^ *//.*\n)*)^ *{declaration}.*?(//.*)?$", text, re.MULTILINE)
    assert match, declaration
    return f"{match[1]}{match[2] or ''}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file.name).name)
def test_a_file_is_in_its_place_and_says_what_it_is_for(file: FileDescriptor) -> None:
    assert file.package == "lite_llm.v1"
    assert file.name == f"lite_llm/proto/v1/{Path(file.name).name}"
    assert source(file).startswith("// ")
    assert 'syntax = "proto3";' in source(file)
    assert max(map(len, source(file).splitlines())) <= 100


def test_every_source_is_looked_at() -> None:
    assert sorted(path.name for path in SOURCES.glob("*.proto")) == sorted(
        Path(file.name).name for file in FILES
    )


def test_enums_begin_with_unspecified_and_carry_their_name() -> None:
    enums = [enum for file in FILES for enum in file.enum_types_by_name.values()]
    assert enums
    for enum in enums:
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
        assert enum.values[0].name == f"{prefix}_UNSPECIFIED"
        numbers = [value.number for value in enum.values]
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 0
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


def test_names_are_spelled_as_is_usual() -> None:
    for message in messages():
        assert re.fullmatch(r"([A-Z][a-z0-9]+)+", message.name)
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", field.name) for field in message.fields)
        assert not message.nested_types or all(
            inner.GetOptions().map_entry for inner in message.nested_types
        )


@pytest.mark.parametrize("name", STORED)
def test_stored_values_are_explained(name: str) -> None:
    texts = [source(file) for file in FILES if name in file.message_types_by_name]
    assert comment_before(texts[0], f"message {name} ").startswith("// ")


def test_amounts_say_their_unit() -> None:
    unclear = []
    for file in FILES:
        for message in file.message_types_by_name.values():
            body = re.search(rf"^message {message.name} {{.*?^}}", source(file), re.S | re.M)
            for field in message.fields:
                if not MEASURED.search(field.name) or field.message_type:
                    continue
                assert body
                words = comment_before(body[0], rf"[\w. ]*\b{field.name} = ")
                if not AMOUNT.search(field.name) and not COMMENT_TELLS.search(words):
                    unclear.append(field.full_name)
    assert unclear == []


def test_calls_say_what_they_take_and_give() -> None:
    for file in FILES:
        for service in file.services_by_name.values():
            assert "// " in comment_before(source(file), f"service {service.name} ") or source(
                file
            ).startswith("// ")
            for call in service.methods:
                assert call.input_type.full_name.startswith("lite_llm.v1.")
                assert call.output_type.full_name.startswith("lite_llm.v1.")


def main() -> str:
    """Append what is new to the memory; refuse where an old meaning was lost."""
    old = remembered() if MEMORY.exists() else {}
    if wrong := breaches(FILES, old):
        return "\n".join(wrong)
    lines = sorted((old | said(FILES)).items())
    MEMORY.write_text("".join(f"{name} = {meaning}\n" for name, meaning in lines))
    return ""


if __name__ == "__main__":
    sys.exit(main())
