"""Every scheme against a real server or a stand-in that speaks its protocol."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

import obstore
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from lite_llm.contracts.errors import InvalidRequest, ModelNotFound, StoreUnavailable
from lite_llm.tiers import LocalSource, ReadFailed, Source, open_source

CONTENT = os.urandom(400_000)
NAME = "model/weights 1.bin"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


async def assert_serves(source: Source | LocalSource) -> None:
    assert not isinstance(source, LocalSource)
    target = bytearray(300_000)
    await source.read(NAME, 50_000, memoryview(target))
    assert bytes(target) == CONTENT[50_000:350_000]
    assert await source.identity(NAME) == await source.identity(NAME)
    with pytest.raises(ReadFailed, match="does not exist"):
        await source.read("model/nothing.bin", 0, memoryview(bytearray(1)))
    await source.close()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


def ranged(request: web.Request, headers: dict[str, str]) -> web.Response:
    """``CONTENT``, or the part that is asked for."""
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if not match:
        return web.Response(body=CONTENT, headers=headers)
    start, end = int(match[1]), int(match[2]) + 1
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(CONTENT)}"
    return web.Response(status=206, body=CONTENT[start:end], headers=headers)


async def test_file_is_read_in_place(tmp_path: Path) -> None:
    source = await open_source((tmp_path / "a b").as_uri())
    assert isinstance(source, LocalSource)
    assert source.path("w.bin") == tmp_path / "a b" / "w.bin"
    with pytest.raises(InvalidRequest, match="another machine"):
        await open_source("file://elsewhere/x")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def test_s3(s3: str) -> None:
    options = {"endpoint": s3, "region": "us-east-1"}
    options |= {"access_key_id": "a", "secret_access_key": "b"}

    def make_bucket() -> None:
        with urlopen(Request(f"{s3}/models", method="PUT")):
            pass

    await asyncio.to_thread(make_bucket)
    store = S3Store.from_url(
        "s3://models/tiny",
        endpoint=s3,
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        client_options={"allow_http": True},
    )
    await obstore.put_async(store, NAME, CONTENT)
    await assert_serves(await open_source("s3://models/tiny", options=options))


async def test_gs(serve: Serve) -> None:
    async def xml_api(request: web.Request) -> web.Response:
        if request.path != f"/models/tiny/{NAME}":
            text = f"<Error><Code>NoSuchKey</Code><Key>{escape(request.path)}</Key></Error>"
            return web.Response(status=404, text=text, content_type="application/xml")
        return ranged(
            request,
            {
                "ETag": '"1"',
                "x-goog-generation": "1",
                "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            },
        )

    url = await serve(xml_api)
    await assert_serves(
        await open_source("gs://models/tiny", options={"base_url": url, "skip_signature": "true"})
    )


async def test_az(serve: Serve) -> None:
    async def blob_api(request: web.Request) -> web.Response:
        assert request.headers["Authorization"].startswith("SharedKey account:")
        if request.path != f"/account/models/tiny/{NAME}":
            text = "<Error><Code>BlobNotFound</Code></Error>"
            return web.Response(status=404, text=text, content_type="application/xml")
        return ranged(request, {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})

    url = await serve(blob_api)
    await assert_serves(
        await open_source(
            "az://models/tiny",
            options={
                "account_name": "account",
                "access_key": "c2VjcmV0",
                "endpoint": f"{url}/account",
            },
        )
    )


class Hub:
    """The routes of a hub that a load needs."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        info = {"id": "acme/tiny", "modelId": "acme/tiny", "sha": self.commit, "siblings": []}
        if request.path in {
            "/api/models/acme/tiny",
            "/api/models/acme/tiny/revision/main",
            "/api/models/acme/tiny/revision/v1",
        }:
            return web.json_response(info)
        if request.path == f"/acme/tiny/resolve/{self.commit}/{NAME}":
            # Large files lie on another host, behind a redirect.
            raise web.HTTPFound(f"/cdn/{self.commit}")
        if request.path == f"/cdn/{self.commit}":
            return ranged(request, {"ETag": '"1"', "X-Repo-Commit": self.commit})
        missing = "EntryNotFound" if "resolve" in request.path else "RepoNotFound"
        return web.Response(status=404, headers={"X-Error-Code": missing}, text="not found")


@pytest.mark.parametrize("revision", ["", "@v1"])
async def test_hf(serve: Serve, revision: str) -> None:
    hub = Hub()
    url = await serve(hub.answer)
    source = await open_source(f"hf://acme/tiny{revision}", options={"endpoint": url})
    await assert_serves(source)
    assert not isinstance(source, LocalSource)
    assert hub.commit in await source.identity(NAME)
    asked = f"/revision/{revision[1:]}" if revision else ""
    assert hub.asked[0] == f"/api/models/acme/tiny{asked}"


async def test_hubs_that_have_nothing_or_are_away(serve: Serve) -> None:
    url = await serve(Hub().answer)
    with pytest.raises(ModelNotFound, match="shows no acme/nothing"):
        await open_source("hf://acme/nothing", options={"endpoint": url})
    with pytest.raises(StoreUnavailable):
        await open_source("hf://acme/tiny", options={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(InvalidRequest, match="names no model"):
        await open_source("hf://only-a-name")


@pytest.mark.parametrize("uri", ["ftp://x/y", "models/tiny", "", "s3:/x"])
async def test_what_is_no_source_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest):
        await open_source(uri)
