"""Tiers of a request become masks over each layer's experts."""

import pytest

from lite_llm.contracts.errors import Unsupported
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.experts import TierMasks


def expert(layer: int, tier: int, row: int) -> ExpertRecord:
    return ExpertRecord(ExpertKey(layer, tier, 0, row), (), row)


EXPERTS = [
    *(expert(1, tier, row) for row, tier in enumerate([0, 2, 1, 0])),
    *(expert(2, tier, row) for row, tier in enumerate([2, 2, 0, 1])),
]
MASKS = TierMasks(EXPERTS[::-1], num_layers=4)


def test_each_row_has_its_own_tiers_in_every_layer() -> None:
    masks = MASKS.of([{0}, {0, 2}, None, ()])
    assert masks is not None
    assert masks[0] is None
    assert masks[3] is None
    assert masks[1] is not None
    assert masks[1].int().tolist() == [[1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert masks[2] is not None
    assert masks[2].int().tolist() == [[0, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_rows_that_may_use_everything_need_no_masks() -> None:
    assert MASKS.of([None, None]) is None
    assert MASKS.of([]) is None


def test_tiers_are_bits_of_a_word() -> None:
    masks = TierMasks([expert(0, 62, 0), expert(0, 0, 1)], num_layers=1).of([{62}])
    assert masks is not None
    assert masks[0] is not None
    assert masks[0].tolist() == [[True, False]]
    with pytest.raises(Unsupported, match=r"expert 0\.63\.0\.0"):
        TierMasks([expert(0, 63, 0)], num_layers=1)
