"""Where each weight is, and the only mover of its bytes: memory, disks and stores as one ladder."""

from lite_llm.stores import (
    Listing,
    LocalSource,
    Origin,
    ReadFailed,
    ShortRead,
    Source,
    StoreSettings,
    StoreSource,
    list_checkpoint,
    open_source,
)
from lite_llm.tiers.arena import Arena, Block, Lease
from lite_llm.tiers.device_tier import Copier, DeviceTier, copier_to, open_device_tier
from lite_llm.tiers.disk_reader import DiskFile, DiskReader, ReadTimes
from lite_llm.tiers.disk_tier import DiskBudget, DiskTier
from lite_llm.tiers.download import Download, downloading
from lite_llm.tiers.failures import StillLeased, UseAfterRelease
from lite_llm.tiers.layer import Layer
from lite_llm.tiers.load import Load
from lite_llm.tiers.loader import Loader
from lite_llm.tiers.memory import DeviceMemory, HostMemory, Memory, device_memory
from lite_llm.tiers.memory_tier import HostTier
from lite_llm.tiers.plan import EMBEDDINGS, LoadPlan, plan_load
from lite_llm.tiers.progress import LoadProgress, Phase, PhaseProgress
from lite_llm.tiers.record_reader import Piece, RecordReader
from lite_llm.tiers.residency import Residency

__all__ = [
    "EMBEDDINGS",
    "Arena",
    "Block",
    "Copier",
    "DeviceMemory",
    "DeviceTier",
    "DiskBudget",
    "DiskFile",
    "DiskReader",
    "DiskTier",
    "Download",
    "HostMemory",
    "HostTier",
    "Layer",
    "Lease",
    "Listing",
    "Load",
    "LoadPlan",
    "LoadProgress",
    "Loader",
    "LocalSource",
    "Memory",
    "Origin",
    "Phase",
    "PhaseProgress",
    "Piece",
    "ReadFailed",
    "ReadTimes",
    "RecordReader",
    "Residency",
    "ShortRead",
    "Source",
    "StillLeased",
    "StoreSettings",
    "StoreSource",
    "UseAfterRelease",
    "copier_to",
    "device_memory",
    "downloading",
    "list_checkpoint",
    "open_device_tier",
    "open_source",
    "plan_load",
]
