"""The agent's second port, in plain HTTP: health, metrics, and OpenAI's API for direct use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from lite_llm.agent.exposition import Exposition
from lite_llm.agent.openai_api import OpenAiApi
from lite_llm.agent.reports import Reporter
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.openai import in_openai_shape

MAX_BODY_BYTES = 32 << 20  # of a request to OpenAI's API


def make_app(
    reporter: Reporter, exposition: Exposition, openai_api: OpenAiApi | None
) -> web.Application:
    """``/healthz``: the process answers. ``/readyz``: it takes models and requests."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        status = reporter.report().status
        # Without its metadata store an agent goes on serving: that makes it no less ready.
        if status.draining:
            return web.Response(status=503, text="draining\n")
        return web.Response(text=f"ok{f', but {reporter.trouble}' if reporter.trouble else ''}\n")

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = await exposition.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[in_openai_shape])
    if openai_api is not None:
        app.add_routes(openai_api.routes())
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


@asynccontextmanager
async def http_serving(address: str, app: web.Application) -> AsyncIterator[int]:
    """Serve ``app`` on ``host:port`` while the block runs; its port."""
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1.0,
        auto_decompress=False,  # bodies are inflated within a bound, by whoever reads them
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise InvalidSettings(
                f"can't listen on {address}: {error.strerror}",
                where=address,
                remedy="choose a free port and an address of this machine",
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
