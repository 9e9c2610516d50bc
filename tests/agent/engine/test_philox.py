"""The published known answers of Philox-4x32-10, and what follows for uniform numbers."""

import pytest

from lite_llm.engine.philox import Words4, philox, uniform

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # Random123's kat_vectors
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (ONES, ONES, ONES, ONES),
            (ONES, ONES),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: Words4, key: tuple[int, int], answer: Words4) -> None:
    assert philox(counter, key) == answer


def test_uniform_numbers_fill_the_interval_evenly() -> None:
    values = [uniform(seed, position) for seed in range(50) for position in range(200)]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 1 for value in values)
    tenths = [sum(int(value * 10) == tenth for value in values) for tenth in range(10)]
    assert all(900 < count < 1100 for count in tenths)


def test_every_bit_of_seed_and_position_counts() -> None:
    base = uniform(0, 0)
    assert all(uniform(1 << bit, 0) != base and uniform(0, 1 << bit) != base for bit in range(64))
