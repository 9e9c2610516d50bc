"""What a node says of itself."""

import json
from pathlib import Path

from lite_llm.agent.node import inspected
from lite_llm.contracts import Medium


def test_speeds_are_measured_once(tmp_path: Path) -> None:
    kept = tmp_path / "speeds.json"
    first = inspected({Medium.NVME: tmp_path}, kept)
    assert set(first.speeds) == {Medium.DRAM, Medium.NVME}
    assert all(speed > 1 << 20 for speed in first.speeds.values())
    assert [path.name for path in tmp_path.iterdir()] == ["speeds.json"]
    kept.write_text(json.dumps({"DRAM": 7, "NVME": 5}))
    assert inspected({Medium.NVME: tmp_path}, kept).speeds == {Medium.DRAM: 7, Medium.NVME: 5}


def test_a_disk_that_came_later_is_measured_too(tmp_path: Path) -> None:
    kept = tmp_path / "speeds.json"
    inspected({Medium.NVME: tmp_path}, kept)
    both = {Medium.NVME: tmp_path, Medium.SATA: tmp_path}
    assert inspected(both, kept).speeds[Medium.SATA] > 0


def test_what_was_kept_may_be_broken(tmp_path: Path) -> None:
    kept = tmp_path / "speeds.json"
    for text in ("", "[]", '{"TAPE": 1}', '{"DRAM": "fast"}'):
        kept.write_text(text)
        assert inspected({Medium.NVME: tmp_path}, kept).speeds[Medium.DRAM] > 1 << 20


def test_a_disk_that_can_not_be_written_is_not_measured(tmp_path: Path) -> None:
    node = inspected({Medium.NVME: tmp_path / "absent"}, tmp_path / "speeds.json")
    assert set(node.speeds) == {Medium.DRAM}
