"""Which medium a directory lies on, from what the kernel shows of its block devices."""

from __future__ import annotations

import os
from pathlib import Path

from lite_llm.contracts.tiers import Medium

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
_DISTANT = ("nfs", "cifs", "smb", "ceph", "lustre", "gpfs", "fuse", "9p", "glusterfs", "virtiofs")


def medium_behind(path: Path, *, root: Path = Path("/")) -> Medium:
    """NVMe only where every device below is one; what can't be told counts as the slower disk.

    ``root`` is where ``/sys`` and ``/proc`` are.
    """
    try:
        device = path.stat().st_dev
    except OSError:  # whoever opens the file will say why
        return Medium.SATA
    number = f"{os.major(device)}:{os.minor(device)}"
    block = root / "sys/dev/block" / number
    if block.exists():
        return Medium.NVME if _is_nvme(block.resolve()) else Medium.SATA
    kind = _file_system(number, root / "proc/self/mountinfo")
    if kind in _IN_MEMORY:
        return Medium.DRAM
    return Medium.OBJECT_STORE if kind.startswith(_DISTANT) else Medium.SATA


def _is_nvme(block: Path) -> bool:
    if (block / "partition").exists():
        block = block.parent
    below = block / "slaves"  # of device mapper and RAID
    slaves = [slave.resolve() for slave in below.iterdir()] if below.exists() else []
    return all(map(_is_nvme, slaves)) if slaves else block.name.startswith("nvme")


def _file_system(number: str, mounts: Path) -> str:
    """The type in the mount's line of ``mountinfo`` (proc(5)); empty if there is none."""
    for line in mounts.read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return ""
