"""What a server adds to a model: a conversation's second turn, the host's work in a step; and
where the time of a step with one sequence goes."""

from __future__ import annotations

import random
from time import perf_counter
from typing import TYPE_CHECKING, Any

from generation.ours import Outlet, request, step_loop
from generation.work import VOCABULARY, Work, prompts

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_TOKENS, ANSWER_TOKENS, SECOND_TOKENS = 2000, 64, 32
SEQUENCES, STEPS = 64, 40


def turns(work: Work) -> Callable[[Any], list[float]]:
    """Seconds to the first token of a conversation's two turns; an order is a number to draw by."""
    loop = step_loop(work, max_sequences=1)

    def turn(prompt: list[int], tenant: str) -> tuple[float, list[int]]:
        outlet, began = Outlet(), perf_counter()
        loop.add(request(prompt, ANSWER_TOKENS, tenant=tenant), outlet)
        while loop.step():
            pass
        return outlet.first_at - began, outlet.ids

    def run(order: Any) -> list[float]:
        draw = random.Random(int(order))

        def said(count: int) -> list[int]:
            return [draw.randrange(3, VOCABULARY) for _ in range(count)]

        prompt = said(FIRST_TOKENS)
        first, answer = turn(prompt, tenant=str(order))
        second, _ = turn([*prompt, *answer, *said(SECOND_TOKENS)], tenant=str(order))
        return [first, second]

    return run


def host(work: Work) -> Callable[[Any], list[float]]:
    """Seconds of a step of 64 sequences, and of these outside the model; any order will do."""
    from lite_llm.models import Decoder

    loop, spent = step_loop(work, max_sequences=SEQUENCES), [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            began = perf_counter()
            result = function(*arguments, **named)
            spent[0] += perf_counter() - began
            return result

        return run

    for name in ("hidden", "logits"):
        setattr(Decoder, name, timed(getattr(Decoder, name)))

    def run(order: Any) -> list[float]:
        outlets = [Outlet() for _ in range(SEQUENCES)]
        for prompt, outlet in zip(prompts(SEQUENCES), outlets, strict=True):
            loop.add(request(prompt, STEPS + 8, tenant=str(perf_counter())), outlet)
        while not all(outlet.ids for outlet in outlets):
            loop.step()
        spent[0], began = 0.0, perf_counter()
        for _ in range(STEPS):
            loop.step()
        seconds, in_model = perf_counter() - began, spent[0]
        while loop.step():
            pass
        return [seconds / STEPS, (seconds - in_model) / STEPS]

    return run


def profile(work: Work) -> Callable[[Any], dict[str, list[float]]]:
    """Seconds of each kind of kernel in a decode step, how often it ran, and of all at once.

    A recording's kernels are started one by one here, in their order, so that each finds in the
    caches what it would find; what starting takes is taken off.
    """
    from array import array

    from lite_llm.kernels import Recording, get_threads, threads

    loop = step_loop(work, max_sequences=1)
    names = {each.address: each._function.__name__.strip("_") for each in threads._kernels}

    def run(order: Any) -> dict[str, list[float]]:
        outlet = Outlet()
        loop.add(request(prompts(1)[0], 8, tenant=str(order)), outlet)
        while loop.step():
            pass
        replay = loop._model.decoder._replays._by_rows[1]
        assert replay is not None
        (recording,) = (part for part in replay._parts if isinstance(part, Recording))
        steps, words = recording._steps, threads.STEP_WORDS
        singles = [steps[at : at + words] for at in range(0, len(steps), words)]
        found: dict[str, list[float]] = {}

        def timed(name: str, steps: array[int]) -> None:
            began = perf_counter()
            threads.replay(steps, get_threads())
            entry = found.setdefault(name, [0.0, 0])
            entry[0] += perf_counter() - began
            entry[1] += 1

        nothing = array("q")
        for single in singles:
            timed("start", nothing)
            timed(names[single[0]], single)
        start = found["start"][0] / found["start"][1]
        for name, entry in found.items():
            entry[0] -= start * entry[1] if name != "start" else 0.0
        timed("all at once", steps)
        return found

    return run
