"""Attention over pages on a GPU, or in Triton's interpreter: softmax attention, in any company."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lite_llm.kernels import LayerPages, PagedKv, Rows, triton_paged
from lite_llm.kernels.triton_paged import attend, store

LENGTH = 24
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"window": 11},
    {"window": 3, "softcap": 5.0, "sinks_H": torch.linspace(-2, 2, 4)},
]
# Query heads, key heads, size of a key and of a value, whether values lie in keys.
HEADS = [(4, 2, 24, 40, False), (4, 4, 8, 8, False), (4, 1, 48, 32, True), (4, 1, 33, 17, False)]
PROVEN = triton_paged._is_proven

pytestmark = [
    pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]),
    pytest.mark.filterwarnings("ignore:(invalid|overflow|divide|All-NaN).*:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def small_splits(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short sequences have several, of several blocks; and all shapes are trusted."""
    if device == "cpu":
        monkeypatch.setattr(triton_paged, "SPLIT", 8)
        monkeypatch.setattr(triton_paged, "BLOCK", 4)
        monkeypatch.setattr(triton_paged, "_PROGRAMS", 12)
        monkeypatch.setattr(triton_paged, "_is_proven", lambda *_: True)


class Conversations:
    """Sequences in pages of any size and order; slots that hold nothing hold NaN."""

    def __init__(
        self,
        heads: tuple[int, int, int, int, bool],
        dtype: torch.dtype,
        device: str,
        *,
        page: int = 16,
        order: int = 0,
        sequences: int = 1,
        length: int = LENGTH,
    ) -> None:
        H, G, C, E, inside = heads
        data = torch.Generator().manual_seed(1)
        shape = (sequences, length)
        self.queries, self.keys, self.values = (
            torch.randn(*shape, n, size, generator=data).to(device, dtype)
            for n, size in ((H, C), (G, C), (G, E))
        )
        if inside:
            self.values = self.keys[..., :E]
        count = -(-length // page)
        shuffle = torch.Generator().manual_seed(order)
        pool = torch.randperm(count * sequences + 2, generator=shuffle)[: count * sequences]
        self.pages = pool.reshape(sequences, count).int().to(device)
        keys = self.keys.new_full((count * sequences + 2, G, page, C), math.nan)
        values = keys[..., :E] if inside else keys.new_full((*keys.shape[:3], E), math.nan)
        self.kv = PagedKv(keys, values)
        at_L = torch.arange(length)
        for sequence, pages in enumerate(self.pages.long()):
            keys[pages[at_L // page], :, at_L % page] = self.keys[sequence]
            if not inside:
                values[pages[at_L // page], :, at_L % page] = self.values[sequence]

    def rows(self, at: list[tuple[int, int]]) -> Rows:
        where = torch.tensor(at, dtype=torch.int32, device=self.pages.device).reshape(-1, 2)
        return Rows(where[:, 0].contiguous(), where[:, 1].contiguous(), self.pages)

    def attend(self, at: list[tuple[int, int]], **options: Any) -> Tensor:
        rows = self.rows(at)
        queries = self.queries[rows.sequence_T, rows.position_T]
        given = {"window": None, "softcap": None, "sinks_H": None} | options
        if given["sinks_H"] is not None:
            given["sinks_H"] = given["sinks_H"].to(self.pages.device)
        return attend(queries, LayerPages(self.kv, rows), queries.shape[-1] ** -0.5, **given)

    def exact(self, sequence: int, **options: Any) -> Tensor:
        window, cap, sinks_H = (options.get(name) for name in ("window", "softcap", "sinks_H"))
        queries, keys, values = (
            part[sequence].double().transpose(0, 1).cpu()
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
    ("heads", "dtype", "options"),
    [
        (HEADS[0], torch.float32, OPTIONS[0]),
        (HEADS[0], torch.bfloat16, OPTIONS[2]),
        (HEADS[1], torch.bfloat16, OPTIONS[1]),
        (HEADS[2], torch.float32, OPTIONS[1]),
        (HEADS[3], torch.float32, OPTIONS[2]),
    ],
)
def test_it_is_softmax_attention_in_any_company(
    device: str,
    heads: tuple[int, int, int, int, bool],
    dtype: torch.dtype,
    options: dict[str, Any],
) -> None:
    talk = Conversations(heads, dtype, device, sequences=2)
    everything = [(sequence, position) for sequence in range(2) for position in range(LENGTH)]
    together = talk.attend(everything, **options)
    exact = torch.cat([talk.exact(sequence, **options) for sequence in range(2)])
    tolerance = 3e-6 if dtype is torch.float32 else 2e-2
    assert (together.cpu() - exact).abs().max() < tolerance
    chunk = [(0, position) for position in range(5, 22)]
    assert torch.equal(talk.attend([(1, 5), *chunk], **options)[1:], together[5:22])
    for position in (0, 14, 23):  # alone, as in decoding: one row for each sequence
        alone = talk.attend([(0, position), (1, 23 - position)], **options)
        assert torch.equal(alone, together[[position, 47 - position]])


def test_splits_in_programs_of_their_own_change_no_bit(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in OPTIONS:
        talk = Conversations(HEADS[0], torch.float32, device, sequences=2)
        at = [(0, 23), (1, 13)]
        chunk = [(0, position) for position in range(18, 24)]
        apart = talk.attend(at, **options), talk.attend(chunk, **options)
        with monkeypatch.context() as patch:
            patch.setattr(triton_paged, "_PROGRAMS", 0)
            together = talk.attend(at, **options), talk.attend(chunk, **options)
        assert all(map(torch.equal, apart, together))


@pytest.mark.parametrize("heads", [HEADS[0], HEADS[2]])
def test_pages_change_no_bit(device: str, heads: tuple[int, int, int, int, bool]) -> None:
    at = [(1, position) for position in range(18, LENGTH)]
    results = [
        Conversations(heads, torch.float16, device, page=page, order=order, sequences=2).attend(at)
        for page, order in ((1, 0), (7, 1), (32, 1))
    ]
    assert all(torch.equal(result, results[0]) for result in results)


def test_what_is_broken_reaches_only_those_that_see_it(device: str) -> None:
    talk = Conversations((4, 2, 16, 16, False), torch.float32, device, sequences=2)
    at = [(s, position) for s in range(2) for position in range(0, LENGTH, 3)]
    clean = talk.attend(at, window=7)
    talk.kv.keys_PGBC[talk.pages[0, 10 // 16], :, 10 % 16] = math.nan
    spoilt = talk.attend(at, window=7)
    seeing = torch.tensor([s == 0 and 10 <= position < 17 for s, position in at])
    assert torch.equal(spoilt[~seeing], clean[~seeing])
    assert spoilt[seeing].isnan().all()


def test_a_window_does_not_read_the_pages_before_it(device: str) -> None:
    talk = Conversations(HEADS[0], torch.float32, device)
    at = [(0, position) for position in range(22, LENGTH)]
    clean = talk.attend(at, window=5)
    talk.pages[0, :1] = 1 << 30
    assert torch.equal(talk.attend(at, window=5), clean)


@pytest.mark.parametrize("heads", [HEADS[2], HEADS[3]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_stored_is_where_it_belongs(
    device: str, heads: tuple[int, int, int, int, bool], dtype: torch.dtype
) -> None:
    talk, inside = Conversations(heads, dtype, device, page=7, order=1, sequences=2), heads[4]
    expected = talk.kv.keys_PGBC.clone(), talk.kv.values_PGBE.clone()
    rows = talk.rows([(0, 3), (0, 4), (1, 20)])
    keys, values = (x[rows.sequence_T, rows.position_T] for x in (talk.keys, talk.values))
    for each in (talk.kv.keys_PGBC, talk.kv.values_PGBE):
        each[talk.pages[[0, 1], [0, 2]].long()] = math.nan
    store(LayerPages(talk.kv, rows), keys, None if inside else values)
    for pool, whole in zip((talk.kv.keys_PGBC, talk.kv.values_PGBE), expected, strict=True):
        for sequence, position in ((0, 3), (0, 4), (1, 20)):
            at = (talk.pages[sequence, position // 7], slice(None), position % 7)
            assert torch.equal(pool[at], whole[at])
        assert pool[talk.pages[0, 0], :, 5].isnan().all()


def test_padding_stores_nothing_and_disturbs_nobody(device: str) -> None:
    talk = Conversations(HEADS[0], torch.float32, device, sequences=3)
    clean = talk.attend([(0, 23), (1, 12)])
    before = talk.kv.keys_PGBC.clone()
    rows = talk.rows([(0, 23), (1, 12), (2, -1)])
    queries = talk.queries[rows.sequence_T, rows.position_T]
    at = LayerPages(talk.kv, rows)
    store(at, talk.keys[[0, 1, 2], [23, 12, 7]], talk.values[[0, 1, 2], [23, 12, 7]])
    assert torch.equal(talk.kv.keys_PGBC.nan_to_num(), before.nan_to_num())
    padded = attend(queries, at, queries.shape[-1] ** -0.5, None, None, None)
    assert torch.equal(padded[:2], clean)


def test_queries_may_be_a_part_of_something_wider(device: str) -> None:
    talk = Conversations(HEADS[0], torch.float16, device)
    rows = talk.rows([(0, position) for position in range(18, LENGTH)])
    queries = talk.queries[0, 18:]
    part = torch.cat((queries, queries), dim=-1)[..., 24:]
    turned = queries.transpose(1, 2).contiguous().transpose(1, 2)
    results = [
        attend(each, LayerPages(talk.kv, rows), 0.2, None, None, None)
        for each in (queries, part, turned)
    ]
    assert all(torch.equal(result, results[0]) for result in results)


def test_no_rows_and_rows_of_another_type(device: str) -> None:
    talk = Conversations(HEADS[0], torch.float32, device)
    assert talk.attend([]).shape == (0, 4, 40)
    one = torch.zeros(1, dtype=torch.int64, device=device)
    at = LayerPages(talk.kv, Rows(one, one.int(), talk.pages))
    with pytest.raises(ValueError, match="int32"):
        attend(talk.queries[0, :1], at, 1.0, None, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_are_compared_before_they_are_used(
    device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        monkeypatch.setattr(triton_paged, "SPLIT", 32)
        monkeypatch.setattr(triton_paged, "BLOCK", 16)
    assert PROVEN(triton_paged._BROAD[1], dtype, dtype, 32, 16, torch.device(device))
