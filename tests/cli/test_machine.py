"""What a machine has, on this one and on a pretended one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lite_llm.cli.machine import device_bytes, disk_bytes, memory_bytes


def test_a_container_has_what_it_may_use(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "some").write_text("12345\n")
    everything = memory_bytes([])
    meminfo = Path("/proc/meminfo").read_text().split()
    assert everything == int(meminfo[meminfo.index("MemTotal:") + 1]) * 1024
    assert memory_bytes([tmp_path / "none", tmp_path / "missing"]) == everything
    assert memory_bytes([tmp_path / "none", tmp_path / "some"]) == 12345


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 81559; echo 81559", 2 * 81559 << 20),
        ("echo 40960; echo '[N/A]'", 40960 << 20),
        ("echo 12; exit 9", 0),
        (None, 0),
    ],
)
def test_devices_are_what_the_driver_tells(
    script: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        command = tmp_path / "nvidia-smi"
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_bytes(tmp_path / "sys") == expected
    card = tmp_path / "sys" / "class" / "drm" / "card1" / "device"
    card.mkdir(parents=True)
    (card / "mem_info_vram_total").write_text("1000\n")
    assert device_bytes(tmp_path / "sys") == expected + 1000


def test_a_disk_is_the_one_that_the_checkpoint_lies_on(tmp_path: Path) -> None:
    assert 0 < disk_bytes(tmp_path) <= shutil.disk_usage(tmp_path).total
