"""A small model hub with the routes of the real one, over one directory, with faults to order."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

REPOSITORY = "owner/tiny"


class Hub:
    """Serves ``directory`` as one repository; ``gets`` counts by file what was downloaded."""

    def __init__(self, directory: Path, repository: str = REPOSITORY) -> None:
        self.directory = directory
        self.repository = repository
        self.gets: Counter[str] = Counter()
        self.wrong_sha = ""
        """Name of a file whose SHA-256 is told wrongly."""
        self.cut = ""
        """Name of a file that ends early, until cleared."""
        self.stalled = asyncio.Event()
        self.stall = ""
        """Name of a file that never comes."""
        self.url = ""

    @property
    def commit(self) -> str:
        names = sorted(path.name for path in self.directory.iterdir())
        state = [(name, (self.directory / name).stat().st_mtime_ns) for name in names]
        return hashlib.sha1(repr(state).encode()).hexdigest()

    async def info(self, request: web.Request) -> web.Response:
        siblings: list[dict[str, Any]] = []
        for path in sorted(self.directory.iterdir()):
            one: dict[str, Any] = {"rfilename": path.name, "size": path.stat().st_size}
            if path.suffix == ".safetensors":
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if path.name == self.wrong_sha:
                    digest = "0" * 64
                one["lfs"] = {"sha256": digest, "size": one["size"], "pointerSize": 130}
            siblings.append(one)
        siblings.append({"rfilename": "onnx/model.onnx", "size": 1})
        return web.json_response({"id": self.repository, "sha": self.commit, "siblings": siblings})

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = self.directory / name
        if not path.exists():
            raise web.HTTPNotFound
        content = path.read_bytes()
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(content)), "ETag": '"1"'})
        self.gets[name] += 1
        if name == self.stall:
            self.stalled.set()
            await asyncio.sleep(600)
        start, end, status = 0, len(content), 200
        headers = {"ETag": '"1"'}
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", "")):
            start, end, status = int(match[1]), int(match[2]) + 1, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = content[start:end]
        if name == self.cut:
            self.cut = ""
            answer = web.StreamResponse(status=status, headers=headers)
            answer.content_length = len(body)
            await answer.prepare(request)
            await answer.write(body[: len(body) // 2])
            assert request.transport
            request.transport.close()
            return answer
        return web.Response(body=body, status=status, headers=headers)


async def _unknown(request: web.Request) -> web.Response:
    return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound"})


@asynccontextmanager
async def serving_hub(directory: Path, repository: str = REPOSITORY) -> AsyncIterator[Hub]:
    """A hub while the block runs; the files are also under ``/plain``, without any listing."""
    hub = Hub(directory, repository)
    app = web.Application()
    app.router.add_get(f"/api/models/{repository}", hub.info)
    app.router.add_get(f"/api/models/{repository}/revision/{{revision}}", hub.info)
    app.router.add_get(f"/{repository}/resolve/{{revision}}/{{name}}", hub.file)
    app.router.add_get("/plain/{name}", hub.file)
    app.router.add_get("/api/models/{path:.*}", _unknown)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield hub
    finally:
        await runner.cleanup()
