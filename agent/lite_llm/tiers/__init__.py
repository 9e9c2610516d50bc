"""Where each weight is, and the only mover of its bytes: memory, disks and stores as one ladder."""

from lite_llm.tiers.arena import Arena, Block, Lease
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.disk_reader import DiskFile, DiskReader, ReadTimes
from lite_llm.tiers.failures import ReadFailed, ShortRead, StillLeased, UseAfterRelease
from lite_llm.tiers.memory import DeviceMemory, HostMemory, Memory, device_memory

__all__ = [
    "Arena",
    "Block",
    "Chunks",
    "DeviceMemory",
    "DiskFile",
    "DiskReader",
    "HostMemory",
    "Lease",
    "Memory",
    "ReadFailed",
    "ReadTimes",
    "ShortRead",
    "StillLeased",
    "UseAfterRelease",
    "device_memory",
]
