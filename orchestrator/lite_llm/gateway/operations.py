"""What whoever runs the orchestrator asks: does it live, is it ready, what did it measure."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from lite_llm.gateway.leaving import Leaving
from lite_llm.placement import ClusterView, Observed
from lite_llm.telemetry import Metrics, names, render
from lite_llm.wire.values import state_from_proto


class Operations:
    """The handlers of ``/healthz``, ``/readyz`` and ``/metrics``."""

    def __init__(self, views: Observed[ClusterView], metrics: Metrics, leaving: Leaving) -> None:
        self._leaving = leaving
        self._told: set[tuple[str, str]] = set()
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
        self._tell_of_view()
        accept = request.headers.get("Accept", "")
        body, content_type = render(self._metrics.registry, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    def _tell_of_view(self) -> None:
        age = self._metrics[names.WATCH_LAST_EVENT_AGE_SECONDS].labels(watch="store")
        age.set(self._views.age_seconds)
        replicas = self._metrics[names.REPLICAS]
        counts = Counter(
            (str(model), state_from_proto(held.state).name.lower())
            for model, by_node in self._views.value.residencies.items()
            for held in by_node.values()
        )
        for model, state in self._told - counts.keys():
            replicas.remove(model=model, state=state)
        for (model, state), count in counts.items():
            replicas.labels(model=model, state=state).set(count)
        self._told = set(counts)
