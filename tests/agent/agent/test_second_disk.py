"""What leaves the fast disk for want of room lies on the slow one, and comes back from there."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from lite_llm.agent import AgentSettings
from lite_llm.agent.checkpoints import Checkpoints
from lite_llm.agent.house import disk_budgets
from lite_llm.contracts import Medium
from lite_llm.contracts.manifest import FileRecord
from lite_llm.proto.v1.model_pb2 import ModelSource
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier, Listing

SIZE = 100_000
CONTENT = {name: name.encode() * (SIZE // len(name)) for name in ("first", "second")}


class Store:
    """Counts what is fetched."""

    def __init__(self) -> None:
        self.uri = "http://origin"
        self.sent: list[str] = []

    async def identity(self, name: str) -> str:
        return name

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        self.sent.append(name)
        target[:] = CONTENT[name][offset : offset + len(target)]

    async def close(self) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()

    async def listed(_: object, source: ModelSource) -> tuple[Listing, Store]:
        name = source.uri.rpartition("/")[2]
        digest = hashlib.sha256(CONTENT[name]).hexdigest()
        record = FileRecord(name, len(CONTENT[name]), digest)
        return Listing(uri=name, digest=digest, files=(record,)), store

    monkeypatch.setattr(Checkpoints, "_listing", listed)
    return store


@asynccontextmanager
async def cache_in(root: Path, fast_bytes: int) -> AsyncIterator[Checkpoints]:
    async with AsyncExitStack() as opened:
        fast = DiskBudget(directory=root / "fast", num_bytes=fast_bytes)
        slow = DiskBudget(directory=root / "slow", num_bytes=10 * SIZE)
        disks = await opened.enter_async_context(DiskTier({Medium.NVME: fast, Medium.SATA: slow}))
        reader = DiskReader(threads=1)
        opened.callback(reader.close)
        checkpoints = Checkpoints(root / "fast", disks, reader)
        checkpoints.prepare()
        yield checkpoints


async def use(checkpoints: Checkpoints, name: str) -> None:
    async with checkpoints.held(ModelSource(uri=f"http://origin/{name}"), lambda *_: None) as held:
        assert (held.directory / name).read_bytes() == CONTENT[name]


def kept_in(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("objects/*/*")}


async def test_a_checkpoint_goes_down_and_comes_back(store: Store, tmp_path: Path) -> None:
    keys = {name: hashlib.sha256(CONTENT[name]).hexdigest() for name in CONTENT}
    async with cache_in(tmp_path, int(1.5 * SIZE)) as checkpoints:
        await use(checkpoints, "first")
        await use(checkpoints, "second")
        assert kept_in(tmp_path / "fast") == {keys["second"]}
        assert kept_in(tmp_path / "slow") == {keys["first"]}
    async with cache_in(tmp_path, int(1.5 * SIZE)) as checkpoints:  # after a restart, too
        await use(checkpoints, "first")
        assert keys["first"] in kept_in(tmp_path / "fast")
        await use(checkpoints, "second")
    assert sorted(store.sent) == ["first", "second"]  # each once, whatever moved


def test_a_second_disk_has_a_budget_of_its_own(tmp_path: Path) -> None:
    settings = AgentSettings(
        state_directory=tmp_path, cache_bytes=5, sata_directory=tmp_path / "slow", sata_bytes=7
    )
    budgets = disk_budgets(settings)
    assert {medium: budget.num_bytes for medium, budget in budgets.items()} == {
        Medium.NVME: 5,
        Medium.SATA: 7,
    }
    assert disk_budgets(AgentSettings(state_directory=tmp_path)).keys() == {Medium.NVME}
