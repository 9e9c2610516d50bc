"""Command lines and requests, against what each server's own parsers accept."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from lite_llm.backends import PROFILES, Backend, Call, Launch, foreign_backend, profile_for
from lite_llm.contracts.errors import Corrupt, InvalidRequest, InvalidSettings, Unsupported
from lite_llm.proto.v1 import generate_pb2 as wire

ACCEPTED = Path(__file__).with_name("accepted")
PYTHONS = {"vllm": "LITE_LLM_VLLM_PYTHON", "tokasaurus": "LITE_LLM_TOKASAURUS_PYTHON"}
"""Environment variables that name a Python with the real package, which takes gigabytes."""
PROGRAMS = {"vllm": "vllm", "tokasaurus": "toka", "llamacpp": "llama-server"}
EVERYTHING = wire.SamplingParameters(
    max_tokens=7, min_tokens=2, temperature=0.7, top_p=0.9, top_k=40, min_p=0.05,
    presence_penalty=0.1, frequency_penalty=0.2, repetition_penalty=1.1, seed=(1 << 64) - 1,
    stop=["\n"], stop_token_ids=[3], ignore_eos=True, logprobs=2, n=2, logit_bias={5: -1.5},
    include_stop=True,
)  # fmt: skip
ITS_OWN = {"vllm": EVERYTHING, "tokasaurus": wire.SamplingParameters(temperature=0.7, stop=["\n"])}
CHAT = wire.Chat(
    messages=[
        wire.ChatMessage(role="user", content="hi"),
        wire.ChatMessage(role="assistant", extra_json='{"content": null, "refusal": "no"}'),
    ]
)


class NoServer:
    async def get(self, path: str) -> Any:
        raise AssertionError(path)

    async def post(self, path: str, body: object) -> Any:
        raise AssertionError(path)


@pytest.fixture
def launch(tmp_path: Path, stand_ins: None) -> Launch:
    directory = tmp_path
    (directory / "config.json").write_text('{"text_config": {"max_position_embeddings": 2048}}')
    (directory / "model.gguf").write_bytes(b"GGUF")
    return Launch(
        source=directory,
        model="default/tiny",
        profile=PROFILES["medium"],
        threads=3,
        socket=directory / "s.sock",
        port=12345,
    )


def options_in(arguments: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Names of options, and whether they are a flag or have a value."""
    for number, argument in enumerate(arguments):
        name, has_value, _ = argument.partition("=")
        following = [*arguments, "--"][number + 1]
        if argument.startswith("--"):
            yield name, "value" if has_value or not following.startswith("--") else "flag"
        elif has_value:
            yield name, "value"


