"""Which medium holds which tier, as a table and as a property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.cli.fitting import WANTED, Home, Need, Room, fit
from lite_llm.contracts import Medium
from lite_llm.contracts.tiers import Placement

GPU, DRAM, NVME, STORE = Medium.GPU, Medium.DRAM, Medium.NVME, Medium.OBJECT_STORE
HOT, WARM, COLD, ARCHIVE = Placement


def media(homes: list[Home]) -> list[Medium | None]:
    return [home.medium for home in homes]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (Room(gpu=100, dram=100, nvme=100), [GPU, GPU, DRAM, NVME, STORE]),
        (Room(gpu=10, dram=100, nvme=100), [GPU, DRAM, DRAM, NVME, STORE]),
        (Room(gpu=10, dram=9, nvme=100), [GPU, NVME, NVME, NVME, STORE]),
        (Room(gpu=0, dram=100, nvme=100), [DRAM, DRAM, DRAM, NVME, STORE]),
        (Room(gpu=5, dram=100, nvme=0), [None, DRAM, DRAM, STORE, STORE]),
        (Room(gpu=0, dram=0, nvme=0), [None, STORE, STORE, STORE, STORE]),
    ],
)
def test_what_does_not_fit_goes_one_farther(room: Room, expected: list[Medium | None]) -> None:
    needs = [
        Need("dense", HOT, 10, must_be_hot=True),
        *(Need(placement.name, placement, 10) for placement in Placement),
    ]
    assert media(fit(needs, room)) == expected


def test_the_nearer_placement_chooses_first_whatever_the_order() -> None:
    needs = [Need("a", WARM, 10), Need("b", HOT, 10)]
    assert media(fit(needs, Room(gpu=0, dram=15, nvme=50))) == [NVME, DRAM]


sizes = st.integers(0, 40)
needs = st.lists(
    st.builds(Need, st.just("n"), st.sampled_from(Placement), sizes, must_be_hot=st.booleans())
)


@given(needs=needs, room=st.builds(Room, gpu=sizes, dram=sizes, nvme=sizes))
def test_no_medium_holds_more_than_it_has_and_nothing_lies_nearer_than_wanted(
    needs: list[Need], room: Room
) -> None:
    homes = fit(needs, room)
    assert [home.need for home in homes] == needs
    for medium, limit in ((GPU, room.gpu), (DRAM, room.dram), (NVME, room.nvme)):
        assert sum(h.need.num_bytes for h in homes if h.medium is medium) <= limit
    for home in homes:
        assert home.medium is not None or home.need.must_be_hot
        assert home.medium is None or home.medium >= home.wanted >= WANTED[home.need.placement]
