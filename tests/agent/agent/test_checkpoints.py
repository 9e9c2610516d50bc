"""Checkpoints from real servers come to this machine's disk once, and stay as long as they may."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import obstore
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from lite_llm.agent.checkpoints import Checkpoints, LocalCheckpoint
from lite_llm.checkpoint import ConvertOptions, convert, open_checkpoint
from lite_llm.contracts import Medium
from lite_llm.contracts.errors import (
    Corrupt,
    ModelNotFound,
    OutOfMemory,
    StorageFailed,
    StoreUnavailable,
)
from lite_llm.proto.v1.generate_pb2 import LOAD_PHASE_FETCH, LoadProgress
from lite_llm.proto.v1.model_pb2 import ModelSource
from lite_llm.stores import Backoff
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.testing.guard import Guard
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier
from lite_llm.tiers.cached_file import CachedFile

WAIT = 60.0  # seconds; for the machine's worst day


class Origin:
    """A directory behind HTTP; counts the bytes that it gave and can be slow, wrong or away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sent = 0
        self.url = ""
        self.is_wrong = False
        self.allowed = asyncio.Semaphore(1_000_000)

    async def get(self, request: web.Request) -> web.StreamResponse:
        path = self.root / request.match_info["path"]
        if not path.is_file():
            raise web.HTTPNotFound
        content = path.read_bytes()
        headers = {"ETag": f'"{hash(content)}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(content))})
        span = request.http_range
        part = content[span]
        if path.suffix == ".bin":
            await self.allowed.acquire()
        self.sent += len(part)
        if self.is_wrong and path.suffix == ".bin":
            part = bytes(len(part))
        start = span.start or 0
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return web.Response(status=206, body=part, headers=headers)


@asynccontextmanager
async def served(root: Path) -> AsyncIterator[Origin]:
    origin = Origin(root)
    app = web.Application()
    app.router.add_get("/{path:.*}", origin.get)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield origin
    await runner.cleanup()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``plain`` and ``other`` as on the hub, ``ours`` converted: with checksums."""
    root = tmp_path_factory.mktemp("models")
    shape = Shape(hidden=256, ffn=512)
    tiny_llama(root / "plain", seed=1, shards=2)
    tiny_llama(root / "other", seed=2)
    tiny_llama(root / "large", seed=3, shape=shape)
    for _ in convert(root / "large", root / "ours", ConvertOptions(model="ours")):
        pass
    return root


@pytest.fixture
async def origin(models: Path) -> AsyncIterator[Origin]:
    async with served(models) as origin:
        yield origin


@asynccontextmanager
async def cache_in(root: Path, num_bytes: int = 1 << 30) -> AsyncIterator[Checkpoints]:
    async with AsyncExitStack() as opened:
        budget = DiskBudget(directory=root, num_bytes=num_bytes)
        disks = await opened.enter_async_context(DiskTier({Medium.NVME: budget}))
        reader = DiskReader(threads=1)
        opened.callback(reader.close)
        checkpoints = Checkpoints(root, disks, reader)
        checkpoints.prepare()
        yield checkpoints


@asynccontextmanager
async def held(
    checkpoints: Checkpoints,
    uri: str,
    told: list[LoadProgress] | None = None,
    *,
    distrusted: bool = False,
) -> AsyncIterator[LocalCheckpoint]:
    def tell(progress: LoadProgress, digest: str) -> None:
        if told is not None:
            told.append(progress)

    source = ModelSource(uri=uri)
    async with checkpoints.held(source, tell, distrusted=distrusted) as checkpoint:
        yield checkpoint


def rot(directory: Path) -> None:
    """Change a byte in the middle of the largest file, as a failing disk does."""
    path = max((each for each in directory.rglob("*") if each.is_file()), key=os.path.getsize)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def written_in(root: Path) -> int:
    """Bytes: partial files have their full length from the start, and holes."""
    num_bytes = 0
    for path in [*root.glob("objects/*/*"), *root.glob("partial/*")]:
        with suppress(FileNotFoundError):  # it has just got another name
            num_bytes += 512 * path.stat().st_blocks
    return num_bytes


def assert_same(checkpoint: LocalCheckpoint, original: Path) -> None:
    with open_checkpoint(checkpoint.directory) as copy, open_checkpoint(original) as true:
        assert copy.manifest.tensors == true.manifest.tensors
        assert copy.manifest.extras == true.manifest.extras
        name = "model.embed_tokens.weight"
        assert np.array_equal(copy.tensor(name), true.tensor(name))


@pytest.mark.parametrize("name", ["plain", "ours"])
async def test_a_checkpoint_comes_once(
    name: str, origin: Origin, models: Path, tmp_path: Path
) -> None:
    told: list[LoadProgress] = []
    uri = f"{origin.url}/{name}"
    async with cache_in(tmp_path) as checkpoints:
        async with held(checkpoints, uri, told) as checkpoint:
            assert_same(checkpoint, models / name)
            async with held(checkpoints, uri) as twin:
                assert twin.digest == checkpoint.digest
                assert twin.directory != checkpoint.directory
        assert not checkpoint.directory.exists()
    fetched = [step for step in told if step.phase == LOAD_PHASE_FETCH]
    assert fetched[-1].done_bytes == fetched[-1].total_bytes == checkpoint.num_bytes
    weights = sum(path.stat().st_size for path in (models / name).iterdir())
    assert origin.sent < 1.2 * weights  # and what was read to know what there is
    before = origin.sent
    async with cache_in(tmp_path) as checkpoints, held(checkpoints, uri) as checkpoint:
        assert_same(checkpoint, models / name)
    assert origin.sent - before < 0.1 * weights


@pytest.mark.parametrize("folder", ["listings", "objects", ""])
async def test_folders_that_a_cleaner_took_are_made_again(
    folder: str, origin: Origin, models: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    async with cache_in(root) as checkpoints:
        async with held(checkpoints, f"{origin.url}/plain"):
            pass
        shutil.rmtree(root / folder)
        for name in ("plain", "other"):
            async with held(checkpoints, f"{origin.url}/{name}") as checkpoint:
                assert_same(checkpoint, models / name)


async def test_without_its_origin_the_cache_has_to_do(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda *_: None)  # one attempt
    async with served(models) as origin:
        uri = f"{origin.url}/plain"
        async with cache_in(tmp_path) as checkpoints, held(checkpoints, uri):
            pass
    async with cache_in(tmp_path) as checkpoints:
        async with held(checkpoints, uri) as checkpoint:
            assert_same(checkpoint, models / "plain")
        with pytest.raises(StoreUnavailable):
            async with held(checkpoints, f"{origin.url}/other"):
                pass


async def test_the_cache_is_bounded(origin: Origin, models: Path, tmp_path: Path) -> None:
    sizes = {
        name: sum(path.stat().st_size for path in (models / name).iterdir())
        for name in ("plain", "other")
    }
    room = max(sizes.values()) + min(sizes.values()) // 2
    async with cache_in(tmp_path, room) as checkpoints:
        async with held(checkpoints, f"{origin.url}/plain"):
            with pytest.raises(OutOfMemory, match="no room for"):
                async with held(checkpoints, f"{origin.url}/other"):
                    pass
        async with held(checkpoints, f"{origin.url}/other") as checkpoint:
            assert_same(checkpoint, models / "other")
        assert 0 < bytes_in(tmp_path / "objects") <= room


async def test_what_is_no_checkpoint(origin: Origin, tmp_path: Path) -> None:
    async with cache_in(tmp_path) as checkpoints:
        with pytest.raises(ModelNotFound, match="holds neither"):
            async with held(checkpoints, f"{origin.url}/nothing"):
                pass


async def test_wrong_bytes_are_found(origin: Origin, tmp_path: Path) -> None:
    origin.is_wrong = True
    async with cache_in(tmp_path) as checkpoints:
        with pytest.raises(Corrupt, match="differs from its checksum"):
            async with held(checkpoints, f"{origin.url}/ours"):
                pass


@pytest.mark.parametrize("name", ["other", "ours"])
async def test_a_copy_that_went_bad_is_mended(
    name: str, origin: Origin, models: Path, tmp_path: Path
) -> None:
    uri = f"{origin.url}/{name}"
    async with cache_in(tmp_path) as checkpoints:
        async with held(checkpoints, uri):
            pass
        rot(tmp_path / "objects")
        before = origin.sent
        async with held(checkpoints, uri, distrusted=True) as checkpoint:
            for path in checkpoint.directory.iterdir():
                assert path.read_bytes() == (models / name / path.name).read_bytes()
        assert origin.sent > before


async def test_a_full_disk_is_told(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with cache_in(tmp_path) as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr(CachedFile, "write", full)
            with pytest.raises(StorageFailed, match="can't be written"):
                async with held(checkpoints, f"{origin.url}/plain"):
                    pass
        async with held(checkpoints, f"{origin.url}/plain"):
            pass  # there is room again


async def test_bytes_for_peers(origin: Origin, models: Path, tmp_path: Path) -> None:
    whole = (models / "other" / "model.safetensors").read_bytes()
    async with cache_in(tmp_path) as checkpoints:
        async with held(checkpoints, f"{origin.url}/other") as checkpoint:
            digest = checkpoint.digest
            part = await checkpoints.read(digest, "model.safetensors", 1000, 5000)
            assert part == whole[1000:6000]
            rest = await checkpoints.read(digest, "model.safetensors", len(whole) - 3, 5000)
            assert rest == whole[-3:]
            with pytest.raises(ModelNotFound):
                await checkpoints.read(digest, "../secret", 0, 1)
        with pytest.raises(ModelNotFound):
            await checkpoints.read(digest, "model.safetensors", 0, 1)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def test_s3(s3: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", s3)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")

    def make_bucket() -> None:
        with urlopen(Request(f"{s3}/models", method="PUT")):
            pass

    await asyncio.to_thread(make_bucket)
    store = S3Store.from_url("s3://models/plain", client_options={"allow_http": True})
    for path in (models / "plain").iterdir():
        await obstore.put_async(store, path.name, path.read_bytes())
    uri = "s3://models/plain"
    async with cache_in(tmp_path) as checkpoints, held(checkpoints, uri) as checkpoint:
        assert_same(checkpoint, models / "plain")


FETCH = """
import asyncio, sys
from pathlib import Path
from lite_llm.agent.checkpoints import Checkpoints
from lite_llm.contracts import Medium
from lite_llm.proto.v1.model_pb2 import ModelSource
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier

async def main(root, uri):
    budget = DiskBudget(directory=Path(root), num_bytes=1 << 30)
    async with DiskTier({Medium.NVME: budget}) as disks:
        checkpoints = Checkpoints(Path(root), disks, DiskReader(threads=1))
        checkpoints.prepare()
        async with checkpoints.held(ModelSource(uri=uri), lambda *_: None):
            pass

asyncio.run(main(*sys.argv[1:]))
"""


async def test_kill_9_in_the_middle_loses_nothing_that_came(
    origin: Origin, models: Path, tmp_path: Path
) -> None:
    weights = sum(path.stat().st_size for path in (models / "ours").iterdir())
    origin.allowed = asyncio.Semaphore(1)
    with Guard() as guard:
        argv = [sys.executable, "-c", FETCH, str(tmp_path), f"{origin.url}/ours"]
        fetching = guard.spawn(argv, log="fetch.log")
        deadline = time.monotonic() + WAIT
        while written_in(tmp_path) < 1 << 20:
            assert time.monotonic() < deadline, guard.log_tail("fetch.log")
            await asyncio.sleep(0.02)
        os.kill(fetching.pid, signal.SIGKILL)
        await asyncio.to_thread(fetching.wait)
    (tmp_path / "views" / "left").mkdir()
    origin.allowed, before = asyncio.Semaphore(1_000_000), origin.sent
    async with cache_in(tmp_path) as checkpoints:
        assert not (tmp_path / "views" / "left").exists()
        async with held(checkpoints, f"{origin.url}/ours") as checkpoint:
            assert_same(checkpoint, models / "ours")
    assert origin.sent - before < weights
