"""A real Prometheus for tests: scrapes what it is told, and answers queries."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from lite_llm.testing.guard import Guard, find_program, free_ports

START_SECONDS = 60.0
PROBE_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Target:
    """One program's ``/metrics``, at ``host:port``."""

    job: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)


class PrometheusServer:
    """A running one; the methods block."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query; raises ``RuntimeError`` with Prometheus' own words."""
        return list(self._asked("query", query=expr)["result"])

    def query_range(self, expr: str, *, seconds: float, step: float) -> list[dict[str, Any]]:
        """Series over the last ``seconds``."""
        now = time.time()
        span = {"start": now - seconds, "end": now, "step": step}
        return list(self._asked("query_range", query=expr, **span)["result"])

    def _asked(self, path: str, **query: object) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{path}?{urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(error.read().decode(errors="replace")) from None
        data: dict[str, Any] = told["data"]
        return data


@contextmanager
def prometheus_server(
    targets: Sequence[Target], *, scrape_seconds: float = 1.0
) -> Iterator[PrometheusServer]:
    """Scrapes ``targets`` while the block runs; nothing is kept."""
    program = find_program("prometheus", remedy="make setup, or put Prometheus 2.42 on PATH")
    with Guard("lite-llm-prometheus") as guard:
        config = guard.directory / "prometheus.yml"
        jobs = [
            {
                "job_name": f"{target.job}-{number}",
                "static_configs": [{"targets": [target.address], "labels": dict(target.labels)}],
                "relabel_configs": [{"target_label": "job", "replacement": target.job}],
            }
            for number, target in enumerate(targets)
        ]
        interval = f"{int(scrape_seconds * 1000)}ms"
        settings = {"scrape_interval": interval, "scrape_timeout": interval}
        config.write_text(json.dumps({"global": settings, "scrape_configs": jobs}))
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        process = guard.spawn(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={guard.directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            log="prometheus.log",
        )
        server = PrometheusServer(address)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                server.query("vector(1)")
                break
            except (OSError, RuntimeError):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = guard.log_tail("prometheus.log")
                    raise RuntimeError(f"Prometheus did not start:\n{said}") from None
                time.sleep(PROBE_SECONDS)
        yield server
