"""The most hits that any choice could have had, known afterwards (Belady, 1966).

A demand needs all its experts at once. Those that were in the pool before it are hits; after it,
any of these and of the pool's may stay, as many as there are slots. Keeping those whose next use
is nearest is best: every stay from one use to the next is an interval that is worth one hit, and
the most intervals that nowhere exceed S at a time are found by dropping the one that ends last.
No policy without lookahead gets more hits, bypassing or not, as long as nothing is prefetched.

Legend: A accesses, D demands (:mod:`lite_llm.experts.traces`); S slots.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lite_llm.experts.policies import Ints
from lite_llm.experts.traces import Demands


def next_use(demands: Demands) -> Ints:
    """For each access the demand that next needs the expert, or D if none does: ``[A]``."""
    num_demands = len(demands)
    demand_A = np.repeat(np.arange(num_demands), np.diff(demands.start_D))
    order_A = np.argsort(demands.expert_A, kind="stable")
    expert_A, sorted_A = demands.expert_A[order_A], demand_A[order_A]
    following_A = np.full(len(order_A), num_demands, np.int64)
    is_same_A = expert_A[1:] == expert_A[:-1]
    following_A[:-1][is_same_A] = sorted_A[1:][is_same_A]
    next_A = np.empty_like(following_A)
    next_A[order_A] = following_A
    return next_A


def optimal_hits(demands: Demands, num_slots: int) -> NDArray[np.bool_]:
    """Which accesses are hits at best: ``[A]``. Takes time A log S."""
    never = len(demands)
    next_A = next_use(demands).tolist()
    is_hit = bytearray(len(next_A))
    stays: dict[int, int] = {}  # each expert in the pool, and its next use

    latest: list[tuple[int, int]] = []
    expert_A, start_D = demands.expert_A.tolist(), demands.start_D.tolist()
    for begin, end in pairwise(start_D):
        for access in range(begin, end):
            expert = expert_A[access]
            if stays.pop(expert, None) is not None:
                is_hit[access] = 1
        for access in range(begin, end):
            following = next_A[access]
            if following < never:
                stays[expert_A[access]] = following
                heappush(latest, (-following, expert_A[access]))
        while len(stays) > num_slots:
            following, expert = heappop(latest)
            if stays.get(expert) == -following:
                del stays[expert]
    return np.frombuffer(is_hit, np.bool_)
