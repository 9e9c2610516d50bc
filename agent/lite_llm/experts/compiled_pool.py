"""The pool's decisions as compiled loops: the same, to the last event, in a fraction of the time.

:class:`Pool` says what is decided; this is for where a step waits for it. Arithmetic is float64,
rounded one operation at a time as numpy does it, so that both rank alike.

Legend: N experts of all layers, S slots, B buckets of the odds; M newcomers. What loops read of an
expert lies in one row, as each array that they are given costs a third of a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lite_llm.experts import policies_odds as odds
from lite_llm.experts.policies import LRU, NEAREST, Floats, Ints, Policy
from lite_llm.experts.pool import NOBODY, NONE, PROTECTED_VISITS, Outcome, Pool
from lite_llm.kernels import cache

_ROOM: Final = Path(__file__).resolve().parent
_RULES: Final = {LRU.worth: 0, NEAREST.worth: 1}
_LRU: Final = 0
_LAST, _DECODE, _COUNT, _STAY, _USES, _LAYER, _SLOT, _RANK, _AGE, _BUCKET = range(10)
_EXPECTED, _FAST, _SLOW = range(3)
_OF_PROMPT, _UNUSED = range(2)
_EXPERT, _PINS = range(2)
_SEEN, _USED = range(2)
_OLDEST, _LEVELS, _FINE, _PRIOR = odds.OLDEST, odds.LEVELS, odds.FINE, odds.PRIOR_WEIGHT
_FAST_DECAY, _SLOW_DECAY = odds.FAST_DECAY, odds.SLOW_DECAY

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Machine code from the first call on, kept for the next process where it can be."""
    compile_later: Any = njit
    kept = cache.directory(_ROOM) is not None
    dispatcher: F = compile_later(cache=kept, error_model="numpy")(function)
    return dispatcher


class State(NamedTuple):
    """All that a pool remembers, by columns that are named above."""

    ints_NF: Ints
    floats_NF: Floats
    flags_NF: NDArray[np.bool_]
    slots_SF: Ints
    buckets_2B: Floats


