"""The index: one spelling, its own checksum, and what older and newer programs make of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lite_llm.checkpoint import INDEX_NAME, convert, read_index
from lite_llm.checkpoint.checks import manifest_of
from lite_llm.checkpoint.index import MAX_HEADER_BYTES, decode, encode
from lite_llm.contracts.errors import Unsupported, VersionMismatch
from lite_llm.contracts.manifest import Manifest


def edited(data: bytes, change: Any) -> bytes:
    """The index after ``change(header, records)``, with the checksum that belongs to it."""
    document = json.loads(data)
    change(document["header"], document["records"])
    parts = (json.dumps(document[name], separators=(",", ":")) for name in ("header", "records"))
    content = '"header":{},"records":{}}}'.format(*parts).encode()
    return b'{"checksum":"' + hashlib.sha256(content).hexdigest().encode() + b'",' + content


def manifest_in(data: bytes) -> Manifest:
    return manifest_of(*decode(data, "x"), "x")


def test_a_manifest_survives_being_written_down(converted: Path) -> None:
    data = (converted / INDEX_NAME).read_bytes()
    manifest = manifest_in(data)
    assert manifest == read_index(converted)
    assert encode(manifest) == data
    assert manifest.version == "tiny-v1.0.0"


def test_what_training_needs_travels_along(converted: Path, tmp_path: Path) -> None:
    seed, optimizer = 0xFEED << 112 | 7, {"name": "adamw", "betas": [0.9, 0.95], "steps": 3}
    manifest = replace(read_index(converted), step=3, routing_seed=seed, optimizer=optimizer)
    data = encode(manifest)
    assert manifest_in(data) == manifest
    assert f'"routing_seed":"feed{7:028x}"' in data.decode()
    (converted / INDEX_NAME).write_bytes(data)
    for _ in convert(converted, tmp_path / "again"):
        pass
    again = read_index(tmp_path / "again")
    assert (again.step, again.routing_seed, again.optimizer) == (3, seed, optimizer)


def test_the_index_is_plain_json_in_ascii(converted: Path) -> None:
    data = (converted / INDEX_NAME).read_bytes()
    assert list(json.loads(data.decode("ascii"))) == ["checksum", "header", "records"]
    assert b" " not in data


def test_unknown_fields_of_later_minors_are_passed_over(converted: Path) -> None:
    def from_the_future(header: Any, records: Any) -> None:
        header["format"] = {"major": 1, "minor": 99, "patch": "x"}
        header["sparsity"] = {"kind": [1, 2, {"deep": None}]}
        header["tiers"][0]["compatibility"] = ["v9"]
        header["layouts"][0][0].append("blocked")
        for record in [*records[0], *records[1], *records[2]]:
            record.append({"new": True})
        records.append([["a fourth kind of record"]])

    data = (converted / INDEX_NAME).read_bytes()
    assert manifest_in(edited(data, from_the_future)) == manifest_in(data)


def test_missing_fields_of_older_minors_have_defaults(converted: Path) -> None:
    def from_the_past(header: Any, records: Any) -> None:
        for field in ("version", "step", "tiers", "layouts", "extras"):
            del header[field]
        del header["format"]["minor"]
        del records[2]

    manifest = manifest_in(edited((converted / INDEX_NAME).read_bytes(), from_the_past))
    assert (manifest.version, manifest.step, manifest.tiers) == ("", 0, ())
    assert (manifest.routing_seed, manifest.optimizer) == (0, {})
    assert manifest.experts == ()
    assert manifest.tensors == read_index(converted).tensors


def test_a_tier_needs_little_more_than_its_name(converted: Path) -> None:
    def bare(header: Any, records: Any) -> None:
        budget = header["tiers"][0]["parameter_budget"]
        header["tiers"] = [{"id": 0, "name": "a", "parameter_budget": budget}]
        records[2] = []

    (tier,) = manifest_in(edited((converted / INDEX_NAME).read_bytes(), bare)).tiers
    assert (tier.groups, tier.experts_per_group, tier.placement.name) == (1, 1, "HOT")


@pytest.mark.parametrize("major", [0, 2, 2**40])
def test_another_major_version_is_refused(converted: Path, major: int) -> None:
    def other(header: Any, _: Any) -> None:
        header["format"]["major"] = major
        header["model"] = {"what": "no one knows"}

    with pytest.raises(VersionMismatch, match=f"major version {major}"):
        manifest_in(edited((converted / INDEX_NAME).read_bytes(), other))


def test_a_writer_makes_no_index_that_a_reader_would_refuse(converted: Path) -> None:
    manifest = read_index(converted)
    large = replace(manifest, architecture={"field": "x" * MAX_HEADER_BYTES})
    with pytest.raises(Unsupported, match="header would have"):
        encode(large)
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(replace(manifest, architecture={"field": float("nan")}))
