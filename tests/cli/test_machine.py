"""What a machine has, on this one and on a pretended one."""

from __future__ import annotations

import shutil
from pathlib import Path

from lite_llm.cli.machine import device_bytes, disk_bytes, memory_bytes


def test_a_container_has_what_it_may_use(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "some").write_text("12345\n")
    everything = memory_bytes([])
    meminfo = Path("/proc/meminfo").read_text().split()
    assert everything == int(meminfo[meminfo.index("MemTotal:") + 1]) * 1024
    assert memory_bytes([tmp_path / "none", tmp_path / "missing"]) == everything
    assert memory_bytes([tmp_path / "none", tmp_path / "some"]) == 12345


def test_without_a_driver_there_is_no_device(tmp_path: Path) -> None:
    assert device_bytes([tmp_path / "nvidiactl"]) == 0


def test_a_disk_is_the_one_that_the_checkpoint_lies_on(tmp_path: Path) -> None:
    assert 0 < disk_bytes(tmp_path) <= shutil.disk_usage(tmp_path).total
