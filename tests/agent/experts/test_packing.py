"""Packing: segments by (expert, token), an exact way back, one order of sums."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.experts import Routed, packing_of


@st.composite
def routings(draw: st.DrawFn) -> Routed:
    """Distinct ascending experts of each row, -1 behind them."""
    num_experts, top_k = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    chosen = st.sets(st.integers(0, num_experts - 1), max_size=min(top_k, num_experts))
    rows = draw(st.lists(chosen, max_size=30))
    experts = [sorted(row) + [-1] * (top_k - len(row)) for row in rows]
    experts_TK = torch.tensor(experts, dtype=torch.int64).view(len(rows), top_k)
    weights_TK = torch.rand(experts_TK.shape).masked_fill(experts_TK < 0, 0.0)
    return Routed(experts_TK, weights_TK, complete=bool((experts_TK >= 0).all()))


@given(routings())
def test_segments_and_their_inverse(routed: Routed) -> None:
    packing = packing_of(routed)
    pairs = [
        (expert, token)
        for token, experts in enumerate(routed.experts_TK.tolist())
        for expert in experts
        if expert >= 0
    ]
    experts_S = [e for e, n in zip(packing.experts, packing.counts, strict=True) for _ in range(n)]
    assert list(zip(experts_S, packing.tokens_S.tolist(), strict=True)) == sorted(pairs)
    assert len(packing.experts) == len({expert for expert, _ in pairs})
    for token, places in enumerate(packing.places_TK.tolist()):
        for place, expert in zip(places, routed.experts_TK[token].tolist(), strict=True):
            assert (place < 0) == (expert < 0)
            if place >= 0:
                assert (experts_S[place], int(packing.tokens_S[place])) == (expert, token)


@given(routings())
def test_what_was_packed_comes_back(routed: Routed) -> None:
    x_TD = torch.randn(len(routed.experts_TK), 3)
    packing = packing_of(routed)
    is_there_TK = (routed.experts_TK >= 0).float()
    back_TD = packing.combine(packing.pack(x_TD), is_there_TK, torch.float32)
    # A sum of equal floats, each time rounded: exact for up to two of them, and for four.
    torch.testing.assert_close(back_TD, x_TD * is_there_TK.sum(1, keepdim=True))


def test_the_order_of_sums_is_that_of_the_experts() -> None:
    routed = Routed(torch.tensor([[0, 2, 5]]), torch.ones(1, 3))
    packing = packing_of(routed)
    large = 2.0**24  # its neighbours are 2 apart: the order of sums shows
    for values in ([large, 1.0, 1.0], [1.0, 1.0, large], [1.0, large, 1.0]):
        out_SD = torch.tensor(values)[:, None]
        total = torch.zeros(())
        for value in values:
            total = total + value
        assert packing.combine(out_SD, routed.weights_TK, torch.float32).item() == total.item()


def test_sums_are_cast_once() -> None:
    routed = Routed(torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 1.0, 1.0]]))
    out_SD = torch.tensor([[256.0], [1.0], [1.0]], dtype=torch.bfloat16)  # 257 rounds to 256
    packed = packing_of(routed).combine(out_SD, routed.weights_TK, torch.bfloat16)
    assert packed.dtype == torch.bfloat16
    assert packed.item() == 258.0


def test_an_absent_expert_takes_nothing_from_another_row() -> None:
    weights_TK = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    routed = Routed(torch.tensor([[1, -1], [1, 3]]), weights_TK, complete=False)
    out_SD = torch.tensor([[1.0], [2.0], [torch.inf]])
    combined_TD = packing_of(routed).combine(out_SD, routed.weights_TK, torch.float32)
    assert combined_TD.tolist() == [[1.0], [torch.inf]]


def test_one_expert_may_take_all_rows_and_a_step_may_have_none() -> None:
    packing = packing_of(Routed(torch.full((7, 1), 3), torch.ones(7, 1)))
    assert (packing.experts, packing.counts) == ((3,), (7,))
    assert packing.tokens_S.tolist() == list(range(7))
    nothing = packing_of(Routed(torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 2)))
    assert (nothing.experts, nothing.counts) == ((), ())
    assert nothing.combine(torch.empty(0, 4), torch.empty(0, 2), torch.float32).shape == (0, 4)
