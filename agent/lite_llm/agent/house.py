"""What an agent's models share, opened in order: the disk cache, workers, and the memory budget."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from lite_llm.agent.changes import Changes
from lite_llm.agent.checkpoints import Checkpoints, Sharing
from lite_llm.agent.declared import Declared
from lite_llm.agent.memories import Memories
from lite_llm.agent.memory import Memory
from lite_llm.agent.node import memory_bytes
from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.agent.upkeep import House
from lite_llm.agent.warmth import Warmth
from lite_llm.agent.workers import Workers
from lite_llm.contracts import Medium
from lite_llm.telemetry.metrics import Metrics
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier
from lite_llm.tiers.measures import Measures

READERS = 2  # threads that check what a crash left in the cache
MEMORY_SHARE, WARM_SHARE, CACHE_SHARE = 0.7, 0.1, 0.9  # of the machine, unless told
KV_SHARE = 8  # a worker's own choice of cache takes one part in so many of the machine at most


@asynccontextmanager
async def opened(
    settings: AgentSettings,
    directory: StateDirectory,
    changes: Changes,
    metrics: Metrics,
    declared: Declared,
    sharing: Sharing,
) -> AsyncIterator[tuple[House, DiskTier]]:
    """Everything, while the block runs. Raises ``Conflict`` if another process has the cache."""
    machine = memory_bytes()
    measures = Measures(metrics, node=settings.node)
    async with AsyncExitStack() as opening:
        cache, budgets = cache_directory(settings), disk_budgets(settings)
        disks = await opening.enter_async_context(DiskTier(budgets))
        disks.measured_by(measures)
        reader = DiskReader(threads=READERS)
        opening.callback(reader.close)
        checkpoints = Checkpoints(cache, disks, reader, sharing=sharing, measures=measures)
        await asyncio.to_thread(checkpoints.prepare)
        workers = await opening.enter_async_context(Workers(directory, settings))
        memory = _of(settings.memory_bytes, int(machine * MEMORY_SHARE))
        yield (
            House(
                settings=settings,
                checkpoints=checkpoints,
                workers=workers,
                memory=Memory(
                    memory - settings.prefork * settings.worker_bytes,
                    changes,
                    patience_seconds=settings.patience_seconds,
                ),
                device=None
                if settings.device_bytes is None
                else Memory(
                    settings.device_bytes, changes, patience_seconds=settings.patience_seconds
                ),
                warmth=Warmth(_of(settings.warm_bytes, int(machine * WARM_SHARE))),
                memories=Memories(directory),
                kv_bytes=_of(settings.kv_bytes, machine // KV_SHARE),
                tier_set=declared.tier_set,
                metrics=metrics,
            ),
            disks,
        )


def cache_directory(settings: AgentSettings) -> Path:
    """Where checkpoints from stores are kept."""
    return settings.cache_directory or settings.state_directory / "cache"


def disk_budgets(settings: AgentSettings) -> dict[Medium, DiskBudget]:
    """Of each disk that checkpoints are kept on."""
    budgets = {Medium.NVME: _budget(cache_directory(settings), settings.cache_bytes)}
    if settings.sata_directory is not None:
        budgets[Medium.SATA] = _budget(settings.sata_directory, settings.sata_bytes)
    return budgets


def _budget(directory: Path, num_bytes: int | None) -> DiskBudget:
    if num_bytes is None:
        directory.mkdir(parents=True, exist_ok=True)
        held = sum(path.stat().st_blocks * 512 for path in directory.glob("objects/*/*"))
        num_bytes = int((shutil.disk_usage(directory).free + held) * CACHE_SHARE)
    return DiskBudget(directory=directory, num_bytes=num_bytes)


def _of(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given
