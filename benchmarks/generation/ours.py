"""Lite LLM's own engine, without a server: the same loop that a worker runs."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from generation.work import Work

if TYPE_CHECKING:  # its interpreter has Lite LLM; a peer's may not
    from generation.peers import Run
    from lite_llm.engine.request import Request, Step
    from lite_llm.engine.step_loop import StepLoop

CACHE_BYTES = 1 << 30


class Outlet:
    """Keeps what it is given, and when the first token came."""

    full = False

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.first_at = 0.0

    def put(self, step: Step) -> None:
        """Tokens are kept, the rest is not asked for."""
        from lite_llm.engine.request import Token

        if isinstance(step, Token):
            self.first_at = self.first_at or perf_counter()
            self.ids.append(step.id)


def ours(work: Work) -> Run:
    """As it serves by default: deterministic."""
    loop = step_loop(work, max_sequences=work.most)

    def run(prompts: list[list[int]], num_new: int) -> list[list[int]]:
        outlets = [Outlet() for _ in prompts]
        for prompt, outlet in zip(prompts, outlets, strict=True):
            # A tenant of its own: no prompt is found computed by an earlier round.
            loop.add(request(prompt, num_new, tenant=str(perf_counter())), outlet)
        while loop.step():
            pass
        return [outlet.ids for outlet in outlets]

    return run


def step_loop(work: Work, *, max_sequences: int) -> StepLoop:
    """The model in ``work``, all of it loaded, and room for its batches."""
    import torch

    from lite_llm.engine.batching import BatchSettings
    from lite_llm.engine.measures import Measures
    from lite_llm.engine.model import Model, load_model
    from lite_llm.engine.step_loop import StepLoop
    from lite_llm.kernels import set_threads, warm_up
    from lite_llm.kvcache import KvCache
    from lite_llm.telemetry import Metrics, Program, names

    torch.set_num_threads(work.threads)
    set_threads(work.threads)
    warm_up()
    (model,) = [step for step in load_model(Path(work.directory)) if isinstance(step, Model)]
    return StepLoop(
        model,
        KvCache(model.decoder.kv_layout, device_bytes=CACHE_BYTES),
        BatchSettings(max_sequences=max_sequences),
        Measures(Metrics(names.exported_by(Program.AGENT)), "benchmark"),
    )


def request(prompt: list[int], num_new: int, *, tenant: str = "") -> Request:
    """Greedy, of exactly so many tokens."""
    from lite_llm.engine.request import Request
    from lite_llm.engine.sampling import Sampling
    from lite_llm.engine.stopping import Limits

    return Request(
        prompt=tuple(prompt),
        sampling=Sampling(temperature=0),
        limits=Limits(max_tokens=num_new),
        tenant=tenant,
    )


def ours_fast(work: Work) -> Run:
    """With torch's own products and attention: what determinism costs."""
    from lite_llm.kernels import set_fast

    set_fast(True)
    return ours(work)
