"""The quick way to read a stored value says what the general parser says, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2, orchestrator_pb2
from lite_llm.wire import dumps
from lite_llm.wire.canonical import built

STATUS = agent_pb2.AgentStatus(
    node="n1",
    started_at=-(2**62),
    heartbeat=2**64 - 1,
    draining=True,
    labels={"a": "1"},
    health=agent_pb2.Health(healthy=True),
    devices=[agent_pb2.Device(index=1, memory_bytes=5)],
    media=[agent_pb2.MediumStatus(medium=model_pb2.MEDIUM_NVME, capacity_bytes=1 << 40)],
)


@pytest.mark.parametrize(
    "message",
    [
        STATUS,
        agent_pb2.AgentStatus(),
        agent_pb2.Residency(kv_hit_rate=0.25, tiers=[agent_pb2.TierResidency(bytes=7)]),
        model_pb2.TierSetSpec(routing_seed=bytes(range(16))),
        orchestrator_pb2.ScalingState(desired=2, used_at=1.5e9, pinned_nodes=["a", "b"]),
    ],
)
def test_what_we_write_is_read_the_quick_way(message: Message) -> None:
    assert built(dumps(message), type(message)) == message


def test_messages_with_a_choice_are_left_to_the_general_parser() -> None:
    assert built(dumps(generate_pb2.GenerateStart(text="x")), generate_pb2.GenerateStart) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"node":"a","node":"b"}',
        b'{"nodes":"a"}',
        b'{"heartbeat":1}',
        b'{"heartbeat":"1.0"}',
        b'{"heartbeat":" 1"}',
        b'{"heartbeat":"-1"}',
        b'{"running_requests":1.0}',
        b'{"running_requests":true}',
        b'{"draining":1}',
        b'{"node":1}',
        b'{"health":null}',
        b'{"media":{}}',
        b'{"media":[null]}',
        b'{"media":[{"medium":"MEDIUM_HOLOGRAM"}]}',
        b'{"labels":{"a":1}}',
        b'{"grpcAddress":"a:1"}',
        b"[" * 100_000,
    ],
    ids=lambda value: ascii(value[:32]),
)
def test_anything_else_is_left_to_the_general_parser(value: bytes) -> None:
    assert built(value, agent_pb2.AgentStatus) is None


words = st.sampled_from(["", "a", "1", "-1", "1e3", "AAAA", "NaN", "MEDIUM_NVME", "é"])
scalars = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | words
FIELDS = sorted(
    {field.name for kind in (STATUS, agent_pb2.MediumStatus()) for field in kind.DESCRIPTOR.fields}
)
objects = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), scalars, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(FIELDS), scalars | inner | st.lists(inner | scalars, max_size=2), max_size=3
    ),
    max_leaves=6,
)


@given(objects)
def test_what_is_read_is_what_the_general_parser_reads(fields: dict[str, Any]) -> None:
    value = json.dumps(fields).encode()
    quick = built(value, agent_pb2.AgentStatus)
    if quick is not None:
        assert quick == json_format.Parse(value, agent_pb2.AgentStatus())
