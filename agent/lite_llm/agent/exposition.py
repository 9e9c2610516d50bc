"""One page of metrics for a node: the agent's own, and each worker's with its model's name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import grpc.aio
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from lite_llm.agent.models import Models
from lite_llm.proto.v1.agent_pb2 import MetricsRequest
from lite_llm.telemetry.metrics import Metrics, render

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

ASK_SECONDS = 2.0  # a worker that is slower misses this scrape, and the others are told in time

log = structlog.get_logger(__name__)


class Exposition:
    """Asks the workers anew for each page."""

    def __init__(self, metrics: Metrics, models: Models) -> None:
        self._metrics = metrics
        self._models = models

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Body and content type, as the ``Accept`` header asks."""
        told = await self._told()
        own = self._metrics.registry.collect()
        registry = CollectorRegistry()
        registry.register(_Merged(merged(own, told)))
        return render(registry, accept)

    async def text(self) -> str:
        """In Prometheus' text format."""
        body, _ = await self.page("text/plain")
        return body.decode()

    async def _told(self) -> dict[str, str]:
        models = [model for model in self._models.hosted if model.worker is not None]

        async def ask(stub: AgentAsyncStub) -> str:
            try:
                answer = await stub.Metrics(MetricsRequest(), timeout=ASK_SECONDS)
            except grpc.aio.AioRpcError:
                return ""
            return answer.text

        texts = await asyncio.gather(*(ask(model.worker.stub) for model in models if model.worker))
        return {str(model.ref): text for model, text in zip(models, texts, strict=True)}


def merged(own: Iterable[Metric], told: dict[str, str]) -> list[Metric]:
    """Families by name: our samples, then each worker's with a label ``model``.

    What every process measures of itself (``process_…``) gets the label, too, and so stays apart.
    """
    families = {family.name: family for family in own}
    for model, text in told.items():
        for family in _families(model, text):
            target = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            if target.type == family.type:
                target.samples.extend(_labelled(family.samples, model))
    return list(families.values())


def _families(model: str, text: str) -> list[Metric]:
    """None of a worker whose text can't be read: the others' metrics matter more."""
    try:
        return list(text_string_to_metric_families(text))
    except (ValueError, LookupError) as error:
        log.warning("worker's metrics can't be read", model=model, error=str(error))
        return []


def _labelled(samples: Iterable[Sample], model: str) -> Iterator[Sample]:
    for sample in samples:
        labels = {"model": model, **sample.labels}
        yield sample._replace(labels=labels)


class _Merged(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
