"""Traces: canonical bytes, demands that hold each expert once, broken files refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lite_llm.contracts.errors import Corrupt, VersionMismatch
from lite_llm.experts.traces import MAGIC, Trace, TraceRecorder
from lite_llm.experts.traces_synthetic import Statistics, synthetic_trace

SMALL = Statistics(layers=2, experts=8, top_k=2, sessions=3, batch=2, prompt_tokens=3, tokens=4)


def recorded() -> Trace:
    """Layers 1 and 3, with 4 and 6 experts; a step of a prompt, then one with both kinds."""
    recorder = TraceRecorder({3: 6, 1: 4}, top_k=2)
    recorder.begin_step([7, 7], [True, True])
    recorder.record(1, np.array([[0, 2], [1, 2]]), np.array([[0.5, 0.5], [1.0, 0.0]]))
    recorder.record(3, np.array([[5, -1], [-1, -1]]), np.array([[1.0, 9.0], [9.0, 9.0]]))
    recorder.begin_step([7, 8], [False, True])
    recorder.record(1, np.array([[0, 1], [1, 3]]), np.array([[0.5, 0.5], [0.25, 0.75]]))
    return recorder.trace()


def with_header(data: bytes, **changes: object) -> bytes:
    at = len(MAGIC) + 4
    length = int.from_bytes(data[len(MAGIC) : at], "little")
    header = {**json.loads(data[at : at + length]), **changes}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + data[at + length :]


def test_demands_hold_each_expert_once_decoding_first() -> None:
    demands = recorded().demands
    assert demands.layer_D.tolist() == [0, 1, 0]
    assert demands.start_D.tolist() == [0, 3, 4, 7]
    assert demands.expert_A.tolist() == [0, 1, 2, 4 + 5, 0, 1, 3]
    assert demands.is_prompts_A.tolist() == [True, True, True, True, False, False, True]


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    trace, path = recorded(), tmp_path / "routers.trace"
    trace.write(path)
    again = Trace.read(path)
    assert again.experts_of_layer == {1: 4, 3: 6}
    for name in ("step_R", "sequence_R", "is_prompt_R", "experts_RLK", "weights_RLK"):
        assert np.array_equal(getattr(again, name), getattr(trace, name))
    assert again.to_bytes() == path.read_bytes()


def test_an_empty_trace() -> None:
    trace = Trace.parse(TraceRecorder({0: 4}, 2).trace().to_bytes(), "empty")
    assert trace.num_rows == 0
    assert len(trace.demands) == 0


def test_broken_files_are_refused_by_name() -> None:
    data = recorded().to_bytes()
    broken = {
        "begin": b"not a trace",
        "checksum": data[:-1] + bytes([data[-1] ^ 1]),
        "bytes": data[:-1],
        "too long": MAGIC + b"\xff\xff\xff\xff",
        "not JSON": MAGIC + b"\x02\0\0\0{[",
        "no version": MAGIC + b"\x02\0\0\0[]",
        "rows don't": with_header(data, rows=1 << 39),
        "as this version": with_header(data, rows=-1),
        "this version writes": with_header(data, experts_of_layer=[[3, 6], [1, 4]]),
        "version writes it": with_header(data, more=1),
    }
    for fault, content in broken.items():
        with pytest.raises(Corrupt, match=rf"bad\.trace is not .*{fault}"):
            Trace.parse(content, "bad.trace")
    with pytest.raises(VersionMismatch, match="version 3, not 2"):
        Trace.parse(with_header(data, version=3), "bad.trace")


@pytest.mark.parametrize(
    ("array", "at", "value", "fault"),
    [
        ("step_R", 0, 1, "steps descend"),
        ("is_prompt_R", 0, 2, "neither"),
        ("experts_RLK", (0, 0, 1), 4, "out of its layer's range"),
        ("experts_RLK", (0, 0, 1), 0, "don't ascend"),
        ("experts_RLK", (0, 0, 0), 65535, "don't ascend"),
        ("weights_RLK", (0, 0, 0), np.nan, "not a number"),
        ("weights_RLK", (1, 1, 0), 1.0, "belongs to no expert"),
    ],
)
def test_contents_are_checked(array: str, at: object, value: float, fault: str) -> None:
    trace = recorded()
    getattr(trace, array)[at] = value
    if array == "step_R":
        trace.step_R[1:] = 0
    with pytest.raises(Corrupt, match=fault):
        Trace.parse(trace.to_bytes(), "bad.trace")


def test_every_cut_and_flip_is_refused() -> None:
    data = recorded().to_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x41
        for content in (data[:at], bytes(flipped)):
            with pytest.raises((Corrupt, VersionMismatch)):
                Trace.parse(content, "bad.trace")


def test_synthetic_traces_are_what_their_statistics_say() -> None:
    trace = synthetic_trace(SMALL)
    assert trace.fault() == ""
    assert trace.to_bytes() == synthetic_trace(SMALL).to_bytes()
    assert trace.experts_of_layer == {0: 8, 1: 8}
    assert trace.num_rows == 3 * (3 + 4)
    assert int(trace.is_prompt_R.sum()) == 3 * 3
    assert trace.step_R[-1] + 1 == 3 + 2 * 4  # prompts one a step, then two sessions and one
    assert np.allclose(trace.weights_RLK.sum(axis=-1, dtype=np.float32), 1.0, atol=1e-2)
