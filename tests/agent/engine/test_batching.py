"""Decisions about a step: budgets, turns between tenants, and who gives way."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lite_llm.engine.batching import halves, shares, turn, victim
from lite_llm.engine.fairness import MANY, Fairness


@dataclass(frozen=True)
class Row:
    pending: int
    priority: int = 0
    admitted: int = 0
    idle: bool = False


@dataclass(frozen=True)
class Asked:
    tenant: str
    number: int
    priority: int = 0

    @property
    def arrived(self) -> tuple[int, int]:
        return self.number, 0


def counts(pending: list[int], *, budget: int, prompt_tokens: int) -> list[int]:
    rows = [Row(each, admitted=place) for place, each in enumerate(pending)]
    given_out = dict(shares(rows, budget=budget, prompt_tokens=prompt_tokens))
    return [given_out.get(row, 0) for row in rows]


def test_answers_come_before_prompts() -> None:
    assert counts([900, 1, 1, 300], budget=10, prompt_tokens=5) == [5, 1, 1, 3]
    assert counts([900, 1, 1], budget=2, prompt_tokens=5) == [0, 1, 1]


def test_prompts_share_and_what_is_left_goes_to_the_first() -> None:
    assert counts([900, 20, 900], budget=300, prompt_tokens=100) == [180, 20, 100]
    assert counts([900], budget=300, prompt_tokens=100) == [300]


@given(
    pending=st.lists(st.integers(1, 50), max_size=20),
    budget=st.integers(20, 200),
    prompt_tokens=st.integers(1, 60),
)
def test_a_budget_is_spent_and_never_more(
    pending: list[int], budget: int, prompt_tokens: int
) -> None:
    found = counts(pending, budget=budget, prompt_tokens=prompt_tokens)
    assert sum(found) == min(budget, sum(pending))
    assert all(count <= each for count, each in zip(found, pending, strict=True))
    assert all(count for count, each in zip(found, pending, strict=True) if each == 1)


def test_halves_meet_at_one_token() -> None:
    first, second = Row(3, admitted=1), Row(1, admitted=2)
    assert halves([(first, 3), (second, 1)]) == ([(first, 3)], [(second, 1)])
    assert halves([(first, 3)]) == ([(first, 1)], [(first, 2)])
    assert halves([(second, 1)]) is None


def test_who_gives_way() -> None:
    important, old, new = Row(1, 5, 3), Row(1, 0, 1), Row(1, 0, 2)
    unread = Row(1, 9, 0, idle=True)
    rows = [important, old, new]
    assert victim(rows, idle=lambda row: row.idle) is new
    assert victim([important, old], idle=lambda row: row.idle) is old
    assert victim([*rows, unread], idle=lambda row: row.idle) is unread
    assert victim([], idle=lambda row: row.idle) is None


def served_in_turns(weights: dict[str, float], waiting: list[Asked]) -> list[str]:
    fairness, order = Fairness(weights), []
    waiting = list(waiting)
    while waiting:
        first = min(waiting, key=lambda each: turn(each, fairness))
        waiting.remove(first)
        order.append(first.tenant)
        fairness.charge(first.tenant, prompt_tokens=10, answer_tokens=5)
    return order


def test_a_flood_does_not_keep_others_waiting() -> None:
    flood = [Asked("loud", number) for number in range(8)]
    quiet = [Asked("quiet", number) for number in range(8, 12)]
    order = served_in_turns({}, [*flood, *quiet])
    assert order[:8] == ["loud", "quiet"] * 4


def test_twice_the_weight_is_twice_the_turns() -> None:
    both = [Asked(tenant, n) for n, tenant in enumerate(["a", "b"] * 30)]
    assert served_in_turns({"a": 2.0}, both)[:30].count("a") == 20


def test_priority_goes_before_fairness() -> None:
    fairness = Fairness()
    fairness.charge("loud", answer_tokens=1000)
    urgent, usual = Asked("loud", 2, priority=1), Asked("quiet", 1)
    assert min([urgent, usual], key=lambda each: turn(each, fairness)) is urgent


def test_who_was_away_has_saved_nothing_up() -> None:
    fairness = Fairness()
    fairness.charge("busy", prompt_tokens=100)
    fairness.join("back", {"busy"})
    assert fairness.served("back") == fairness.served("busy") == 100


def test_counters_of_the_many_who_left_are_dropped() -> None:
    fairness = Fairness()
    for number in range(3 * MANY):
        fairness.charge(f"tenant {number}", prompt_tokens=number)
    present = {"tenant 20", "tenant 150"}
    fairness.forget(present)
    kept = [number for number in range(3 * MANY) if fairness.served(f"tenant {number}")]
    assert kept == list(range(20, 3 * MANY))  # who is ahead of those present stays so
    fairness.forget(set())
    assert not any(fairness.served(f"tenant {number}") for number in range(3 * MANY))
