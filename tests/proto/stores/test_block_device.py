"""Which medium a directory lies on, from trees that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lite_llm.contracts.tiers import Medium
from lite_llm.stores.block_device import medium_behind


def number_of(path: Path) -> str:
    device = path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def disk(root: Path, name: str, *, partition: str = "", slaves: tuple[Path, ...] = ()) -> Path:
    device = root / "sys/devices" / name
    (device / "slaves").mkdir(parents=True)
    for slave in slaves:
        (device / "slaves" / slave.name).symlink_to(slave)
    if partition:
        device = device / partition
        device.mkdir()
        (device / "partition").write_text("1\n")
    return device


def mount(root: Path, directory: Path, device: Path) -> None:
    links = root / "sys/dev/block"
    links.mkdir(parents=True)
    (links / number_of(directory)).symlink_to(device)


def test_nvme_is_where_every_device_below_is_nvme(tmp_path: Path) -> None:
    roots = {name: tmp_path / name for name in ("nvme", "sata", "raid", "mixed")}
    mount(roots["nvme"], tmp_path, disk(roots["nvme"], "nvme0n1", partition="nvme0n1p2"))
    mount(roots["sata"], tmp_path, disk(roots["sata"], "sda", partition="sda1"))
    for kind, members in (("raid", ("nvme0n1", "nvme1n1")), ("mixed", ("nvme0n1", "sda"))):
        slaves = tuple(disk(roots[kind], name) for name in members)
        mount(roots[kind], tmp_path, disk(roots[kind], "md0", slaves=slaves))
    found = {name: medium_behind(tmp_path, root=root) for name, root in roots.items()}
    assert found == {
        "nvme": Medium.NVME,
        "sata": Medium.SATA,
        "raid": Medium.NVME,
        "mixed": Medium.SATA,
    }


@pytest.mark.parametrize(
    ("kind", "medium"),
    [
        ("tmpfs", Medium.DRAM),
        ("nfs4", Medium.OBJECT_STORE),
        ("fuse.s3fs", Medium.OBJECT_STORE),
        ("overlay", Medium.SATA),
        ("", Medium.SATA),
    ],
)
def test_without_a_block_device_the_file_system_tells(
    tmp_path: Path, kind: str, medium: Medium
) -> None:
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.parent.mkdir(parents=True)
    lines = ["21 1 999:99 / /other rw shared:1 - ext4 /dev/sda rw"]
    if kind:
        lines.append(f"22 1 {number_of(tmp_path)} / /here rw,nosuid shared:2 - {kind} none rw")
    mounts.write_text("\n".join(lines))
    assert medium_behind(tmp_path, root=tmp_path) is medium


def test_a_directory_that_is_missing_counts_as_the_slower_disk(tmp_path: Path) -> None:
    assert medium_behind(tmp_path / "none") is Medium.SATA
