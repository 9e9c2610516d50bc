"""What is added to the gateway's paths."""

from __future__ import annotations

from aiohttp import web

from lite_llm.console.fleet import Fleet
from lite_llm.console.page import Page
from lite_llm.dispatch import Dispatcher, Orders
from lite_llm.gateway.app import LEAVING
from lite_llm.placement import ClusterView, Observed
from lite_llm.telemetry import Metrics


def add_console(
    app: web.Application,
    dispatcher: Dispatcher,
    orders: Orders,
    views: Observed[ClusterView],
    metrics: Metrics,
) -> None:
    """The page below ``/console``, the fleet below ``/lite-llm/v1``."""
    fleet, page = Fleet(dispatcher, orders, views, metrics), Page()
    app.add_routes(
        [
            web.get("/lite-llm/v1/fleet", fleet.whole),
            web.get("/lite-llm/v1/watch", fleet.watch),
            web.get("/lite-llm/v1/scores", fleet.scores),
            web.get("/lite-llm/v1/experts", fleet.experts),
            web.get("/console", page.get),
            web.get("/console/", page.get),
            web.get("/console/{name}", page.get),
        ]
    )
    app[LEAVING].on_begin.append(fleet.end_watches)
