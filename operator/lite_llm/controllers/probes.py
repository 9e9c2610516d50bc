"""The operator's HTTP port: health for the kubelet, metrics for Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from aiohttp import web

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.telemetry import Metrics, Program, metrics_of, names, render

ROLE = "operator"
STUCK_SECONDS = 120.0  # far longer than any one look: its requests have deadlines


@dataclass
class Health:
    """What the operator knows of itself; whoever learns something sets it."""

    metrics: Metrics = field(default_factory=lambda: metrics_of(Program.OPERATOR))
    is_started: bool = False
    """It leads and watches, or knows that another leads."""
    is_leading: bool = False
    stuck_seconds: Callable[[], float] = lambda: 0.0
    """For how long objects have waited while no worker took any."""
    num_waiting: Callable[[], int] = lambda: 0
    heard: dict[str, float] = field(default_factory=dict)
    """When a watch last told something, in seconds of the monotonic clock."""

    def hears(self, watch: str) -> None:
        """A watch told something."""
        self.heard[watch] = monotonic()

    def page(self, accept: str) -> tuple[bytes, str]:
        """Metrics as Prometheus reads them, and their content type."""
        self.metrics[names.LEASE_HELD].labels(role=ROLE).set(self.is_leading)
        self.metrics[names.RECONCILE_WAITING].labels().set(self.num_waiting())
        for watch, at in self.heard.items():
            age = self.metrics[names.WATCH_LAST_EVENT_AGE_SECONDS].labels(watch=watch)
            age.set(monotonic() - at)
        return render(self.metrics.registry, accept)


def make_app(health: Health) -> web.Application:
    """``/healthz``: it gets on. ``/readyz``: it works, or stands by for another that does."""

    async def healthz(request: web.Request) -> web.Response:
        if (seconds := health.stuck_seconds()) > STUCK_SECONDS:
            text = f"no object was looked at for {seconds:.0f} s\n"
            return web.Response(status=503, text=text)
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        if not health.is_started:
            return web.Response(status=503, text="starting\n")
        return web.Response(text="leading\n" if health.is_leading else "standing by\n")

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = health.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


@asynccontextmanager
async def http_serving(address: str, app: web.Application) -> AsyncIterator[int]:
    """Serve ``app`` on ``host:port`` while the block runs; its port."""
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
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
