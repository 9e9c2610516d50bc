"""Stored values: one spelling for one message, and nothing hostile gets further than Corrupt."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Corrupt, InvalidName
from lite_llm.contracts.keyspace import MODELS
from lite_llm.proto.v1 import (
    agent_pb2,
    error_pb2,
    generate_pb2,
    model_pb2,
    orchestrator_pb2,
)
from lite_llm.wire import dumps, loads, ref_from_proto, ref_to_proto

KEY = MODELS + "default/a"
MESSAGES = [
    message
    for module in (agent_pb2, error_pb2, generate_pb2, model_pb2, orchestrator_pb2)
    for message in module.DESCRIPTOR.message_types_by_name.values()
]
STORED: list[Any] = [
    model_pb2.ModelSpec,
    model_pb2.TierSetSpec,
    agent_pb2.AgentStatus,
    agent_pb2.Residency,
    agent_pb2.Assignment,
]

WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Every value that one element of ``field`` can have."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_FLOAT:
            # protobuf's parser refuses the largest float, which its printer rounds up (7.36).
            return st.floats(-(2.0**127), 2.0**127, width=32)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats(allow_nan=False)
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            known = [value.number for value in field.enum_type.values]
            return st.sampled_from([*known, 77])  # and a newer version's
        case FieldDescriptor.CPPTYPE_STRING:
            return st.binary(max_size=20) if field.type == field.TYPE_BYTES else st.text(max_size=9)
        case kind:
            return st.integers(*WHOLE[kind])


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 3) -> Message:
    """A message with any of its fields set, and messages in it down to ``depth``."""
    message = GetMessageClass(descriptor)()
    fields = tuple(descriptor.fields)
    chosen = st.sampled_from(fields) if fields else st.nothing()
    for field in draw(st.lists(chosen, unique_by=lambda field: field.name)):
        target = getattr(message, field.name)
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            key, value = (scalars(inner.fields_by_name[name]) for name in ("key", "value"))
            target.update(draw(st.dictionaries(key, value, max_size=3)))
        elif inner is not None and depth:
            for _ in range(draw(st.integers(1, 2)) if field.is_repeated else 1):
                place = target.add() if field.is_repeated else target
                place.CopyFrom(draw(messages(inner, depth - 1)))
        elif inner is None and field.is_repeated:
            target.extend(draw(st.lists(scalars(field), max_size=3)))
        elif inner is None:
            setattr(message, field.name, draw(scalars(field)))
    return message


@given(st.sampled_from(MESSAGES).flatmap(messages))
def test_every_message_survives_storing(message: Message) -> None:
    assert loads(dumps(message), type(message), where=KEY) == message


@given(st.sampled_from([kind.DESCRIPTOR for kind in STORED]).flatmap(messages), st.randoms())
def test_equal_messages_have_equal_bytes(message: Message, random: Any) -> None:
    # Rebuilt field by field in another order, and maps entry by entry.
    twin = type(message)()
    present = message.ListFields()
    random.shuffle(present)
    for field, value in present:
        part = type(message)()
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = list(value.items())
            random.shuffle(entries)
            for key, entry in entries:
                getattr(part, field.name)[key] = entry
        else:
            part.CopyFrom(message)
            for other, _ in message.ListFields():
                if other.name != field.name:
                    part.ClearField(other.name)
        twin.MergeFrom(part)
    assert dumps(twin) == dumps(message)
    through_the_wire = type(message).FromString(message.SerializeToString())
    assert dumps(through_the_wire) == dumps(message)
    assert dumps(loads(dumps(message), type(message), where=KEY)) == dumps(message)


def test_values_are_as_people_read_them() -> None:
    status = agent_pb2.AgentStatus(
        node="é",
        labels={"b": "2", "a": "1"},
        started_at=2**60,
        media=[agent_pb2.MediumStatus(medium=model_pb2.MEDIUM_NVME, capacity_bytes=5)],
    )
    assert dumps(status).decode() == (
        '{"labels":{"a":"1","b":"2"},'
        '"media":[{"capacity_bytes":"5","medium":"MEDIUM_NVME"}],'
        '"node":"é","started_at":"1152921504606846976"}'
    )
    assert dumps(model_pb2.ModelSpec()) == b"{}"


def test_an_optional_field_is_kept_even_if_zero() -> None:
    zero = generate_pb2.SamplingParameters(logprobs=0)
    assert dumps(zero) == b'{"logprobs":0}'
    assert loads(dumps(zero), generate_pb2.SamplingParameters, where=KEY).HasField("logprobs")


@pytest.mark.parametrize(
    "value",
    [b'{"node":"a","invented":{"deep":[1,{"x":null}]}}', b'{"node":"a","health":{"colour":"red"}}',
     b'{"node":"a","media":[{"medium":"MEDIUM_HOLOGRAM"}]}', b' {"node":"a"}\n'],
)  # fmt: skip
def test_what_a_newer_version_adds_is_ignored(value: bytes) -> None:
    assert loads(value, agent_pb2.AgentStatus, where=KEY).node == "a"


HOSTILE = [
    b"", b" ", b"null", b"[]", b"[1]", b'"x"', b"1", b"true", b"{", b"}", b"{}{}", b"\xff", b"\0",
    b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"node": 3}', b'{"node": ["a"]}', b'{"node": {}}',
    b'{"node": "\\ud800"}', b'{"node": "\xff"}', b'{"node":"a","node":"b"}', b'{"heartbeat": -1}',
    b'{"heartbeat": 18446744073709551616}', b'{"heartbeat": NaN}', b'{"heartbeat": Infinity}',
    b'{"heartbeat": 1e999}', b'{"heartbeat": 1.5}', b'{"heartbeat": true}', b'{"heartbeat": "x"}',
    b'{"heartbeat": ""}', b'{"heartbeat": 1' + b"0" * 5000 + b"}",
    b'{"heartbeat": "1' + b"0" * 5000 + b'"}', b'{"draining": "true"}', b'{"draining": 1}',
    b'{"devices": {}}', b'{"devices": [1]}', b'{"devices": [null]}', b'{"health": 1}',
    b'{"health": true}', b'{"labels": []}', b'{"labels": {"a": 1}}', b'{"labels": {"a": null}}',
    b'{"media": [{"medium": 99999999999}]}', b"[" * 100_000, b'{"health":' * 100_000,
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value[:24]))
def test_hostile_values_are_corrupt_and_name_their_key(value: bytes) -> None:
    with pytest.raises(Corrupt, match=f"the value of {KEY} is no AgentStatus: ") as caught:
        loads(value, agent_pb2.AgentStatus, where=KEY)
    assert caught.value.where == KEY
    assert caught.value.remedy.startswith("delete the key")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(STORED).flatmap(
        lambda kind: st.tuples(
            st.just(kind),
            st.dictionaries(
                st.sampled_from([field.name for field in kind.DESCRIPTOR.fields]), json_values
            ),
        )
    )
)
def test_reading_is_total(case: tuple[type[Message], dict[str, Any]]) -> None:
    kind, fields = case
    value = json.dumps(fields).encode()
    try:
        message = loads(value, kind, where=KEY)
    except Corrupt as error:
        assert error.where == KEY  # noqa: PT017 - either outcome is fine, a third is not
    else:
        assert loads(dumps(message), kind, where=KEY) is not None


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_corrupt(value: bytes) -> None:
    try:
        loads(value, agent_pb2.AgentStatus, where=KEY)
    except Corrupt as error:
        assert error.where == KEY  # noqa: PT017 - as above


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e300, 5e-324, -0.0, 2.0, 1e16])
def test_numbers_keep_every_bit(number: float) -> None:
    stored = dumps(generate_pb2.Timings(queue_seconds=number))
    read = loads(stored, generate_pb2.Timings, where=KEY).queue_seconds
    assert struct.pack("d", read) == struct.pack("d", number)


def test_references() -> None:
    ref = ModelRef("default", "llama-3.1")
    assert ref_from_proto(ref_to_proto(ref)) == ref
    assert ref_from_proto(model_pb2.ModelRef(name="a")) == ModelRef("default", "a")
    for hostile in (model_pb2.ModelRef(), model_pb2.ModelRef(namespace="A", name="a"),
                    model_pb2.ModelRef(name="a/b")):  # fmt: skip
        with pytest.raises(InvalidName):
            ref_from_proto(hostile)
