"""The HTTP side: routes, limits, and what happens around every request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.dispatch import Dispatcher
from lite_llm.gateway.authentication import authenticating
from lite_llm.gateway.connections import Connection, connections, refuse_expectation
from lite_llm.gateway.embeddings import EmbeddingsHandler
from lite_llm.gateway.generations import MODEL, Generations
from lite_llm.gateway.leaving import Leaving
from lite_llm.gateway.model_list import Models
from lite_llm.gateway.openapi import OpenApi
from lite_llm.gateway.operations import Operations
from lite_llm.openai.failures import in_openai_shape
from lite_llm.placement import ClusterView, Observed
from lite_llm.telemetry import Metrics, names
from lite_llm.tenants import Admission, Keys

LEAVING = web.AppKey("leaving", Leaving)
CLOSING_SECONDS = 1.0  # for what does not end when it is cancelled; aiohttp takes 0 for no limit
BACKLOG = 1024  # of connections: a herd comes at once


def make_app(
    dispatcher: Dispatcher,
    views: Observed[ClusterView],
    metrics: Metrics,
    keys: Keys,
    admission: Admission,
    *,
    max_body_bytes: int,
) -> web.Application:
    """Everything that answers over HTTP. Bodies beyond ``max_body_bytes`` are refused with 413."""
    leaving = Leaving()
    app = web.Application(
        client_max_size=max_body_bytes,
        middlewares=[
            Connection.counting,
            _measuring(metrics, views),
            in_openai_shape,
            leaving.middleware,
            authenticating(keys),
        ],
    )
    app[LEAVING] = leaving
    generations = Generations(dispatcher, metrics, admission)
    models = Models(views)
    embeddings = EmbeddingsHandler(models, dispatcher, admission)
    operations = Operations(views, metrics, leaving)
    app.add_routes(
        [
            web.post("/v1/chat/completions", generations.chat, expect_handler=refuse_expectation),
            web.post("/v1/completions", generations.completions, expect_handler=refuse_expectation),
            web.post("/v1/embeddings", embeddings.create, expect_handler=refuse_expectation),
            web.get("/v1/models", models.list),
            web.get("/v1/models/{name:.+}", models.get),
            web.get("/openapi.json", OpenApi().get),
            web.get("/healthz", operations.healthz),
            web.get("/readyz", operations.readyz),
            web.get("/metrics", operations.metrics),
        ]
    )
    return app


@asynccontextmanager
async def serving_http(
    app: web.Application, address: str, *, grace_seconds: float
) -> AsyncIterator[str]:
    """Serve at ``host:port`` (port 0: any) while the block runs; yields where.

    At the end running requests have ``grace_seconds``, then they are ended.
    """
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=CLOSING_SECONDS)
    await runner.setup()
    assert runner.server is not None
    loop, listening = asyncio.get_running_loop(), None
    try:
        try:
            listening = await loop.create_server(
                connections(runner.server), host.strip("[]"), int(port), backlog=BACKLOG
            )
        except OSError as error:
            # asyncio puts an essay where the system has three words; failed look-ups count below 0.
            number = error.errno or 0
            words = os.strerror(number) if number > 0 else error.strerror
            raise InvalidSettings(
                f"can't listen on {address}: {words}",
                where=address,
                remedy="choose a free port and an address of this machine",
            ) from error
        yield f"{host}:{listening.sockets[0].getsockname()[1]}"
    finally:
        if listening is not None:
            for _ in range(3):  # turns of the loop: what has connected is accepted before the end
                await asyncio.sleep(0)
            listening.close()
            await app[LEAVING].leave(grace_seconds)
        await runner.cleanup()


def _measuring(metrics: Metrics, views: Observed[ClusterView]) -> Middleware:
    durations = metrics[names.REQUEST_DURATION_SECONDS]

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        arrived = monotonic()
        response = await handler(request)
        model = request.get(MODEL)
        if model in views.value.models:  # no label for what does not exist
            duration = durations.labels(model=str(model), code=str(response.status))
            duration.observe(monotonic() - arrived)
        return response

    return measure
