"""What the engine tells of itself, under the names that dashboards made for vLLM know."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from lite_llm.engine.batching import Part
from lite_llm.engine.sequence import Group, Sequence
from lite_llm.experts import ExpertMeasures
from lite_llm.kvcache import KvCache
from lite_llm.proto.v1.generate_pb2 import Timings, Usage
from lite_llm.telemetry import Metrics
from lite_llm.telemetry import vllm_names as names

ENGINE = "0"  # which of a server's engines; a worker is one
_FADING = 0.98  # of what counts into the hit rate, a request: fifty requests are "lately"


class Measures:
    """Of one model. Any thread may call it; each number has one thread that changes it."""

    def __init__(self, metrics: Metrics, model: str, experts: ExpertMeasures | None = None) -> None:
        """``experts`` tell of their own after each step."""

        def series(metric: Any, **more: str) -> Any:
            return metrics[metric].labels(model_name=model, engine=ENGINE, **more)

        self._experts = experts
        self._asked = self._found = 0.0
        self._queries = series(names.PREFIX_CACHE_QUERIES)
        self._hits = series(names.PREFIX_CACHE_HITS)
        self._preemptions = series(names.PREEMPTIONS)
        self._running = series(names.NUM_REQUESTS_RUNNING)
        self._waiting = series(names.NUM_REQUESTS_WAITING)
        self._usage = series(names.KV_CACHE_USAGE)
        self._iteration = series(names.ITERATION_TOKENS)
        self._prompt_tokens = series(names.PROMPT_TOKENS)
        self._answer_tokens = series(names.GENERATION_TOKENS)
        self._ends = {
            reason: series(names.REQUEST_SUCCESS, finished_reason=reason)
            for reason in ("stop", "length", "abort", "error")
        }
        self._queue = series(names.REQUEST_QUEUE_TIME)
        self._prefill = series(names.REQUEST_PREFILL_TIME)
        self._decode = series(names.REQUEST_DECODE_TIME)
        self._inference = series(names.REQUEST_INFERENCE_TIME)
        self._first_token = series(names.TIME_TO_FIRST_TOKEN)
        self._whole = series(names.E2E_REQUEST_LATENCY)
        self._between = series(names.INTER_TOKEN_LATENCY)
        self._prompt_size = series(names.REQUEST_PROMPT_TOKENS)
        self._answer_size = series(names.REQUEST_GENERATION_TOKENS)

    @property
    def hit_rate(self) -> float:
        """Share of prompts' tokens that were found computed lately, 0 to 1."""
        return self._found / self._asked if self._asked else 0.0

    def looked_up(self, num_prompt: int, num_cached: int) -> None:
        """A request began, and found so many tokens of its prompt computed."""
        self._asked = self._asked * _FADING + num_prompt
        self._found = self._found * _FADING + num_cached
        self._queries.inc(num_prompt)
        self._hits.inc(num_cached)

    def preempted(self) -> None:
        """A sequence was set back."""
        self._preemptions.inc()

    def stepped(
        self, parts: Iterable[Part[Sequence]], groups: Collection[Group], kv: KvCache
    ) -> None:
        """A step is over that computed ``parts``; ``groups`` are still there."""
        running = sum(group.is_started for group in groups)
        self._running.set(running)
        self._waiting.set(len(groups) - running)
        if num_tokens := sum(count for _, count in parts):
            self._iteration.observe(num_tokens)
        free = kv.num_free_pages + kv.num_evictable_pages
        self._usage.set(1 - free / kv.num_pages)
        if self._experts is not None:
            self._experts.stepped()

    def token_after(self, seconds: float) -> None:
        """A sequence's token came so long after the one before."""
        self._between.observe(seconds)

    def ended(self, reason: str, usage: Usage, timings: Timings) -> None:
        """A request is over: ``stop``, ``length``, ``abort`` or ``error``."""
        self._ends[reason].inc()
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._answer_tokens.inc(usage.completion_tokens)
        self._prompt_size.observe(usage.prompt_tokens)
        self._answer_size.observe(usage.completion_tokens)
        self._queue.observe(timings.queue_seconds)
        self._whole.observe(timings.total_seconds)
        self._inference.observe(timings.total_seconds - timings.queue_seconds)
        self._prefill.observe(timings.prefill_seconds)
        if timings.first_token_seconds:
            self._first_token.observe(timings.first_token_seconds)
            self._decode.observe(timings.total_seconds - timings.first_token_seconds)
