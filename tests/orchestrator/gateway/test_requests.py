"""What is refused and by which name, and what of a body reaches the agent, on both endpoints."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import aiohttp
import openai
import pytest

from lite_llm.proto.v1.generate_pb2 import SamplingParameters
from lite_llm.testing.stub_agent import StubAgent

pytestmark = pytest.mark.usefixtures("model")

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "tiny", "prompt": "x"},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "x"}]},
}
COMPLETIONS, CHAT = BODIES

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"lite_llm": {"tier_set": "fastest"}}, "lite_llm.tier_set"),
    ({"lite_llm": {"tier_sets": "fast"}}, "lite_llm"),
    ({"lite_llm": {"priority": 1000}}, "lite_llm.priority"),
    ({"model": 3}, "model"),
    ({"model": ""}, "model"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2**40}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"seed": "x"}, "seed"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "a" * 1025}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream_options": {}}, "stream_options"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
    ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
]
INVALID_COMPLETION: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[1], []]}, "prompt"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": ["a"] * 1025}, "prompt"),
    ({"prompt": ["a"] * 9, "n": 128}, "prompt"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
]
INVALID_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
     "messages[0].content[0].text"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"tools": [3]}, "tools[0]"),
]  # fmt: skip
UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"guided_json": {"type": "object"}}, "guided_json"),
    ({"bad_words": ["x"]}, "bad_words"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
]
UNSUPPORTED_COMPLETION: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "best_of"),
    ({"suffix": "end"}, "suffix"),
    ({"echo": True, "prompt": [1, 2]}, "echo"),
]
UNSUPPORTED_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"echo": True}, "echo"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "messages[0].content[0].type"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "code", "cases"),
    [
        (COMPLETIONS, "invalid_request", INVALID + INVALID_COMPLETION),
        (COMPLETIONS, "unsupported", UNSUPPORTED + UNSUPPORTED_COMPLETION),
        (CHAT, "invalid_request", INVALID + INVALID_CHAT),
        (CHAT, "unsupported", UNSUPPORTED + UNSUPPORTED_CHAT),
    ],
)
async def test_a_wrong_field_is_named(
    http: aiohttp.ClientSession, path: str, code: str, cases: list[tuple[dict[str, Any], str]]
) -> None:
    for fields, param in cases:
        async with http.post(path, json=BODIES[path] | fields) as response:
            error = (await response.json())["error"]
        assert response.status == 400, (fields, error)
        assert (error["param"], error["code"]) == (param, code), fields
        assert error["type"] == "invalid_request_error"
        assert param.partition("[")[0] in error["message"]


@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), (CHAT, "messages")])
async def test_a_missing_field_is_named(http: aiohttp.ClientSession, path: str, field: str) -> None:
    async with http.post(path, json={"model": "tiny"}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == field


@pytest.mark.parametrize("path", BODIES)
async def test_neutral_and_unknown_fields_are_accepted(
    http: aiohttp.ClientSession, agent: StubAgent, path: str
) -> None:
    neutral: dict[str, Any] = {
        "n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "stop": None,
        "presence_penalty": 0, "logit_bias": {}, "user": "me", "no_such_field": [1], "tools": [],
        "response_format": {"type": "text"}, "tool_choice": "auto", "modalities": ["text"],
        "bad_words": [], "skip_special_tokens": True, "chat_template_kwargs": {},
    }  # fmt: skip
    async with http.post(path, json=BODIES[path] | neutral) as response:
        assert response.status == 200, await response.text()


MALFORMED = [
    *(b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"x":' + b"[" * 100_000),
    *(b'{"model":"\xff"}', b'{"\xff":1}', b'{"model":"\\ud800"}'),
]


@pytest.mark.parametrize("path", [*BODIES, "/v1/embeddings"])
async def test_malformed_json_is_refused(http: aiohttp.ClientSession, path: str) -> None:
    for body in MALFORMED:
        async with http.post(path, data=body) as response:
            assert response.status == 400, body[:99]
            assert (await response.json())["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("path", BODIES)
async def test_an_oversized_body_is_refused(http: aiohttp.ClientSession, path: str) -> None:
    body = BODIES[path] | {"user": "x" * (256 << 10)}
    async with http.post(path, json=body) as response:
        assert response.status == 413
        error = (await response.json())["error"]
    assert error["code"] == "request_entity_too_large"
    assert error["type"] == "invalid_request_error"


async def test_a_compressed_body_is_read_within_the_same_bound(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    async def post(body: bytes, encoding: str = "gzip") -> tuple[int, str]:
        headers = {"Content-Encoding": encoding}
        async with http.post("/v1/completions", data=body, headers=headers) as response:
            return response.status, await response.text()

    good = gzip.compress(json.dumps({"model": "tiny", "prompt": "x"}).encode())
    assert (await post(good))[0] == 200
    assert (await post(good, "GZIP"))[0] == 200
    bomb = gzip.compress(b" " * (64 << 20))
    for body, encoding, status in (
        (bomb, "gzip", 413), (good[:-9], "gzip", 400), (b"{}", "gzip", 400), (b"{}", "br", 415),
    ):  # fmt: skip
        told, text = await post(body, encoding)
        assert (told, json.loads(text)["error"]["type"]) == (status, "invalid_request_error")


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI, agent: StubAgent) -> None:
    for name in ("absent", "no/such", "Not A Name!", "a/b/c"):
        for asking in (
            client.completions.create(model=name, prompt="x"),
            client.chat.completions.create(model=name, messages=[]),
            client.embeddings.create(model=name, input="x"),
        ):
            with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as caught:
                await asking
            missing = isinstance(caught.value, openai.BadRequestError)
            assert caught.value.param == ("messages" if missing else "model")
            assert missing or caught.value.code == "model_not_found"
    assert agent.loads == []


SAMPLING: dict[str, Any] = {
    "temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.25, "repetition_penalty": 1.5,
    "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": -1, "n": 2, "stop": ["\n", "."],
    "stop_token_ids": [3, 4], "min_tokens": 2, "ignore_eos": True,
    "logit_bias": {"3": -100, "4": 2},
    "include_stop_str_in_output": True, "prompt_logprobs": 3, "max_tokens": 9,
}  # fmt: skip


@pytest.mark.parametrize(("path", "logprobs"), [(COMPLETIONS, {"logprobs": 1}),
    (CHAT, {"logprobs": True, "top_logprobs": 1})])  # fmt: skip
async def test_what_is_asked_for_reaches_the_agent(
    http: aiohttp.ClientSession, agent: StubAgent, path: str, logprobs: dict[str, Any]
) -> None:
    async with http.post(path, json=BODIES[path] | SAMPLING | logprobs) as response:
        assert response.status == 200, await response.text()
    sampling = agent.generations[0].sampling
    assert sampling == SamplingParameters(
        temperature=0, top_p=0.5, top_k=7, min_p=0.25, repetition_penalty=1.5,
        presence_penalty=0.5, frequency_penalty=-0.5, seed=2**64 - 1, n=2, stop=["\n", "."],
        stop_token_ids=[3, 4], min_tokens=2, ignore_eos=True, logit_bias={3: -100, 4: 2},
        include_stop=True, prompt_logprobs=3, max_tokens=9, logprobs=1,
    )  # fmt: skip


@pytest.mark.parametrize(("path", "default_max_tokens"), [(COMPLETIONS, 16), (CHAT, 0)])
async def test_what_is_not_asked_for_is_left_to_the_checkpoint(
    http: aiohttp.ClientSession, agent: StubAgent, path: str, default_max_tokens: int
) -> None:
    for _ in range(2):
        async with http.post(path, json=BODIES[path]) as response:
            assert response.status == 200
    first, second = agent.generations
    assert first.sampling.seed != second.sampling.seed
    assert first.request_id != second.request_id
    assert first.tenant == ""
    first.sampling.ClearField("seed")
    assert first.sampling == SamplingParameters(default_max_tokens=default_max_tokens)


async def test_a_tenant_in_the_body_is_nobody(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    for path, body in BODIES.items():
        await http.post(path, json=body | {"tenant": "other", "priority": 7})
    assert [(start.tenant, start.priority) for start in agent.generations] == [("", 0)] * 2


async def test_prompts_reach_the_agent(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    for prompt in ("a", ["a"], [5, 6], [[5, 6]]):
        async with http.post(COMPLETIONS, json={"model": "tiny", "prompt": prompt}) as response:
            assert response.status == 200
    assert [start.text or list(start.token_ids.ids) for start in agent.generations] == [
        "a", "a", [5, 6], [5, 6],
    ]  # fmt: skip


async def test_conversations_reach_the_agent(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "be\nbrief", "name": "me"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "", "tool_call_id": "1"},
        ],
        "tools": [tool],
        "max_tokens": 5,
        "max_completion_tokens": 4,
    }
    for choice in ("auto", "none"):
        async with http.post(CHAT, json=body | {"tool_choice": choice}) as response:
            assert response.status == 200, await response.text()
    told, silent = agent.generations
    assert told.WhichOneof("prompt") == "chat"
    assert told.sampling.max_tokens == 4
    assert abs(told.created_at - time.time()) < 600, "what the template takes for now"
    assert [
        (message.role, message.content, json.loads(message.extra_json or "null"))
        for message in told.chat.messages
    ] == [
        ("system", "be\nbrief", {"name": "me"}),
        ("user", "a\nb", None),
        ("assistant", "", {"tool_calls": [call]}),
        ("tool", "", {"tool_call_id": "1"}),
    ]
    assert json.loads(told.chat.tools_json) == [tool]
    assert silent.chat.tools_json == "", "a model that may call no tool is told of none"
