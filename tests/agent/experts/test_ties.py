"""The order among equals: fixed for ever, and untouched by candidates that come later."""

import pytest
import xxhash

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.experts import Level, Ties


def test_the_order_is_that_of_the_hashes() -> None:
    seed = xxhash.xxh64_intdigest((7).to_bytes(16, "little") + (3).to_bytes(8, "little"))
    hashes = [
        xxhash.xxh64_intdigest((1).to_bytes(4, "little") + number.to_bytes(8, "little"), seed=seed)
        for number in range(50)
    ]
    precedence = Ties.of_layer(3, 7).precedence(Level.GROUP, 50).tolist()
    by_precedence = sorted(range(50), key=precedence.__getitem__, reverse=True)
    assert sorted(range(50), key=hashes.__getitem__) == by_precedence
    assert sorted(precedence) == list(range((1 << 20) - 50, 1 << 20))


def test_the_order_is_part_of_what_a_version_promises() -> None:
    order = Ties.of_layer(0).precedence(Level.EXPERT, 8).argsort(descending=True)
    assert order.tolist() == [6, 5, 3, 1, 2, 0, 4, 7]


def test_layers_levels_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(Ties.of_layer(layer, seed).precedence(level, 64).tolist())
        for layer in (0, 1)
        for seed in (0, 1, 1 << 127)
        for level in Level
    ]
    assert len(set(orders)) == len(orders)


def test_candidates_that_are_added_change_nothing_among_the_old_ones() -> None:
    ties = Ties.of_layer(5)
    few, many = ties.precedence(Level.EXPERT, 16), ties.precedence(Level.EXPERT, 40)[:16]
    assert few.argsort().tolist() == many.argsort().tolist()


@pytest.mark.parametrize("seed", [-1, 1 << 128])
def test_a_seed_has_128_bits(seed: int) -> None:
    with pytest.raises(InvalidSettings, match="routing seed"):
        Ties.of_layer(0, seed)


def test_a_gate_has_an_end() -> None:
    with pytest.raises(InvalidSettings, match="layer 2 has 1048577 candidates"):
        Ties.of_layer(2).precedence(Level.EXPERT, (1 << 20) + 1)
