"""Who computes what in a step. Decisions only, the same for the same arrivals.

One rule: a sequence has tokens that are known and tokens that are computed, and each step spends
one budget of tokens on letting them catch up. A prompt in chunks, a prefix that was found, a stream
resumed and a sequence computed anew after it was set back are all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lite_llm.engine.fairness import Fairness


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How much is computed at once."""

    step_tokens: int = 512
    """A step's budget. More reads prompts faster, and makes those who wait for a token wait."""
    prompt_tokens: int = 256
    """Of one sequence in a step, while others have prompts to read too."""
    max_sequences: int = 64
    """That run at once; each has its token in every step, so no more than the budget."""


class Running(Protocol):
    """What is decided about."""

    @property
    def priority(self) -> int:
        """Larger is sooner."""

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed."""

    @property
    def admitted(self) -> int:
        """Ascending in the order of admission."""


class Waiting(Protocol):
    """What is chosen from."""

    @property
    def priority(self) -> int:
        """Larger is sooner."""

    @property
    def tenant(self) -> str:
        """Who asked."""

    @property
    def arrived(self) -> tuple[int, int]:
        """Ascending in the order of arrival, unique."""


R = TypeVar("R", bound=Running)
Part = tuple[R, int]
"""A sequence and how many of its tokens a step computes."""


def turn(waiting: Waiting, fairness: Fairness) -> tuple[int, float, tuple[int, int]]:
    """Least is first: by priority, then the tenant who was served least, then by arrival."""
    return -waiting.priority, fairness.served(waiting.tenant), waiting.arrived


def shares(running: Sequence[R], *, budget: int, prompt_tokens: int) -> list[Part[R]]:
    """Each sequence's tokens of a step, in the given order; none that gets nothing.

    Those with one token to compute come first and all of them: no prompt keeps an answer waiting.
    Prompts then get ``prompt_tokens`` each, in order, and what is left goes to the first again.
    """
    pending = [each.pending for each in running]
    counts = [int(each == 1) for each in pending]
    left = budget - sum(counts)
    prompts = [place for place, each in enumerate(pending) if each > 1]
    for most in (prompt_tokens, budget):
        for place in prompts:
            more = min(pending[place] - counts[place], max(0, most - counts[place]), left)
            counts[place] += more
            left -= more
    return [(each, count) for each, count in zip(running, counts, strict=True) if count]


def halves(parts: Sequence[Part[R]]) -> tuple[list[Part[R]], list[Part[R]]] | None:
    """Two steps in place of one, for a device that lacks memory; None: it can't be less."""
    if len(parts) > 1:
        middle = len(parts) // 2
        return list(parts[:middle]), list(parts[middle:])
    sequence, count = parts[0]
    return None if count == 1 else ([(sequence, count // 2)], [(sequence, count - count // 2)])


def victim(running: Iterable[R], *, idle: Callable[[R], bool]) -> R | None:
    """Who is set back when room is needed: the least important, and of those the last admitted.

    Before all others, one that is ``idle``: nobody waits for its tokens.
    """
    return min(
        running, key=lambda each: (not idle(each), each.priority, -each.admitted), default=None
    )
