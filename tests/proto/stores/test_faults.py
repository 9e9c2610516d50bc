"""Slow links, silent hubs, answers that are none, and tokens that stay where they belong."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from lite_llm.contracts.errors import Corrupt, InvalidRequest, ModelNotFound, StoreUnavailable
from lite_llm.stores import Backoff, StoreSettings, StoreSource, list_checkpoint, open_source
from lite_llm.stores.store_source import open_http
from lite_llm.testing.hub import serving_hub

CONTENT = bytes(1 << 20)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


def patience(*, attempts: int = 1, stall_seconds: float = 20.0) -> StoreSettings:
    return StoreSettings(
        backoff=Backoff(attempts=attempts, first_seconds=0.01), stall_seconds=stall_seconds
    )


async def test_a_link_that_is_only_slow_is_waited_for(serve: Serve) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
        assert match
        start, end = int(match[1]), int(match[2]) + 1
        answer = web.StreamResponse(
            status=206,
            headers={
                "Content-Range": f"bytes {start}-{end - 1}/{len(CONTENT)}",
                "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            },
        )
        answer.content_length = end - start
        await answer.prepare(request)
        for at in range(start, end, 64 << 10):
            await answer.write(CONTENT[at : min(at + (64 << 10), end)])
            await asyncio.sleep(0.1)
        return answer

    source = open_http(await serve(slow), patience(attempts=3, stall_seconds=1.0))
    await source.read("weights.bin", 0, memoryview(bytearray(len(CONTENT))))


async def test_a_token_stays_with_the_host_it_was_given_for(serve: Serve) -> None:
    told: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.Response:
        told.append(request.headers.get("Authorization"))
        return web.Response(status=429)

    there = await serve(elsewhere)

    async def here(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        raise web.HTTPFound(f"{there}/cdn")

    source = open_http(
        await serve(here), patience(attempts=2), headers={"authorization": "Bearer secret"}
    )
    with pytest.raises(StoreUnavailable):
        await source.read("weights.bin", 0, memoryview(bytearray(1)))
    assert set(told) == {None}


async def test_a_server_that_speaks_no_http_when_asked_how_long_is_away() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        no = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(no if asked.startswith(b"GET") else b"nonsense\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        source = open_http(f"http://127.0.0.1:{port}", patience())
        with pytest.raises(StoreUnavailable):
            await source.read("weights.bin", 0, memoryview(bytearray(1)))


async def hub_of(serve: Serve, asked: dict[str, str | None]) -> str:
    """With one file; tells what it was shown as authority, by path."""

    async def answer(request: web.Request) -> web.Response:
        asked[request.path] = request.headers.get("Authorization")
        if "/revision/" in request.path:
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        if "/api/" in request.path:
            return web.json_response({"id": "acme/tiny", "sha": COMMIT, "siblings": []})
        return web.Response(headers={"ETag": '"1"'}, body=b"{}")

    return await serve(answer)


async def test_the_token_of_the_environment_is_shown_for_files_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked: dict[str, str | None] = {}
    url = await hub_of(serve, asked)
    source = await open_source("hf://acme/tiny", options={"endpoint": url})
    assert isinstance(source, StoreSource)
    await source.status("config.json")
    assert len(asked) == 2
    assert set(asked.values()) == {"Bearer hf_secret"}


async def test_a_revision_that_is_not_there_is_named(serve: Serve) -> None:
    url = await hub_of(serve, {})
    with pytest.raises(ModelNotFound, match="no revision v9"):
        await open_source("hf://acme/tiny@v9", options={"endpoint": url})


async def test_a_hub_that_never_answers_is_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(600)
        raise AssertionError

    monkeypatch.setattr("lite_llm.stores.hub.ASK_SECONDS", 0.1)
    url = await serve(silent)
    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailable):
            await open_source("hf://acme/tiny", options={"endpoint": url})


@pytest.mark.parametrize(
    "uri", ["http://[::1", "http://", "https://x:99999/y", "s3://[", "hf://../..", "hf://a/.."]
)
async def test_what_is_no_address_is_refused_as_such(uri: str) -> None:
    with pytest.raises(InvalidRequest):
        await open_source(uri)


@pytest.mark.parametrize("shard", ["sub/a.safetensors", ".a.safetensors", "a.bin", "../x"])
async def test_shards_that_no_reader_would_take_are_not_fetched(tmp_path: Path, shard: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{shard}"}}}}')
    async with serving_hub(tmp_path) as hub:
        source = await open_source(f"{hub.url}/plain")
        assert isinstance(source, StoreSource)
        with pytest.raises(Corrupt, match="no plain name"):
            await list_checkpoint(source)
