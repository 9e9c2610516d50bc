"""What a foreign server tells of itself, and what we see of it, under vLLM's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from lite_llm.contracts.errors import BackendFailed
from lite_llm.proto.v1.generate_pb2 import Timings, Usage
from lite_llm.telemetry import Metrics
from lite_llm.telemetry import vllm_names as names

ENGINE: Final = "0"  # which of a server's engines; a worker is one
_ENDS: Final = names.REQUEST_SUCCESS
_SEEN: Final = (
    _ENDS,
    names.NUM_REQUESTS_RUNNING,
    names.PROMPT_TOKENS,
    names.GENERATION_TOKENS,
    names.TIME_TO_FIRST_TOKEN,
    names.INTER_TOKEN_LATENCY,
    names.E2E_REQUEST_LATENCY,
    names.REQUEST_PROMPT_TOKENS,
    names.REQUEST_GENERATION_TOKENS,
)
"""From outside, of every server alike; what only it can know is its own to tell."""


class Measures:
    """Of one model."""

    def __init__(self, model: str) -> None:
        self.running = 0
        """Requests that are being answered, or wait in the server."""
        self._metrics = Metrics(_SEEN)
        self._labels = {"model_name": model, "engine": ENGINE}
        # Made now: a counter that appears with its first event hides that event from rate().
        self._series = {metric: self._made(metric) for metric in _SEEN if metric != _ENDS}
        self._ends = {
            reason: self._made(_ENDS, finished_reason=reason)
            for reason in ("stop", "length", "abort", "error")
        }

    def began(self) -> None:
        """A request went to the server."""
        self._run(+1)

    def token_after(self, seconds: float) -> None:
        """A piece of a sequence came so long after the one before."""
        self._series[names.INTER_TOKEN_LATENCY].observe(seconds)

    def ended(self, reason: str, usage: Usage, timings: Timings) -> None:
        """A request is over: ``stop``, ``length``, ``abort`` or ``error``."""
        self._run(-1)
        self._ends[reason].inc()
        self._series[names.PROMPT_TOKENS].inc(usage.prompt_tokens)
        self._series[names.GENERATION_TOKENS].inc(usage.completion_tokens)
        self._series[names.REQUEST_PROMPT_TOKENS].observe(usage.prompt_tokens)
        self._series[names.REQUEST_GENERATION_TOKENS].observe(usage.completion_tokens)
        self._series[names.E2E_REQUEST_LATENCY].observe(timings.total_seconds)
        if timings.first_token_seconds:
            self._series[names.TIME_TO_FIRST_TOKEN].observe(timings.first_token_seconds)

    def text(self, told: str, known: Mapping[str, str]) -> str:
        """Prometheus' text: what was seen, and what the server ``told`` under ``known`` names.

        ``known`` maps the server's names to declared ones; whatever else it tells is left out.
        """
        registry = CollectorRegistry()
        registry.register(_Families([*self._own(), *self._renamed(told, known)]))
        return generate_latest(registry).decode()

    def _run(self, change: int) -> None:
        self.running += change
        self._series[names.NUM_REQUESTS_RUNNING].set(self.running)

    def _made(self, metric: Any, **more: str) -> Any:
        return self._metrics[metric].labels(**self._labels, **more)

    def _own(self) -> Iterator[Metric]:
        for family in self._metrics.registry.collect():
            if not family.name.startswith("process_"):  # ours, which is next to nothing
                yield family

    def _renamed(self, told: str, known: Mapping[str, str]) -> Iterator[Metric]:
        try:
            families = list(text_string_to_metric_families(told))
        except ValueError as error:
            raise BackendFailed(f"the server's metrics can't be read: {error}") from error
        for family in families:
            suffix = "_total" if family.type == "counter" else ""
            if ours := known.get(family.name + suffix):
                new = Metric(ours.removesuffix(suffix), family.documentation, family.type)
                new.samples = [
                    self._relabelled(each, family.name, new.name) for each in family.samples
                ]
                yield new

    def _relabelled(self, sample: Sample, old: str, new: str) -> Sample:
        labels = {**sample.labels, **self._labels}
        labels["engine"] = sample.labels.get("engine", ENGINE)
        return Sample(new + sample.name.removeprefix(old), labels, sample.value)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
