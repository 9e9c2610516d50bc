"""A scripted inference server: ``stand_in.py NAME ARGUMENT ...`` in place of the program NAME.

It speaks OpenAI's protocol where it is told to listen, and has every fault that a server can have.
How it starts is in the environment's ``STAND_IN``; how it answers, the prompt says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from aiohttp import web

METRICS = Path(__file__).with_name("vllm_metrics.txt").read_text()
STARTS = set(os.environ.get("STAND_IN", "").split())
WORDS = ("one", " two", " three")
FAULTS: dict[str, bytes] = {
    "garbage": b"data: {no json\n\n",
    "a list": b"data: [1, 2]\n\n",
    "not a chunk": b'data: {"choices": 5}\n\n',
    "unknown end": b'data: {"choices": [{"text": "", "finish_reason": "eaten"}]}\n\n',
    "no text": b"data: \xff\xfe\n\n",
    "flood": b"data: " + b"x" * (5 << 20),
    "told": b'data: {"error": {"message": "boom", "code": 500}}\n\n',
    "told 400": b'data: {"error": {"message": "bad prompt", "code": 400}}\n\n',
}
seen = {"asked": 0, "left": 0}
mood = {"hangs": False}


async def health(request: web.Request) -> web.Response:
    if mood["hangs"]:
        await asyncio.Event().wait()
    ready = "never" not in STARTS and asyncio.get_running_loop().time() >= app["ready_at"]
    return web.Response(status=200 if ready else 503)


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"max_model_len": 2048}]})


async def metrics(request: web.Request) -> web.Response:
    return web.Response(text=METRICS)


async def tell_seen(request: web.Request) -> web.Response:
    return web.json_response(seen)


def chunk(text: str = "", **fields: Any) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": None, **fields}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    seen["asked"] += 1
    prompt = body.get("prompt") or body["messages"][-1]["content"]
    if prompt.isdigit():
        told = {"error": {"message": f"this is a {prompt}", "code": int(prompt)}}
        return web.json_response(told, status=int(prompt))
    if not body.get("stream"):
        return web.json_response(whole(prompt, json.dumps(body)))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    try:
        await stream(prompt, json.dumps(body), response)
    except (ConnectionError, asyncio.CancelledError):
        seen["left"] += 1
        raise
    return response


def whole(prompt: str, body: str) -> dict[str, Any]:
    text = body if prompt == "show" else "".join(WORDS)
    return {
        "choices": [{"index": 0, "text": text, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 3},
        "system_fingerprint": json.dumps({"completion_ids": [[7, 8, 9]]}),
    }


async def stream(prompt: str, body: str, response: web.StreamResponse) -> None:
    if prompt == "show":
        await response.write(chunk(body, token_ids=[1], prompt_token_ids=[1, 2]))
    for number, word in enumerate(WORDS):
        await response.write(b": a comment\n\n")
        await response.write(chunk(word, token_ids=[number], prompt_token_ids=[1, 2, 3, 4]))
    match prompt:
        case "cut":
            transport = response._req.transport  # type: ignore[union-attr]  # the rude way
            assert transport is not None
            transport.abort()
            return
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "silent":
            await asyncio.Event().wait()
        case "endless":
            while True:
                await response.write(chunk(" more", token_ids=[5]))
                await asyncio.sleep(0.001)
        case "hang":
            mood["hangs"] = True
        case "no end":
            return
    if prompt in FAULTS:
        await response.write(FAULTS[prompt])
        await asyncio.Event().wait()
    await response.write(chunk(finish_reason="stop", token_ids=[1]))
    usage = {"prompt_tokens": 4, "completion_tokens": 4, "prompt_tokens_details": None}
    await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")


async def begin(app: web.Application) -> None:
    app["ready_at"] = asyncio.get_running_loop().time() + ("slow" in STARTS) * 0.5


app = web.Application()
app.add_routes([web.get(path, health) for path in ("/health", "/ping")])
app.add_routes([web.post(path, answer) for path in ("/v1/completions", "/v1/chat/completions")])
app.add_routes([web.get("/v1/models", models), web.get("/metrics", metrics)])
app.add_routes([web.get("/seen", tell_seen)])
app.on_startup.append(begin)


def main(name: str, *arguments: str) -> None:
    if "crash" in STARTS:
        sys.exit("it does not start today")
    if "stubborn" in STARTS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        pids = Path(os.environ["STAND_IN_PIDS"])
        pids.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
        pids.with_suffix(".part").rename(pids)
    options = dict(pairwise(arguments))
    settings = dict(each.split("=", 1) for each in arguments if "=" in each)
    where: dict[str, Any] = {"path": options.get("--uds")}
    if name == "toka":
        where = {"host": "127.0.0.1", "port": int(settings["port"])}
    stubborn = "stubborn" in STARTS
    web.run_app(app, **where, print=None, handle_signals=not stubborn, shutdown_timeout=0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