class CompiledPool(Pool):
    """Decides as :class:`Pool` does, which it asks where it has no loop: see there."""

    def __init__(
        self, experts_of_layer_L: Sequence[int], num_slots: int, policy: Policy, seed: int = 0
    ) -> None:
        super().__init__(experts_of_layer_L, num_slots, policy, seed)
        history = self.history
        learned = history.odds
        num = len(self.slot_N)
        self._state = state = State(
            np.zeros((num, 10), np.int64),
            np.zeros((num, 3)),
            np.zeros((num, 2), np.bool_),
            np.zeros((num_slots, 2), np.int64),
            np.zeros((2, 0 if learned is None else len(learned.seen_B))),
        )

        def kept(columns: NDArray[Any], place: int, array: NDArray[Any]) -> Any:
            columns[:, place] = array
            return columns[:, place]

        ints, flags = state.ints_NF, state.flags_NF
        history.last_use_N = kept(ints, _LAST, history.last_use_N)
        history.last_decode_N = kept(ints, _DECODE, history.last_decode_N)
        history.count_N = kept(ints, _COUNT, history.count_N)
        history.stay_count_N = kept(ints, _STAY, history.stay_count_N)
        history.uses_N = kept(ints, _USES, history.uses_N)
        history.layer_N = kept(ints, _LAYER, history.layer_N)
        history.expected_N = kept(state.floats_NF, _EXPECTED, history.expected_N)
        self.slot_N = kept(ints, _SLOT, self.slot_N)
        self.is_prompts_N = kept(flags, _OF_PROMPT, self.is_prompts_N)
        self._is_unused_N = kept(flags, _UNUSED, self._is_unused_N)
        self._rank_N = kept(ints, _RANK, self._rank_N)
        self.expert_S = kept(state.slots_SF, _EXPERT, self.expert_S)
        self.pins_S = kept(state.slots_SF, _PINS, self.pins_S)
        if learned is not None:
            learned.age_N = kept(ints, _AGE, learned.age_N)
            learned.bucket_N = kept(ints, _BUCKET, learned.bucket_N)
            learned.fast_N = kept(state.floats_NF, _FAST, learned.fast_N)
            learned.slow_N = kept(state.floats_NF, _SLOW, learned.slow_N)
            learned.seen_B, learned.used_B = state.buckets_2B
        self._rule = _RULES.get(policy.worth)
        self._bounds = [(own.start, own.stop) for own in history.slices]

    def demand(self, layer: int, decode_D: Ints, prefill_P: Ints = NONE) -> Outcome:
        """See :meth:`Pool.demand`."""
        if len(prefill_P):
            return super().demand(layer, decode_D, prefill_P)
        history = self.history
        history.tick += 1
        history.layer = layer
        begin, end = self._bounds[layer]
        is_forgetting = False
        if history.odds is not None and len(decode_D):
            is_forgetting = history.odds.count_visit()
        hits, by_prefetch = _visit(decode_D, begin, end, history.tick, is_forgetting, self._state)
        self._demand_L[layer] = len(decode_D)
        self.counts.hits += hits
        self.counts.hits_by_prefetch += by_prefetch
        if hits == len(decode_D):
            return Outcome(decode_D, NOBODY, NOBODY, NONE)
        inside = decode_D[self.slot_N[decode_D] >= 0]
        entry, refused = self._admit(decode_D, prefill=False)
        self.counts.loads += len(entry.experts_M)
        self.counts.bypasses += len(refused)
        return Outcome(inside, entry, NOBODY, refused)

    def choose(
        self, newcomers: Ints, *, prefill: bool, is_selective: bool, is_forced: bool = False
    ) -> tuple[Ints, Ints]:
        """See :meth:`Pool.choose`."""
        number = len(newcomers) - len(self.free)
        if number <= 0:
            return newcomers, NONE
        if self._rule is None or is_forced:
            return super().choose(
                newcomers, prefill=prefill, is_selective=is_selective, is_forced=is_forced
            )
        history, num_layers = self.history, len(self._demand_L)
        oldest = 0  # visits of all layers, above which an expert may leave
        if prefill:
            oldest = PROTECTED_VISITS * num_layers
        elif self.policy.is_guarded and sum(self._demand_L) > len(self.expert_S):
            oldest = num_layers
        return _choose(
            newcomers, number, prefill, is_selective, oldest, history.tick, history.layer,
            num_layers, self._rule, self._state,
        )  # fmt: skip


@compiled
def _visit(
    used: Ints, begin: int, end: int, tick: int, is_forgetting: bool, state: State
) -> tuple[int, int]:
    """A layer's demand for rows that decode: how many were there, and so by prefetch."""
    ints, floats, flags = state.ints_NF, state.floats_NF, state.flags_NF
    hits = by_prefetch = 0
    for expert in range(begin, end):
        floats[expert, _EXPECTED] = 0.0
    for expert in used:
        ints[expert, _LAST] = ints[expert, _DECODE] = tick
        ints[expert, _COUNT] += 1
        ints[expert, _STAY] += 1
        ints[expert, _USES] += 1
        hits += ints[expert, _SLOT] >= 0
        by_prefetch += flags[expert, _UNUSED]
        flags[expert, _UNUSED] = flags[expert, _OF_PROMPT] = False
    if state.buckets_2B.shape[1] and len(used):
        _learn(used, begin, end, is_forgetting, ints, floats, state.buckets_2B)
    return hits, by_prefetch


@compiled
def _learn(
    used: Ints, begin: int, end: int, is_forgetting: bool, ints: Ints, floats: Floats,
    buckets_2B: Floats,
) -> None:  # fmt: skip
    """See :meth:`Odds.visit`."""
    for expert in range(begin, end):
        buckets_2B[_SEEN, ints[expert, _BUCKET]] += 1.0
    for expert in used:
        buckets_2B[_USED, ints[expert, _BUCKET]] += 1.0
    if is_forgetting:
        buckets_2B *= 0.5
    for expert in range(begin, end):
        ints[expert, _AGE] = min(ints[expert, _AGE] + 1, _OLDEST)
        floats[expert, _FAST] *= _FAST_DECAY
        floats[expert, _SLOW] *= _SLOW_DECAY
    for expert in used:
        ints[expert, _AGE] = 1
        floats[expert, _FAST] += 1.0 - _FAST_DECAY
        floats[expert, _SLOW] += 1.0 - _SLOW_DECAY
    for expert in range(begin, end):
        bucket = odds.BUCKET_OF_AGE[ints[expert, _AGE]]
        bucket += int(min(floats[expert, _FAST] * _LEVELS, _LEVELS - 1)) * _LEVELS
        bucket += odds.LEVEL_OF_SLOW[int(floats[expert, _SLOW] * _FINE)]
        ints[expert, _BUCKET] = bucket


