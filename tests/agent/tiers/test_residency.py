"""The residency machine: single steps as comparisons, long histories as properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.residency import (
    Action,
    Copy,
    Drop,
    Event,
    Gone,
    Pinned,
    Residency,
    Unpinned,
    Used,
    Wanted,
)

GPU, DRAM, NVME, SATA, STORE = Medium
BUDGETS = {GPU: 2, DRAM: 4, NVME: 6, SATA: 8}


def machine(**budgets: int) -> Residency:
    return Residency({Medium[name]: size for name, size in budgets.items()})


def test_a_record_nobody_has_comes_from_the_store() -> None:
    residency = machine(DRAM=4)
    assert residency.on(Wanted("a", 3, DRAM), 0) == [Copy("a", STORE, DRAM)]
    assert residency.on(Wanted("a", 3, DRAM), 1) == []
    assert residency.nearest("a") is DRAM


def test_a_full_medium_moves_its_oldest_down_before_it_takes_more() -> None:
    residency = machine(DRAM=2, NVME=4)
    residency.on(Wanted("old", 1, DRAM), 0)
    residency.on(Wanted("young", 1, DRAM), 1)
    assert residency.on(Wanted("new", 1, DRAM), 2) == [
        Copy("old", DRAM, NVME),
        Drop("old", DRAM),
        Copy("new", STORE, DRAM),
    ]
    assert residency.media_of("old") == {NVME}


def test_what_lies_below_already_is_dropped_and_not_copied() -> None:
    residency = machine(DRAM=1, NVME=4)
    residency.on(Wanted("a", 1, NVME), 0)
    residency.on(Wanted("a", 1, DRAM), 1)
    assert residency.on(Wanted("b", 1, DRAM), 2) == [Drop("a", DRAM), Copy("b", STORE, DRAM)]


def test_demotion_runs_down_the_whole_ladder_and_ends_in_a_drop() -> None:
    residency = machine(GPU=1, DRAM=1, NVME=1, SATA=1)
    for number, key in enumerate("abcd"):
        residency.on(Wanted(key, 1, GPU), number)
    assert residency.on(Wanted("e", 1, GPU), 9) == [
        Drop("a", SATA),
        Copy("b", NVME, SATA),
        Drop("b", NVME),
        Copy("c", DRAM, NVME),
        Drop("c", DRAM),
        Copy("d", GPU, DRAM),
        Drop("d", GPU),
        Copy("e", STORE, GPU),
    ]
    assert residency.media_of("a") == set()


def test_the_last_copy_without_a_source_never_leaves() -> None:
    residency = machine(DRAM=1)
    residency.on(Wanted("only", 1, DRAM, has_source=False), 0)
    with pytest.raises(OutOfMemory, match="no room for b"):
        residency.on(Wanted("b", 1, DRAM), 1)
    assert residency.nearest("only") is DRAM


def test_a_record_larger_than_the_budget_is_refused_and_evicts_nothing() -> None:
    residency = machine(DRAM=4)
    residency.on(Wanted("a", 4, DRAM), 0)
    with pytest.raises(OutOfMemory, match=r"DRAM \(4 B\) has no room for b \(5 B\)"):
        residency.on(Wanted("b", 5, DRAM), 1)
    assert residency.nearest("a") is DRAM
    assert residency.media_of("b") == set()


def test_pins_count_and_hold() -> None:
    residency = machine(DRAM=1)
    residency.on(Wanted("a", 1, DRAM), 0)
    residency.on(Pinned("a"), 1)
    residency.on(Pinned("a"), 1)
    residency.on(Unpinned("a"), 2)
    with pytest.raises(OutOfMemory):
        residency.on(Wanted("b", 1, DRAM), 3)
    residency.on(Unpinned("a"), 4)
    assert residency.on(Wanted("b", 1, DRAM), 5) == [Drop("a", DRAM), Copy("b", STORE, DRAM)]


def test_the_sixth_use_in_an_hour_promotes_over_what_is_colder() -> None:
    residency = machine(DRAM=1, NVME=2)
    residency.on(Wanted("cold", 1, DRAM), 0)
    residency.on(Wanted("hot", 1, NVME), 10)
    for time in (20, 30, 40, 50):
        assert residency.on(Used("hot"), time) == []
    assert residency.on(Used("hot"), 60) == [
        Copy("cold", DRAM, NVME),
        Drop("cold", DRAM),
        Copy("hot", NVME, DRAM),
    ]


def test_promotion_never_pushes_out_what_is_as_warm() -> None:
    residency = machine(DRAM=1, NVME=2)
    residency.on(Wanted("warm", 1, DRAM), 0)
    residency.on(Wanted("hot", 1, NVME), 10)
    residency.on(Used("warm"), 15)
    assert [residency.on(Used("hot"), time) for time in range(20, 70, 10)] == [[]] * 5


def test_a_failed_move_is_taken_back() -> None:
    residency = machine(DRAM=2)
    residency.on(Wanted("a", 2, DRAM), 0)
    assert residency.on(Gone("a", DRAM), 1) == []
    assert residency.used_bytes(DRAM) == 0
    assert residency.on(Wanted("b", 2, DRAM), 2) == [Copy("b", STORE, DRAM)]


names = st.sampled_from("abcdefgh")
SIZES = dict(zip("abcdefgh", (1, 1, 2, 2, 3, 3, 5, 9), strict=True))
SOURCELESS = {"b", "d"}
wants = st.builds(
    lambda key, medium: Wanted(key, SIZES[key], medium, key not in SOURCELESS),
    names,
    st.sampled_from([GPU, DRAM, NVME, SATA]),
)
histories = st.lists(
    st.one_of(
        wants,
        wants,
        st.builds(Used, names),
        st.builds(Pinned, names),
        st.builds(Unpinned, names),
        st.builds(Gone, names, st.sampled_from([GPU, DRAM])),
    ),
    max_size=60,
)


def replay(history: list[Event]) -> list[list[Action]]:
    """Carry the actions out on a model of the media, checking the laws at every single step."""
    residency, log = Residency(BUDGETS), list[list[Action]]()
    copies = {medium: set[str]() for medium in BUDGETS}
    pins = dict.fromkeys(SIZES, 0)
    for time, event in enumerate(history):
        known = bool(residency.media_of(event.key)) or pins[event.key] > 0
        if not known and not isinstance(event, Wanted):
            continue
        match event:
            case Pinned(key):
                pins[key] += 1
            case Unpinned(key):
                if not pins[key]:
                    continue
                pins[key] -= 1
            case Gone(key, medium):
                if key in SOURCELESS or pins[key]:
                    continue
                copies[medium].discard(key)
            case _:
                pass
        before = {medium: set(keys) for medium, keys in copies.items()}
        try:
            actions = residency.on(event, time * 300.0)
        except OutOfMemory:
            assert isinstance(event, Wanted)
            actions = []
        for action in actions:
            match action:
                case Copy(key, source, target):
                    assert source is STORE or key in copies[source], "copied from where it is not"
                    assert source is not STORE or not any(key in held for held in copies.values())
                    assert key not in copies[target]
                    copies[target].add(key)
                    used = sum(SIZES[held] for held in copies[target])
                    assert used <= BUDGETS[target], "over budget"
                case Drop(key, medium):
                    assert not pins[key], "evicted a pinned record"
                    copies[medium].remove(key)
        for key in SOURCELESS:
            had = any(key in held for held in before.values())
            assert not had or any(key in held for held in copies.values()), "lost for ever"
        for key in SIZES:
            assert residency.media_of(key) == {m for m, held in copies.items() if key in held}
        log.append(actions)
    return log


@given(histories)
@settings(max_examples=150, deadline=None)
def test_no_history_breaks_a_budget_a_pin_or_a_last_copy_and_all_repeat(
    history: list[Event],
) -> None:
    assert replay(history) == replay(history)
