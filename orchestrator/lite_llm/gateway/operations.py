"""What whoever runs the orchestrator asks: does it live, is it ready, what did it measure."""

from __future__ import annotations

from aiohttp import web

from lite_llm.gateway.leaving import Leaving
from lite_llm.placement import ClusterView, Observed
from lite_llm.telemetry import Metrics, render


class Operations:
    """The handlers of ``/healthz``, ``/readyz`` and ``/metrics``."""

    def __init__(self, views: Observed[ClusterView], metrics: Metrics, leaving: Leaving) -> None:
        self._leaving = leaving
        self._views = views
        self._metrics = metrics

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the process answers."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """200 once the view shows the cluster, else 503. An outage of the store later is no reason
        to take no requests: the last view goes on serving."""
        if self._leaving.has_begun:
            return web.Response(status=503, text="the orchestrator stops\n")
        if self._views.value.is_synced:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the metadata store has not answered yet\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """The text or OpenMetrics exposition, as the client asks."""
        accept = request.headers.get("Accept", "")
        body, content_type = render(self._metrics.registry, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})
