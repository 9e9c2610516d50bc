"""What pages become outside the device, and what of them comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.kvcache import KvCache, PageFormat
from lite_llm.kvcache.page_codec import PageCodec

Toy = Any  # of conftest.py, which can't be imported

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def there_and_back(form: PageFormat, page_X: torch.Tensor) -> torch.Tensor:
    codec = PageCodec(form, page_X.numel(), page_X.dtype)
    page_Y, back_X = torch.zeros(codec.num_bytes, dtype=torch.uint8), torch.empty_like(page_X)
    codec.encode(page_X, page_Y)
    codec.decode(page_Y, back_X)
    return back_X


@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_is_exact_even_for_what_is_not_a_number(dtype: torch.dtype) -> None:
    page_X = torch.randn(256, generator=torch.Generator().manual_seed(1)).to(dtype)
    page_X[:4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40])
    back_X = there_and_back(PageFormat.EXACT, page_X)
    assert torch.equal(back_X.view(torch.uint8), page_X.view(torch.uint8))


@pytest.mark.parametrize("dtype", FLOATS)
def test_int8_keeps_what_is_no_number_from_its_neighbours(dtype: torch.dtype) -> None:
    page_X = torch.randn(128, generator=torch.Generator().manual_seed(4)).to(dtype)
    clean_X = page_X.clone()
    for place, broken in ((3, float("nan")), (40, float("inf")), (70, -float("inf"))):
        clean_X[place], page_X[place] = 0.0, broken
    back_X, expected_X = (there_and_back(PageFormat.INT8, each) for each in (page_X, clean_X))
    assert back_X[[3, 40, 70]].isnan().all()
    back_X[[3, 40, 70]] = 0.0
    assert torch.equal(back_X, expected_X)


@pytest.mark.parametrize("dtype", FLOATS)
def test_int8_is_within_half_a_level(dtype: torch.dtype) -> None:
    page_X = torch.randn(640, generator=torch.Generator().manual_seed(2)).to(dtype)
    page_X[64:128] = 0
    page_X[128:192] *= 1000
    back_X = there_and_back(PageFormat.INT8, page_X)
    most_K = page_X.float().view(-1, 64).abs().amax(1, keepdim=True)
    error = (back_X - page_X).float().abs().view(-1, 64)
    assert bool((error <= most_K * (0.5 / 127 + 2**-8)).all())
    assert bool((back_X[64:128] == 0).all())


def test_float16_is_cut_to_its_range() -> None:
    page_X = torch.full((64,), 0.1)
    page_X[0], page_X[1] = 1e6, -1e6
    back_X = there_and_back(PageFormat.FLOAT16, page_X)
    assert back_X[:2].tolist() == [65504.0, -65504.0]
    assert torch.equal(back_X[2:], page_X[2:].half().float())


def test_a_format_that_saves_nothing_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="not smaller"):
        PageCodec(PageFormat.FLOAT16, 64, torch.bfloat16)


@pytest.mark.parametrize("form", [PageFormat.FLOAT16, PageFormat.INT8])
def test_answers_may_not_depend_on_what_was_cached(toy: Toy, form: PageFormat) -> None:
    with pytest.raises(InvalidSettings, match="deterministic"):
        KvCache(toy.dense, device_bytes=1 << 16, old_pages=form)


def test_smaller_pages_are_more_pages_and_come_back_nearly_the_same(toy: Toy) -> None:
    tokens = list(range(16))
    with KvCache(
        toy.dense,
        device_bytes=5 << 10,
        host_bytes=4 << 10,
        page_tokens=4,
        old_pages=PageFormat.INT8,
        deterministic=False,
    ) as cache:
        sequence = toy.prefill(cache, tokens)
        assert sequence.swap_out()
        toy.prefill(cache, list(range(100, 116))).release()
        assert cache.num_cached(list(range(100, 117)), salt=b"") == 16
        assert sequence.swap_in()
        assert sequence.reserve(1)
        pages = cache.batch([(sequence, 1)])[0]
        keys_LGC = (
            pages.kv.keys_PGBC[pages.rows.pages_SN[0, :4].long()].transpose(1, 2).flatten(0, 1)
        )
        wanted = torch.tensor(toy.prints(tokens))
        torch.testing.assert_close(
            keys_LGC[:, 0, 0], wanted, rtol=0, atol=float(wanted.max()) / 250
        )
        cache.check()
