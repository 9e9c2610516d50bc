"""Times a stream of events as its client sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic

from lite_llm.dispatch import Dispatcher
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart, Usage
from lite_llm.telemetry import Metrics, names
from lite_llm.wire import ref_from_proto


async def measured(
    dispatcher: Dispatcher, start: GenerateStart, metrics: Metrics, *, explains: bool = False
) -> AsyncGenerator[list[GenerateEvent]]:
    """The events of ``start``, with first-token time, time between tokens and usage recorded."""
    model = str(ref_from_proto(start.model))
    arrived = monotonic()
    last: dict[int, float] = {}  # by sequence
    async with aclosing(dispatcher.generate(start, explains=explains)) as batches:
        async for events in batches:
            now = monotonic()
            for event in events:
                if event.HasField("tokens"):
                    # Looked up only now: a name that no model has must not become a label.
                    if not last:
                        first = metrics[names.TIME_TO_FIRST_TOKEN_SECONDS].labels(model=model)
                        first.observe(now - arrived)
                        between = metrics[names.INTER_TOKEN_LATENCY_SECONDS].labels(model=model)
                    index = event.tokens.index
                    if index in last:
                        between.observe(now - last[index])
                    last[index] = now
                elif event.HasField("finished"):
                    usage = event.finished.usage
                    if event.finished.index:  # the first of n sequences has reported the prompt
                        usage = Usage(completion_tokens=usage.completion_tokens)
                    _count(usage, start.tenant, metrics)
            yield events


def _count(usage: Usage, tenant: str, metrics: Metrics) -> None:
    tokens = metrics[names.TOKENS_TOTAL]
    computed = usage.prompt_tokens - usage.cached_prompt_tokens
    for kind, count in (
        ("prompt", computed),
        ("cached", usage.cached_prompt_tokens),
        ("completion", usage.completion_tokens),
    ):
        tokens.labels(type=kind, tenant=tenant).inc(count)
