"""Attention: equal to a plain softmax, and bit for bit to itself in any company."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lite_llm.kernels import (
    LayerPages,
    PagedKv,
    Rows,
    attend,
    fast,
    get_threads,
    set_threads,
    store,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"window": 20},
    {"softcap": 5.0},
    {"sinks_H": torch.linspace(-2, 2, 6)},
    {"window": 3, "softcap": 30.0, "sinks_H": torch.linspace(-2, 2, 6)},
]
# Query heads, key heads, size of a key and of a value, whether values lie in keys.
HEADS = [
    (6, 2, 24, 40, False),
    (6, 6, 8, 8, False),
    (6, 1, 80, 64, True),
    (6, 3, 33, 17, False),
    (6, 2, 24, 64, False),  # these two are read where they lie, a token at a time
    (6, 2, 33, 32, True),
]


class Conversations:
    """Sequences in pages of any size and order; slots that hold nothing hold NaN."""

    def __init__(
        self,
        heads: tuple[int, int, int, int, bool],
        dtype: torch.dtype,
        *,
        page: int = 16,
        order: int = 0,
        sequences: int = 1,
        length: int = 100,
    ) -> None:
        H, G, C, E, inside = heads
        data = torch.Generator().manual_seed(1)
        shape = (sequences, length)
        self.queries = torch.randn(*shape, H, C, generator=data).to(dtype)
        self.keys = torch.randn(*shape, G, C, generator=data).to(dtype)
        self.values = torch.randn(*shape, G, E, generator=data).to(dtype)
        if inside:
            self.values = self.keys[..., :E]
        count = -(-length // page)
        shuffle = torch.Generator().manual_seed(order)
        pool = torch.randperm(count * sequences + 2, generator=shuffle)[: count * sequences]
        self.pages = pool.reshape(sequences, count).int()
        keys = torch.full((count * sequences + 2, G, page, C), math.nan, dtype=dtype)
        values = keys[..., :E] if inside else keys.new_full((*keys.shape[:3], E), math.nan)
        self.kv = PagedKv(keys, values)
        for sequence in range(sequences):
            at = [(sequence, position) for position in range(length)]
            store(
                LayerPages(self.kv, self.rows(at)),
                self.keys[sequence],
                None if inside else self.values[sequence],
            )

    def rows(self, at: list[tuple[int, int]]) -> Rows:
        where = torch.tensor(at, dtype=torch.int32).reshape(-1, 2)
        return Rows(where[:, 0].contiguous(), where[:, 1].contiguous(), self.pages)

    def attend(self, at: list[tuple[int, int]], **options: Any) -> Tensor:
        rows = self.rows(at)
        queries = self.queries[rows.sequence_T, rows.position_T]
        scale = queries.shape[-1] ** -0.5
        return attend(queries, LayerPages(self.kv, rows), scale=scale, **options)

    def exact(self, sequence: int, **options: Any) -> Tensor:
        window, cap, sinks_H = (options.get(name) for name in ("window", "softcap", "sinks_H"))
        queries, keys, values = (
            part[sequence].double().transpose(0, 1)
            for part in (self.queries, self.keys, self.values)
        )
        shared = len(queries) // len(keys)
        keys, values = (part.repeat_interleave(shared, 0) for part in (keys, values))
        scores = queries @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5
        if cap:
            scores = cap * (scores / cap).tanh()
        length = scores.shape[-1]
        seen = torch.ones(length, length).tril() - torch.ones(length, length).tril(-(window or 999))
        scores = scores.masked_fill(seen == 0, -math.inf)
        if sinks_H is not None:
            sinks = sinks_H.double()[:, None, None].expand(-1, length, 1)
            scores = torch.cat((scores, sinks), -1)
        mixed: Tensor = scores.softmax(-1)[..., :length] @ values
        return mixed.transpose(0, 1)


@pytest.mark.parametrize(
    ("heads", "dtype"),
    [*zip(HEADS, itertools.cycle(DTYPES), strict=False), (HEADS[2], torch.float32)],
)
@pytest.mark.parametrize("options", OPTIONS)
def test_it_is_softmax_attention_in_any_company(
    heads: tuple[int, int, int, int, bool], dtype: torch.dtype, options: dict[str, Any]
) -> None:
    talk = Conversations(heads, dtype, sequences=2)
    everything = [(sequence, position) for sequence in range(2) for position in range(100)]
    together = talk.attend(everything, **options)
    exact = torch.cat([talk.exact(sequence, **options) for sequence in range(2)])
    tolerance = 3e-6 if dtype is torch.float32 else 2e-2
    assert (together - exact).abs().max() < tolerance
    for chunk in (1, 7, 33):
        parts = [everything[i : i + chunk] for i in range(0, 200, chunk)]
        assert torch.equal(torch.cat([talk.attend(part, **options) for part in parts]), together)


@pytest.mark.parametrize("heads", HEADS)
def test_pages_change_no_bit(heads: tuple[int, int, int, int, bool]) -> None:
    at = [(1, position) for position in range(5, 100)]
    results = [
        Conversations(heads, torch.bfloat16, page=page, order=order, sequences=2).attend(at)
        for page in (1, 7, 16, 32, 64, 128)
        for order in (0, 1)
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("heads", [(8, 2, 64, 64, False), (32, 1, 80, 64, True)])
def test_threads_change_no_bit(heads: tuple[int, int, int, int, bool]) -> None:
    before, talk = get_threads(), Conversations(heads, torch.float32, length=300)
    at, results = [(0, position) for position in range(300)], []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(torch.cat((talk.attend(at[:-1]), talk.attend(at[-1:]))))
    set_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("heads", [(4, 2, 16, 16, False), (4, 1, 32, 16, True)])
def test_a_broken_token_reaches_only_those_that_see_it(
    heads: tuple[int, int, int, int, bool],
) -> None:
    talk = Conversations(heads, torch.float32)
    at = [(0, position) for position in range(100)]
    clean = talk.attend(at, window=30)
    at_page, slot = talk.pages[0, 50 // 16], 50 % 16
    talk.kv.keys_PGBC[at_page, :, slot] = math.nan
    talk.kv.values_PGBE[at_page, :, slot] = math.inf
    spoilt = talk.attend(at, window=30)
    assert torch.equal(spoilt[:50], clean[:50])
    assert torch.equal(spoilt[80:], clean[80:])
    assert spoilt[50:80].isnan().all()


def test_no_rows_and_rows_far_apart() -> None:
    talk = Conversations((6, 2, 24, 40, False), torch.float32)
    assert talk.attend([]).shape == (0, 6, 40)
    apart = [(0, position) for position in (0, 3, 64, 99)]
    alone = torch.cat([talk.attend([at]) for at in apart])
    assert torch.equal(talk.attend(apart), alone)


def test_a_window_does_not_read_the_pages_before_it() -> None:
    talk = Conversations((6, 2, 24, 40, False), torch.float32)
    at = [(0, position) for position in range(90, 100)]
    clean = talk.attend(at, window=10)
    talk.pages[0, :5] = 1 << 30
    assert torch.equal(talk.attend(at, window=10), clean)


def test_queries_may_be_a_part_of_something_wider() -> None:
    talk = Conversations((6, 2, 24, 40, False), torch.bfloat16)
    rows = talk.rows([(0, position) for position in range(100)])
    wide = torch.cat((talk.queries[0], talk.queries[0]), dim=-1)
    part = wide[..., 24:]
    results = [
        attend(queries, LayerPages(talk.kv, rows), scale=0.2)
        for queries in (part, part.contiguous(), part.transpose(1, 2).contiguous().transpose(1, 2))
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("options", OPTIONS)
def test_fast_mode_means_the_same(options: dict[str, Any]) -> None:
    talk = Conversations((6, 2, 24, 40, False), torch.float32, sequences=2)
    at = [(sequence, position) for sequence in range(2) for position in range(60, 100)]
    with fast():
        result = talk.attend(at, **options)
    assert torch.allclose(result, talk.attend(at, **options), atol=1e-5)


def test_rows_have_to_be_int32() -> None:
    talk = Conversations((6, 2, 24, 40, False), torch.float32)
    rows = Rows(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int32), talk.pages)
    with pytest.raises(ValueError, match="int32"):
        attend(talk.queries[0, :1], LayerPages(talk.kv, rows), scale=1.0)