def table_of(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((ACCEPTED / f"{name}.json").read_text())
    return table


async def calls_of(backend: Backend, launch: Launch) -> dict[str, list[Call]]:
    sampling = ITS_OWN[backend.name]
    prompts: dict[str, Any] = {
        "completion": [{"text": "hi"}, {"token_ids": wire.TokenIds(ids=[1, 2])}],
        "chat": [{"chat": CHAT}],
    }
    return {
        kind: [
            await backend.call(
                wire.GenerateStart(sampling=sampling, **prompt), 1, NoServer(), launch
            )
            for prompt in each
        ]
        for kind, each in prompts.items()
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_option_is_one_that_the_server_has(name: str, launch: Launch) -> None:
    command = foreign_backend(name).command(launch)
    table = table_of(name)["options"]
    assert Path(command.arguments[0]).name == PROGRAMS[name]
    used = dict(options_in(command.arguments[1:]))
    assert len(used) >= 7
    for option, kind in used.items():
        assert option in table, f"{option} is unknown to {table_of(name)['source']}"
        assert table[option] in (kind, "int", "str", "int | None", "str | None"), option


@pytest.mark.parametrize("name", PYTHONS)
async def test_every_field_of_a_request_is_one_that_the_server_has(
    name: str, launch: Launch
) -> None:
    for kind, calls in (await calls_of(foreign_backend(name), launch)).items():
        for call in calls:
            assert set(call.body) <= set(table_of(name)[kind])
            json.dumps(call.body)


def run(command: list[str], **more: str) -> Callable[[], subprocess.CompletedProcess[str]]:
    return partial(subprocess.run, command, stdout=PIPE, text=True, check=True, **more)


@pytest.mark.parametrize("name", PYTHONS)
async def test_the_servers_own_parsers_accept_it_all(name: str, launch: Launch) -> None:
    python = os.environ.get(PYTHONS[name])
    if not python:
        pytest.skip(f"{PYTHONS[name]} names no Python with {name}; the recorded table was used")
    backend = foreign_backend(name)
    arguments = backend.command(launch).arguments
    calls = await calls_of(backend, launch)
    given = {
        "arguments": arguments[2:] if name == "vllm" else arguments[1:],
        "completions": [call.body for call in calls["completion"]],
        "chats": [call.body for call in calls["chat"]],
    }
    script = [python, str(ACCEPTED / f"describe_{name}.py")]
    await asyncio.to_thread(run([*script, "check"], input=json.dumps(given)))
    told = (await asyncio.to_thread(run(script))).stdout
    assert json.loads(told) == table_of(name), "the table is of another version: make it anew"


async def test_vllm_is_asked_for_what_was_asked_for(launch: Launch) -> None:
    (call, _), (chat,) = (await calls_of(foreign_backend("vllm"), launch)).values()
    expected = {
        "max_tokens": 7, "min_tokens": 2, "temperature": 0.7, "top_p": 0.9, "top_k": 40,
        "min_p": 0.05, "presence_penalty": 0.1, "frequency_penalty": 0.2,
        "repetition_penalty": 1.1, "stop": ["\n"], "stop_token_ids": [3], "ignore_eos": True,
        "logprobs": 2, "logit_bias": {"5": -1.5}, "include_stop_str_in_output": True,
        "prompt": "hi", "return_token_ids": True, "stream": True,
    }  # fmt: skip
    assert call.body.items() >= expected.items()
    assert 0 <= call.body["seed"] < 1 << 63
    assert (chat.body["logprobs"], chat.body["top_logprobs"]) == (True, 2)
    assert chat.body["messages"][1] == {"role": "assistant", "content": None, "refusal": "no"}


async def test_what_nobody_says_is_left_to_the_checkpoint(launch: Launch) -> None:
    backend = foreign_backend("vllm")
    start = wire.GenerateStart(text="hi", tenant="", priority=2)
    body = (await backend.call(start, 0, NoServer(), launch)).body
    assert not body.keys() & {"temperature", "top_p", "top_k", "min_p", "cache_salt", "logprobs"}
    assert body["max_tokens"] is None
    assert body["priority"] == -2
    start = wire.GenerateStart(text="hi", tenant="somebody")
    assert (await backend.call(start, 0, NoServer(), launch)).body["cache_salt"] == "somebody"


async def test_llamacpp_never_uses_its_own_defaults(launch: Launch) -> None:
    backend = foreign_backend("llamacpp")
    body = (await backend.call(wire.GenerateStart(text="hi"), 0, NoServer(), launch)).body
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
    assert body.items() >= neutral.items()
    assert body["cache_prompt"]
    start = wire.GenerateStart(text="hi", tenant="somebody")
    assert not (await backend.call(start, 0, NoServer(), launch)).body["cache_prompt"]


async def test_tokasaurus_refuses_what_it_would_ignore(launch: Launch) -> None:
    backend = foreign_backend("tokasaurus")
    start = wire.GenerateStart(text="hi", sampling=EVERYTHING)
    with pytest.raises(Unsupported, match=r"logit_bias.*min_p.*top_k"):
        await backend.call(start, 0, NoServer(), launch)
    start.sampling.CopyFrom(wire.SamplingParameters(top_p=1.0, top_k=0))  # say nothing
    assert (await backend.call(start, 0, NoServer(), launch)).body["max_tokens"] == 1024


@pytest.mark.parametrize("tools", ["{}", "no json", "[" * 100_000])
async def test_tools_that_are_no_list_are_the_requests_fault(launch: Launch, tools: str) -> None:
    chat = wire.Chat(messages=CHAT.messages, tools_json=tools)
    with pytest.raises(InvalidRequest, match="tools"):
        await foreign_backend("vllm").call(wire.GenerateStart(chat=chat), 0, NoServer(), launch)


def test_a_context_is_the_models_or_the_profiles(launch: Launch) -> None:
    arguments = foreign_backend("vllm").command(launch).arguments
    assert arguments[arguments.index("--max-model-len") + 1] == "2048"
    (launch.source / "config.json").write_text("{}")
    arguments = foreign_backend("vllm").command(launch).arguments
    assert arguments[arguments.index("--max-model-len") + 1] == "8192"
    for broken in ("[]", "{", '{"text_config": 3}'):
        (launch.source / "config.json").write_text(broken)
        with pytest.raises(Corrupt):
            foreign_backend("vllm").command(launch)
    (launch.source / "config.json").unlink()
    with pytest.raises(InvalidRequest, match=r"config\.json"):
        foreign_backend("vllm").command(launch)


def test_llamacpp_needs_one_file(launch: Launch) -> None:
    backend = foreign_backend("llamacpp")
    (launch.source / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidRequest, match="not one GGUF file"):
        backend.command(launch)
    for name in ("model.gguf", "other.gguf"):
        (launch.source / name).unlink()
    for number in (1, 2):
        (launch.source / f"m-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    assert str(launch.source / "m-00001-of-00002.gguf") in backend.command(launch).arguments


def test_without_a_program_the_wheels_server_is_started(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    arguments = foreign_backend("llamacpp").command(launch).arguments
    assert arguments[0] == sys.executable
    assert Path(arguments[2]).name == "llama_server.py"
    with pytest.raises(InvalidSettings, match="install tokasaurus"):
        foreign_backend("tokasaurus").command(launch)


@pytest.mark.parametrize(
    ("size", "name"), [(0, "small"), (8 << 30, "small"), (9 << 30, "medium"), (80 << 30, "large")]
)
def test_a_profile_is_chosen_by_size(size: int, name: str) -> None:
    assert profile_for("", size) == PROFILES[name]
    assert profile_for("large", size) == PROFILES["large"]
    with pytest.raises(InvalidRequest, match="small, medium, large"):
        profile_for("Large", size)


SCHEMA = '{"type":"object","properties":{"city":{"type":"string"}}}'


@pytest.mark.parametrize(
    ("name", "field"), [("vllm", "response_format"), ("llamacpp", "json_schema")]
)
async def test_a_schema_is_passed_on(name: str, field: str, launch: Launch) -> None:
    start = wire.GenerateStart(text="hi", sampling=wire.SamplingParameters(json_schema=SCHEMA))
    call = await foreign_backend(name).call(start, 0, NoServer(), launch)
    assert SCHEMA in json.dumps(call.body[field], separators=(",", ":"))
    start.sampling.json_schema = "[]"
    with pytest.raises(InvalidRequest, match="response_format"):
        await foreign_backend(name).call(start, 0, NoServer(), launch)


async def test_a_schema_is_refused_by_the_name_that_clients_know(launch: Launch) -> None:
    start = wire.GenerateStart(text="hi", sampling=wire.SamplingParameters(json_schema=SCHEMA))
    with pytest.raises(Unsupported) as refusal:
        await foreign_backend("tokasaurus").call(start, 0, NoServer(), launch)
    assert refusal.value.where == "response_format"
