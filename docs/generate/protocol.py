"""The gRPC services and messages, with the comments of the .proto files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from markdown import code, page, table

Comments = Mapping[tuple[int, ...], str]
PACKAGE = ".lite_llm.v1."
_MESSAGE, _ENUM, _SERVICE, _FIELD, _METHOD, _VALUE = 4, 5, 6, 2, 2, 2  # numbers in descriptor.proto


def protocol_page(folder: Path) -> str:
    """Of all files below ``folder``."""
    parts = []
    for file in _files(folder):
        comments = _comments(file)
        parts.append(f"## {Path(file.name).name}\n\n{comments.get((12,), '')}".rstrip())
        for number, service in enumerate(file.service):
            rows = [
                (
                    code(method.name),
                    _streamed(method.input_type, method.client_streaming),
                    _streamed(method.output_type, method.server_streaming),
                    comments.get((_SERVICE, number, _METHOD, index), ""),
                )
                for index, method in enumerate(service.method)
            ]
            told = comments.get((_SERVICE, number), "")
            parts.append(
                f"### service {service.name}\n\n{told}\n\n"
                + table(("call", "takes", "gives", "what"), rows)
            )
        for number, message in enumerate(file.message_type):
            parts.append(_message(message, comments, number))
        for number, enum in enumerate(file.enum_type):
            parts.append(_enum(enum, comments, number))
    return page(
        "gRPC",
        "Package `lite_llm.v1`. Every orchestrator serves `Orchestrator`, every agent `Agent`; both"
        " have gRPC's health and reflection services. Errors carry an `ErrorDetail`; codes are in "
        "the [table of errors](errors.md).",
        *(part.replace("\n\n\n\n", "\n\n") for part in parts),
    )


def _files(folder: Path) -> Iterator[FileDescriptorProto]:
    sources = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as work:
        result = Path(work) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--include_source_info"]
        subprocess.run([*command, f"-o{result}", *sources], check=True, cwd=folder)
        found = FileDescriptorSet.FromString(result.read_bytes())
    yield from sorted(found.file, key=lambda file: file.name)


def _comments(file: FileDescriptorProto) -> Comments:
    return {
        tuple(place.path): " ".join(
            " ".join((place.leading_comments or place.trailing_comments).split()).split()
        )
        or " ".join(" ".join(place.leading_detached_comments).split())
        for place in file.source_code_info.location
    }


def _message(message: DescriptorProto, comments: Comments, number: int) -> str:
    rows = [
        (
            code(field.name),
            _type(field, message),
            comments.get((_MESSAGE, number, _FIELD, index), ""),
        )
        for index, field in enumerate(message.field)
    ]
    told = comments.get((_MESSAGE, number), "")
    fields = table(("field", "type", "what"), rows) if rows else "No fields."
    return f"### {message.name}\n\n{told}\n\n{fields}"


def _enum(enum: EnumDescriptorProto, comments: Comments, number: int) -> str:
    rows = [
        (code(value.name), str(value.number), comments.get((_ENUM, number, _VALUE, index), ""))
        for index, value in enumerate(enum.value)
    ]
    told = comments.get((_ENUM, number), "")
    return f"### {enum.name}\n\n{told}\n\n" + table(("value", "number", "what"), rows)


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{nested.name}"):
            key, value = (_type(each, nested) for each in nested.field)
            return f"map of {key} to {value}"
    name = (
        field.type_name.removeprefix(PACKAGE)
        or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    )
    linked = f"[{name}](#{name.lower()})" if field.type_name else name
    return f"repeated {linked}" if field.label == field.LABEL_REPEATED else linked


def _streamed(name: str, streams: bool) -> str:
    short = name.removeprefix(PACKAGE)
    return f"{'stream of ' if streams else ''}[{short}](#{short.lower()})"