@compiled
def _worth(
    expert: int, rule: int, tick: int, layer: int, num_layers: int, ints: Ints, floats: Floats,
    buckets_2B: Floats,
) -> float:  # fmt: skip
    """See the rules in :mod:`lite_llm.experts.policies`."""
    expected = floats[expert, _EXPECTED]
    if rule == _LRU:
        last = ints[expert, _LAST]
        return float(last + expected * (tick - last))
    bucket = ints[expert, _BUCKET]
    guess = 0.4 * floats[expert, _FAST] + 0.6 * floats[expert, _SLOW]
    used = buckets_2B[_USED, bucket] + _PRIOR * guess + 0.01
    likely = used / (buckets_2B[_SEEN, bucket] + _PRIOR + 0.1)
    ahead = ints[expert, _LAYER] - layer
    if ahead <= 0:
        ahead += num_layers
    return float(-(ahead / num_layers + (1.0 - max(likely, expected)) / likely))


@compiled
def _choose(
    newcomers: Ints, number: int, prefill: bool, is_selective: bool, oldest: int, tick: int,
    layer: int, num_layers: int, rule: int, state: State,
) -> tuple[Ints, Ints]:  # fmt: skip
    """Who comes in, and who leaves: the least in order of key, worth and seeded rank."""
    ints, floats, flags = state.ints_NF, state.floats_NF, state.flags_NF
    slots, buckets = state.slots_SF, state.buckets_2B
    least = np.empty(number, np.int64)
    keys, worths = np.empty(number), np.empty(number)
    count = 0
    for slot in range(len(slots)):
        expert = slots[slot, _EXPERT]
        if expert < 0 or slots[slot, _PINS] != 0 or ints[expert, _LAST] >= tick:
            continue
        is_of_prompt = flags[expert, _OF_PROMPT]
        since = tick - ints[expert, _DECODE if prefill else _LAST]
        if oldest > 0 and not is_of_prompt and since <= oldest:
            continue
        worth = _worth(expert, rule, tick, layer, num_layers, ints, floats, buckets)
        key = -np.inf if is_of_prompt else worth
        place = count
        while place and _is_less(
            key, worth, expert, keys[place - 1], worths[place - 1], least[place - 1], ints
        ):
            place -= 1
        count += count < number
        for to in range(count - 1, place, -1):
            least[to], keys[to], worths[to] = least[to - 1], keys[to - 1], worths[to - 1]
        if place < count:
            least[place], keys[place], worths[place] = expert, key, worth
    num_free = len(newcomers) - number
    if is_selective:
        newcomers = newcomers.copy()
        offered = np.empty(len(newcomers))
        for place in range(len(newcomers)):
            expert = newcomers[place]
            worth = _worth(expert, rule, tick, layer, num_layers, ints, floats, buckets)
            to = place
            while to and _is_less(
                -worth, 0.0, expert, -offered[to - 1], 0.0, newcomers[to - 1], ints
            ):
                newcomers[to], offered[to] = newcomers[to - 1], offered[to - 1]
                to -= 1
            newcomers[to], offered[to] = expert, worth
        for place in range(count):
            if keys[place] >= offered[num_free + place]:
                count = place
                break
    return newcomers[: num_free + count], least[:count]


@compiled
def _is_less(
    key: float, worth: float, expert: int, key2: float, worth2: float, expert2: int, ints: Ints
) -> bool:
    if key != key2:
        return bool(key < key2)
    if worth != worth2:
        return bool(worth < worth2)
    return bool(ints[expert, _RANK] < ints[expert2, _RANK])
