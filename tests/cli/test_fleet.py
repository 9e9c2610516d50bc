"""The commands that ask a running orchestrator, beside a real one and a stub of an agent."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lite_llm.cli.app import app
from lite_llm.cli.door import Door
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidSettings, LiteLLMError, Unauthenticated, Unreachable
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Store, StoreSettings, open_store
from lite_llm.orchestrator import OrchestratorSettings, running
from lite_llm.proto.v1.agent_pb2 import MediumStatus
from lite_llm.proto.v1.model_pb2 import Medium, ModelSource, ModelSpec
from lite_llm.testing.stub_agent import StubAgent, stub_agent
from lite_llm.wire import dumps, ref_to_proto

TINY = ModelRef("default", "tiny")


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store(StoreSettings()) as opened:
        yield opened


@pytest.fixture
async def agent(store: Store) -> AsyncIterator[StubAgent]:
    async with stub_agent(store) as stub:
        yield stub


@pytest.fixture
async def url(store: Store, agent: StubAgent) -> AsyncIterator[str]:
    settings = OrchestratorSettings(listen_http="127.0.0.1:0", grace_seconds=0.0)
    async with running(settings, store) as orchestrator:
        yield f"http://{orchestrator.http_address}"


async def declare(store: Store, *models: ModelRef) -> None:
    for model in models:
        spec = ModelSpec(ref=ref_to_proto(model), source=ModelSource(uri="file:///models/x"))
        await store.put(key_of(ModelKey(model)), dumps(spec))


async def command(*words: str, typed: str = "") -> Result:
    runner = CliRunner()
    return await asyncio.to_thread(runner.invoke, app, list(words), typed)


async def seen(*words: str, until: str) -> str:
    """Views follow the store within moments."""
    for _ in range(200):
        if until in (said := (await command(*words)).output):
            return said
        await asyncio.sleep(0.05)
    pytest.fail(f"{words} never said {until!r}, but {said}")


async def test_status_draws_the_fleet(url: str, store: Store, agent: StubAgent) -> None:
    await declare(store, TINY)
    medium = MediumStatus(medium=Medium.MEDIUM_DRAM, capacity_bytes=4 << 30, used_bytes=1 << 30)
    await agent.register(zone="a", media=[medium], waiting_requests=2)
    await agent.hold(ref_to_proto(TINY), reason="serves [bold]well[/]")
    said = await seen("status", "--url", url, until="serves [bold]well[/]")
    for words in ("stub", "memory", "1.0 GiB of 4.0 GiB", "2 waiting", "healthy", "tiny", "active"):
        assert words in said


async def test_json_for_scripts(url: str, store: Store, agent: StubAgent) -> None:
    await declare(store, TINY)
    said = await seen("models", "--json", "--url", url, until="tiny")
    assert json.loads(said)["models"][0]["spec"]["ref"]["name"] == "tiny"
    assert "agents" not in json.loads(said)
    said = await seen("agents", "--json", "--url", url, until="stub")
    assert json.loads(said)["agents"][0]["node"] == "stub"


async def test_an_empty_fleet_says_what_to_do(store: Store) -> None:
    settings = OrchestratorSettings(listen_http="127.0.0.1:0", grace_seconds=0.0)
    async with running(settings, store) as orchestrator:
        url = f"http://{orchestrator.http_address}"
        assert "lite-llm agent --etcd" in (await command("agents", "--url", url)).output
        assert "--model DIR" in (await command("models", "--url", url)).output


async def test_chat_remembers_the_talk(url: str, store: Store, agent: StubAgent) -> None:
    await declare(store, TINY)
    await seen("models", "--url", url, until="tiny")
    result = await command(
        "chat", "--url", url, "--tier-set", "deep", "--system", "Be kind.", typed="hello\n\nagain\n"
    )
    assert result.exit_code == 0
    assert result.output.count("one two three") == 2
    told = [[message.content for message in start.chat.messages] for start in agent.generations]
    assert told == [
        ["Be kind.", "hello"],
        ["Be kind.", "hello", "one two three", "again"],
    ]
    assert agent.generations[0].tiers.mode


async def test_chat_completes_texts(url: str, store: Store, agent: StubAgent) -> None:
    await declare(store, TINY)
    await seen("models", "--url", url, until="tiny")
    result = await command("chat", "tiny", "--complete", "--url", url, typed="def main():\n")
    assert "one two three" in result.output
    assert agent.generations[0].text == "def main():"


async def test_chat_needs_to_know_the_model(url: str, store: Store) -> None:
    assert "no model is served" in str((await command("chat", "--url", url)).exception)
    await declare(store, TINY, ModelRef("team", "other"))
    await seen("models", "--url", url, until="other")
    assert "name one of tiny, team/other" in str((await command("chat", "--url", url)).exception)
    missing = (await command("chat", "none", "--url", url, typed="x\n")).exception
    assert isinstance(missing, LiteLLMError)
    assert "does not exist" in str(missing)


async def test_keys_are_asked_for(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"tenants": [{"name": "a", "keys": ["sha256:" + "0" * 64]}]}))
    settings = OrchestratorSettings(listen_http="127.0.0.1:0", grace_seconds=0.0, keys=keys)
    async with running(settings, store) as orchestrator:
        refused = await command("status", "--url", f"http://{orchestrator.http_address}")
    assert isinstance(refused.exception, Unauthenticated)


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreachable, match=r"nobody answers at .*lite-llm up"):
        Door(f"http://127.0.0.1:{port}").get("/v1/models")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://x", "http://[::1", "http://x:port", "http://x/v1"]
)
def test_no_address(url: str) -> None:
    with pytest.raises(InvalidSettings, match="is no address"):
        Door(url).get("/v1/models")


async def test_an_answer_that_breaks_off_is_not_taken_for_whole() -> None:
    chunk = b'data: {"choices":[{"text":"half"}]}\n\n'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        result = await command("chat", "tiny", "--complete", "--url", url, typed="x\n")
    assert result.stdout.startswith("half")
    assert "broke off: it has no end" in str(result.exception)


async def test_another_server_refuses_in_its_own_words() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 404 Nowhere\r\nContent-Length: 16\r\n\r\n{"error":"none"}')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        refused = await command("status", "--url", url)
    assert "404 Nowhere" in str(refused.exception)


async def test_a_further_name_is_no_second_model(url: str, store: Store, agent: StubAgent) -> None:
    spec = ModelSpec(ref=ref_to_proto(TINY), source=ModelSource(uri="file:///x"), aliases=["other"])
    await store.put(key_of(ModelKey(TINY)), dumps(spec))
    await seen("models", "--url", url, until="tiny")
    assert "one" in (await command("chat", "--url", url, typed="x\n")).stdout


async def test_another_server_than_ours() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        refused = await command("status", "--url", f"http://127.0.0.1:{port}")
    assert "broke off" in str(refused.exception)
