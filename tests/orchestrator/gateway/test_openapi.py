"""The document tells the truth: what fits it is answered as it says, what does not is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from lite_llm.orchestrator import Orchestrator
from lite_llm.testing.stub_agent import StubAgent

pytestmark = pytest.mark.usefixtures("model")

FITS, DOES_NOT = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


def with_integers(value: Any) -> Any:
    """With 2 for 2.0: to a schema both are integers, to us a client that sends 2.0 is confused."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [with_integers(item) for item in value]
    if isinstance(value, dict):
        return {name: with_integers(item) for name, item in value.items()}
    return value


def settled(body: dict[str, Any]) -> dict[str, Any]:
    """Without contradictions between fields, which a schema can't rule out."""
    streams, rates = body.get("stream"), body.get("logprobs")
    gone = {
        "min_tokens",
        "max_tokens",
        "response_format",  # which a backend must support
        "prompt_logprobs" if streams else "stream_options",
        None if rates else "top_logprobs",
    }
    body = {name: value for name, value in body.items() if name not in gone}
    body["n"] = min(body.get("n") or 1, 3)  # checking a hundred answers takes long
    if "prompt" in body:
        body["prompt"] = "x"
    for message in body.get("messages", ()):
        parts = message.get("content")
        if isinstance(parts, list):
            message["content"] = [{"text": "x", **part} for part in parts if part.get("text")]
        message["content"] = message.get("content") or ""
    return body


@pytest.mark.parametrize(
    ("path", "method", "mode", "expected"),
    [
        ("/v1/chat/completions", "POST", FITS, 200),
        ("/v1/chat/completions", "POST", DOES_NOT, 400),
        ("/v1/completions", "POST", FITS, 200),
        ("/v1/completions", "POST", DOES_NOT, 400),
        ("/v1/embeddings", "POST", FITS, 400),
        ("/v1/embeddings", "POST", DOES_NOT, 400),
        ("/v1/models", "GET", FITS, 200),
        ("/v1/models/{name}", "GET", FITS, 404),
    ],
)
async def test_answers_are_as_documented(
    orchestrator: Orchestrator,
    http: aiohttp.ClientSession,
    agent: StubAgent,
    path: str,
    method: str,
    mode: GenerationMode,
    expected: int,
) -> None:
    address = f"http://{orchestrator.http_address}"
    statuses: Counter[int] = Counter()
    # Nothing makes embeddings, so nothing that fits is accepted there.
    excluded: list[Any] = [] if expected == 200 else [positive_data_acceptance]

    async with http.get("/openapi.json") as response:
        document = await response.json()
    if mode is FITS:  # fields that nobody knows are tried elsewhere; making them up takes long
        for component in document["components"]["schemas"].values():
            component["additionalProperties"] = False

    def ask() -> None:
        api = schemathesis.openapi.from_dict(document)
        cases = api[path][method].as_strategy(generation_mode=mode)

        @settings(
            max_examples=12,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def check(case: schemathesis.Case[Any]) -> None:
            if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                case.body["model"] = case.body["model"] and "tiny"
                if mode is FITS:
                    case.body = settled(with_integers(case.body))
            answer = case.call_and_validate(address, excluded_checks=excluded)
            statuses[answer.status_code] += 1

        check()

    await asyncio.to_thread(ask)
    assert set(statuses) == {expected}
