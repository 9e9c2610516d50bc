"""One interface for every checkpoint: spans, tensors, experts, extras, checked on demand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lite_llm.checkpoint import SIGNATURE_NAME, open_checkpoint, sign
from lite_llm.contracts.errors import Corrupt, Forbidden, InvalidRequest, Unsupported
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import PART_ALIGNMENT, Span
from lite_llm.trust import SignaturePolicy, generate_key

Tensors = dict[str, np.ndarray[Any, Any]]


@pytest.mark.parametrize("kind", ["source", "converted"])
def test_tensors_and_experts_come_back_as_they_were_saved(
    kind: str, tensors: Tensors, request: pytest.FixtureRequest
) -> None:
    with open_checkpoint(request.getfixturevalue(kind)) as reader:
        for record in reader.manifest.tensors:
            assert np.array_equal(reader.tensor(record.name), tensors[record.name])
        assert {record.key.layer for record in reader.manifest.experts} == {0, 1}
        for expert in reader.manifest.experts:
            stem = f"model.layers.{expert.key.layer}.block_sparse_moe.experts.{expert.router_row}"
            parts = reader.expert(expert.key)
            assert list(parts) == ["gate.weight", "up.weight", "down.weight"]
            for name, matrix in zip(parts, ("w1", "w3", "w2"), strict=True):
                assert np.array_equal(parts[name], tensors[f"{stem}.{matrix}.weight"])
        count = len(reader.manifest.tensors) + 3 * len(reader.manifest.experts)
        assert count == len(tensors)


def test_an_expert_is_one_span_when_converted(converted: Path, source: Path) -> None:
    with open_checkpoint(converted) as reader:
        for record in reader.manifest.experts:
            assert record.span is not None
            assert record.span.offset % 4096 == 0
            assert all(part.span.offset % PART_ALIGNMENT == 0 for part in record.parts)
            # Its chunks are its own: nothing else has to be read to check it.
            assert record.span.offset % reader.manifest.files[-1].chunk_bytes == 0
    with open_checkpoint(source) as reader:
        assert reader.manifest.experts[0].span is None


def test_every_way_to_read_a_span_gives_the_same_bytes(converted: Path) -> None:
    with open_checkpoint(converted) as reader:
        span = reader.manifest.tensor_by_name["lm_head.weight"].span.part(3, 1000)
        expected = bytes(reader.read(span))
        buffer = np.zeros(1000, np.uint8)
        reader.read_into(span, buffer.data)
        assert buffer.tobytes() == expected
        assert bytes(reader.map(span)) == expected
        assert bytes(reader.read_checked(span)) == expected
        assert reader.path(span.file).read_bytes()[span.offset : span.end] == expected
        nothing = span.part(0, 0)
        assert bytes(reader.read_checked(nothing)) + bytes(reader.map(nothing)) == b""


def test_a_mapped_view_outlives_the_reader(converted: Path) -> None:
    with open_checkpoint(converted) as reader:
        span = reader.manifest.tensors[0].span
        expected, view = bytes(reader.read(span)), reader.map(span)
    assert bytes(view) == expected


def test_a_short_read_is_a_typed_error(converted: Path) -> None:
    with open_checkpoint(converted) as reader:
        span = reader.manifest.tensors[-1].span
        path = reader.path(span.file)
        with path.open("r+b") as file:
            file.truncate(span.offset + 10)
        for read in (reader.read, reader.map, reader.read_checked):
            with pytest.raises(Corrupt, match=path.name):
                read(span)


def test_a_changed_byte_is_found_with_file_chunk_and_offset(converted: Path) -> None:
    with open_checkpoint(converted) as reader:
        record = reader.manifest.experts[2]
        assert record.span is not None
        path = reader.path(record.span.file)
        data = bytearray(path.read_bytes())
        data[record.span.offset + 5] ^= 1
        path.write_bytes(data)
        number = record.span.offset // reader.manifest.file_by_name[path.name].chunk_bytes
        with pytest.raises(Corrupt, match=f"{path.name}: chunk {number} at offset") as fault:
            reader.expert(record.key)
        assert path.name in fault.value.where
        reader.expert(reader.manifest.experts[3].key)  # its neighbour is as good as ever


def test_extras_travel_along_and_are_checked(converted: Path, source: Path) -> None:
    expected = (source / "tokenizer.json").read_bytes()
    for directory in (source, converted):
        with open_checkpoint(directory) as reader:
            assert reader.extra("tokenizer.json") == expected
            with pytest.raises(InvalidRequest, match="vocab"):
                reader.extra("vocab.json")
    (converted / "tokenizer.json").write_text("{}")
    with open_checkpoint(converted) as reader, pytest.raises(Corrupt, match="tokenizer"):
        reader.extra("tokenizer.json")


def test_what_is_not_there_is_the_callers_fault(converted: Path) -> None:
    with open_checkpoint(converted) as reader:
        with pytest.raises(InvalidRequest, match="no tensor"):
            reader.tensor("nothing")
        with pytest.raises(InvalidRequest, match=r"9\.0\.0\.0"):
            reader.expert(ExpertKey(9, 0, 0, 0))
        with pytest.raises(InvalidRequest, match="buffer of 3 bytes"):
            reader.read_into(Span(reader.manifest.files[0].name, 0, 4), bytearray(3))


def test_many_threads_share_one_reader(converted: Path) -> None:
    with open_checkpoint(converted) as reader, ThreadPoolExecutor(8) as pool:
        spans = [record.span for record in reader.manifest.tensors] * 20
        found = list(pool.map(lambda span: bytes(reader.read_checked(span)), spans))
        assert found == [bytes(reader.read(span)) for span in spans]


def test_the_policy_decides_who_may_have_signed(converted: Path, source: Path) -> None:
    signer, stranger = generate_key(), generate_key()
    strict = SignaturePolicy(trusted=(signer.public,), required=True)
    with pytest.raises(Forbidden, match="not signed"):
        open_checkpoint(converted, policy=strict)
    with pytest.raises(Forbidden, match="not signed"):
        open_checkpoint(source, policy=strict)
    sign(converted, stranger)
    with pytest.raises(Corrupt, match="no trusted key"):
        open_checkpoint(converted, policy=strict)
    sign(converted, signer)
    open_checkpoint(converted, policy=strict).close()
    with (converted / SIGNATURE_NAME).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(Corrupt, match=SIGNATURE_NAME):
        open_checkpoint(converted)


def test_a_directory_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unsupported, match="holds neither"):
        open_checkpoint(tmp_path)
