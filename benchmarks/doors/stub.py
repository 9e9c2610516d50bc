"""What doors are measured in front of: an agent over gRPC and a server of OpenAI's API, both stubs.

Both answer with the same tokens at once, after a pause, or one a step; neither computes anything.

    python benchmarks/doors/stub.py --etcd 127.0.0.1:2379 --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator

from aiohttp import web

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_LENGTH,
    GenerateEvent,
    GenerateFinished,
    GenerateStart,
    GenerateStarted,
    TokenChunk,
    Usage,
)
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.testing.stub_agent import stub_agent
from lite_llm.wire import dumps, ref_to_proto

WARM, COLD = ModelRef("default", "tiny"), ModelRef("default", "cold")
SLOW_SECONDS = 0.5  # of answers whose prompt says so
STEP_SECONDS = 0.02  # between tokens of answers whose prompt says "steps", the same for all


class Steps:
    """An engine's: each gives a token to everybody."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    async def wait(self) -> None:
        """Returns when the next one ends."""
        await self._next.wait()

    async def run(self) -> None:
        """One after the other."""
        while True:
            await asyncio.sleep(STEP_SECONDS)
            ended, self._next = self._next, asyncio.Event()
            ended.set()


steps = Steps()


async def answered(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    """As many tokens as are asked for."""
    count, sequence = start.sampling.max_tokens, 0
    if start.text == "slow":
        await asyncio.sleep(SLOW_SECONDS)
    yield GenerateEvent(started=GenerateStarted(request_id=start.request_id, prompt_tokens=1))
    for sequence in range(1, count + 1):
        if start.text == "steps":
            await steps.wait()
        yield GenerateEvent(sequence=sequence, tokens=TokenChunk(token_ids=[7], text=" word"))
    finished = GenerateFinished(
        reason=FINISH_REASON_LENGTH, usage=Usage(prompt_tokens=1, completion_tokens=count)
    )
    yield GenerateEvent(sequence=sequence + 1, finished=finished)


async def completions(request: web.Request) -> web.StreamResponse:
    """The same over HTTP."""
    body = await request.json()
    count = body["max_tokens"]
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny"}
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
    if not body.get("stream"):
        choice = {"index": 0, "text": " word" * count, "finish_reason": "length", "logprobs": None}
        return web.json_response({**head, "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(count):
        reason = "length" if number == count - 1 else None
        choice = {"index": 0, "text": " word", "finish_reason": reason, "logprobs": None}
        chunk = json.dumps({**head, "choices": [choice]})
        await response.write(f"data: {chunk}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--etcd", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app = web.Application()
    app.add_routes([web.post("/v1/completions", completions)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
    async with (
        open_store(StoreSettings(endpoints=(arguments.etcd,))) as store,
        stub_agent(store, "stub") as agent,
    ):
        agent.script = answered
        running = asyncio.create_task(steps.run())
        agent.may_load.clear()
        for model in (WARM, COLD):
            source = ModelSource(uri="file:///nothing")
            spec = ModelSpec(ref=ref_to_proto(model), source=source)
            await store.put(key_of(ModelKey(model)), dumps(spec))
        await agent.hold(ref_to_proto(WARM))
        print("stub ready", agent.status.grpc_address, flush=True)
        await running


if __name__ == "__main__":
    asyncio.run(main())
