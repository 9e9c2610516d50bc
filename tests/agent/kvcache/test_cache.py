"""The cache as the engine sees it: prefixes, reservations, forks and their pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.kernels import attend
from lite_llm.kvcache import KvCache, NotResident, SequenceReleased

Toy = Any  # of conftest.py, which can't be imported

ROOMY = 1 << 20


def page_bytes(cache: KvCache) -> int:
    return ROOMY // cache.num_pages


def small(toy: Toy, num_pages: int) -> KvCache:
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as probe:
        size = page_bytes(probe)
    return KvCache(toy.dense, device_bytes=num_pages * size, page_tokens=4)


@pytest.mark.parametrize("index", range(3))
def test_a_prompt_in_any_chunks_then_decode(toy: Toy, index: int) -> None:
    tokens = list(range(40))
    with KvCache(toy.layouts[index], device_bytes=ROOMY, page_tokens=4) as cache:
        sequence = cache.sequence(tokens, salt=b"")
        for count in (1, 7, 8, 3, 1, 1, 16, 1, 2):
            assert sequence.reserve(count)
            toy.compute(cache, [(sequence, tokens, count)])
            cache.check()
        assert sequence.num_computed == 40
        sequence.release()
        cache.check()


def test_a_batch_flattens_rows_in_its_order(toy: Toy) -> None:
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as cache:
        first = toy.prefill(cache, [1, 2, 3, 4, 5])
        second = cache.sequence([9, 9], salt=b"")
        assert second.reserve(2)
        assert first.reserve(1)
        rows = cache.batch([(second, 2), (first, 1)])[0].rows
        assert rows.sequence_T.tolist() == [0, 0, 1]
        assert rows.position_T.tolist() == [0, 1, 5]
        assert rows.position_T.dtype == rows.sequence_T.dtype == rows.pages_SN.dtype == torch.int32


def test_a_whole_prompt_found_leaves_one_token(toy: Toy) -> None:
    tokens = list(range(8))
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as cache:
        toy.prefill(cache, tokens).release()
        assert cache.num_cached(tokens, salt=b"") == 4
        assert cache.sequence(tokens, salt=b"").num_computed == 4
        assert cache.sequence([*tokens, 8], salt=b"").num_computed == 8
        assert cache.sequence(tokens[:4], salt=b"").num_computed == 0
        assert cache.sequence([], salt=b"").num_computed == 0
        cache.check()


def test_what_differs_or_is_another_tenants_is_not_found(toy: Toy) -> None:
    tokens = list(range(12))
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as cache:
        running = toy.prefill(cache, tokens, salt=b"a")
        assert cache.num_cached(tokens, salt=b"b") == 0
        assert cache.sequence(tokens, salt=b"b").num_computed == 0
        assert cache.sequence([*tokens[:7], 99, *tokens[8:]], salt=b"a").num_computed == 4
        running.release()
        assert cache.num_cached(tokens, salt=b"b") == 0


def test_the_second_turn_computes_only_what_is_new(toy: Toy) -> None:
    first, answer, second = list(range(19)), list(range(100, 110)), list(range(200, 206))
    for layout in toy.layouts:
        with KvCache(layout, device_bytes=ROOMY, page_tokens=4) as cache:
            sequence = toy.prefill(cache, first)
            conversation = [*first, *answer]
            for _ in answer:
                assert sequence.reserve(1)
                toy.compute(cache, [(sequence, conversation, 1)])
            sequence.release()
            turn = toy.prefill(cache, [*conversation, *second])
            assert turn.num_computed == 35
            turn.release()
            # 29 tokens were computed, the last of them without a full page.
            assert cache.num_cached([*conversation, 7], salt=b"") == 28
            cache.check()


def test_preempted_and_found_again(toy: Toy) -> None:
    tokens = list(range(30))
    with KvCache(toy.mixed, device_bytes=ROOMY, page_tokens=4) as cache:
        sequence = toy.prefill(cache, tokens[:22])
        sequence.release()
        again = cache.sequence(tokens[:22], salt=b"")
        assert again.num_computed == 20
        assert again.reserve(10)
        toy.compute(cache, [(again, tokens, 10)])
        cache.check()


def test_two_that_compute_the_same_share_it_in_the_end(toy: Toy) -> None:
    tokens = list(range(16))
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as cache:
        first, second = (cache.sequence(tokens, salt=b"") for _ in range(2))
        for _ in range(2):
            for sequence in (first, second):
                assert sequence.reserve(8)
            toy.compute(cache, [(first, tokens, 8), (second, tokens, 8)])
        assert cache.num_pages - cache.num_free_pages == 4
        assert first.tables[0][:4].tolist() == second.tables[0][:4].tolist()
        cache.check()


def test_one_catches_up_with_another(toy: Toy) -> None:
    tokens = list(range(30))
    for layout in toy.layouts:
        with KvCache(layout, device_bytes=ROOMY, page_tokens=4) as cache:
            ahead, behind = (cache.sequence(tokens, salt=b"") for _ in range(2))
            stranger = cache.sequence(tokens, salt=b"other")
            assert behind.reserve(6)
            toy.compute(cache, [(behind, tokens, 6)])
            assert behind.catch_up(tokens) == 6
            assert ahead.catch_up(tokens) == 4
            assert ahead.reserve(26)
            toy.compute(cache, [(ahead, tokens, 26)])
            assert behind.catch_up(tokens) == 28
            assert stranger.catch_up(tokens) == 0
            assert behind.reserve(2)
            toy.compute(cache, [(behind, tokens, 2)])
            cache.check()


def test_forks_share_until_they_write(toy: Toy) -> None:
    for layout in toy.layouts:
        with KvCache(layout, device_bytes=ROOMY, page_tokens=4) as cache:
            tokens = list(range(10))
            parent = toy.prefill(cache, tokens)
            used = cache.num_free_pages
            forks = [parent.fork() for _ in range(3)]
            assert cache.num_free_pages == used
            texts = [[*tokens, *range(100 * i, 100 * i + 9)] for i in range(4)]
            for _ in range(9):
                parts = list(zip([parent, *forks], texts, [1] * 4, strict=True))
                assert all(sequence.reserve(1) for sequence, _, _ in parts)
                toy.compute(cache, parts)
                cache.check()
            for sequence in [parent, *forks]:
                sequence.release()
            cache.check()


def test_a_reservation_is_not_shared_with_a_fork(toy: Toy) -> None:
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as cache:
        parent = toy.prefill(cache, [1, 2, 3, 4, 5])
        assert parent.reserve(7)
        child = parent.fork()
        assert not parent.has_room(1)
        assert not child.has_room(1)
        assert parent.pages_to_reserve(7) == 1
        assert child.pages_to_reserve(7) == 2
        with pytest.raises(NotResident):
            cache.batch([(parent, 1)])


def test_out_of_pages_changes_nothing(toy: Toy) -> None:
    with small(toy, 4) as cache:
        running = toy.prefill(cache, list(range(10)))
        before = running.tables[0][:3].tolist()
        assert not running.reserve(7)
        assert running.tables[0][:3].tolist() == before
        assert (cache.num_free_pages, running.num_computed) == (1, 10)
        fork = running.fork()
        assert not fork.reserve(4)
        assert running.pages_to_reserve(2) == 1
        assert fork.reserve(2)
        cache.check()


def test_the_longest_unused_goes_first_and_its_end_before_its_beginning(toy: Toy) -> None:
    old, new = [[*range(at, at + 9)] for at in (0, 100)]
    with small(toy, 6) as cache:
        for tokens in (old, new):
            toy.prefill(cache, tokens).release()
        assert (cache.num_free_pages, cache.num_evictable_pages) == (2, 4)
        third = toy.prefill(cache, list(range(200, 212)))
        assert [cache.num_cached(t, salt=b"") for t in (old, new)] == [4, 8]
        third.release()
        cache.check()


def test_a_window_lets_go_what_no_token_sees(toy: Toy) -> None:
    tokens = list(range(64))
    with KvCache(toy.sliding, device_bytes=ROOMY, page_tokens=4) as cache:
        sequence = cache.sequence(tokens, salt=b"")
        for _ in range(64):
            assert sequence.reserve(1)
            toy.compute(cache, [(sequence, tokens, 1)])
            assert len(sequence.held()) <= cache.pages_for(64)
        assert cache.pages_for(64) < 64 // 4
        assert cache.num_evictable_pages > 8
        cache.check()


def test_a_prefix_without_its_window_is_shortened(toy: Toy) -> None:
    """Only pages seen from the hit's end are needed; pages dropped before are no use."""
    tokens = list(range(40))
    with KvCache(toy.sliding, device_bytes=ROOMY, page_tokens=4) as probe:
        size = page_bytes(probe)
    with KvCache(toy.sliding, device_bytes=6 * size, page_tokens=4) as cache:
        sequence = cache.sequence(tokens, salt=b"")
        for _ in range(36):
            assert sequence.reserve(1)
            toy.compute(cache, [(sequence, tokens, 1)])
        sequence.release()
        assert cache.num_cached(tokens[:8], salt=b"") == 0
        assert cache.num_cached(tokens, salt=b"") == 36
        found = toy.prefill(cache, tokens)
        found.release()
        cache.check()


def test_released_is_released(toy: Toy) -> None:
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as cache:
        sequence = toy.prefill(cache, [1, 2, 3])
        sequence.release()
        sequence.release()
        for use in (
            lambda: sequence.reserve(1),
            lambda: sequence.commit([]),
            lambda: sequence.fork(),
            lambda: sequence.swap_out(),
            lambda: sequence.swap_in(),
            lambda: cache.batch([(sequence, 1)]),
        ):
            with pytest.raises(SequenceReleased):
                use()
        cache.check()


def test_room_must_be_reserved(toy: Toy) -> None:
    with KvCache(toy.dense, device_bytes=ROOMY, page_tokens=4) as cache:
        sequence = cache.sequence([1, 2, 3], salt=b"")
        with pytest.raises(NotResident):
            cache.batch([(sequence, 3)])
        with pytest.raises(NotResident):
            sequence.commit([1])


def test_less_memory_than_a_page_is_refused(toy: Toy) -> None:
    with pytest.raises(OutOfMemory, match="pages"):
        KvCache(toy.mixed, device_bytes=100)


def test_kernels_attend_over_strided_pages(toy: Toy) -> None:
    """Pages of all a group's layers lie together, so a layer's view of them has gaps."""
    tokens = list(range(11))
    with KvCache(toy.mixed, device_bytes=ROOMY, page_tokens=4) as cache:
        sequence = toy.prefill(cache, tokens)
        assert sequence.reserve(1)
        for pages, layer in zip(cache.batch([(sequence, 1)]), toy.mixed.layers, strict=True):
            assert not pages.kv.keys_PGBC.is_contiguous()
            pages.kv.keys_PGBC[pages.rows.pages_SN[0, 2], :, 3] = 0.0
            pages.kv.values_PGBE[pages.rows.pages_SN[0, 2], :, 3] = 0.0
            queries = torch.zeros(1, 2, layer.key_dim)
            seen = toy.prints(tokens)[-(layer.window - 1) if layer.window else 0 :]
            sign = 1 if layer.shared else -1
            mean = sign * sum(seen) / (len(seen) + 1)
            out = attend(queries, pages, scale=1.0, window=layer.window)
            torch.testing.assert_close(out, torch.full_like(out, mean))


def test_a_batch_of_nobody(toy: Toy) -> None:
    with KvCache(toy.mixed, device_bytes=ROOMY, page_tokens=4) as cache:
        toy.compute(cache, [])
        toy.compute(cache, [(cache.sequence([1], salt=b""), [1], 0)])


def test_pages_that_nobody_has_used_cost_no_memory(toy: Toy) -> None:
    before = _resident_bytes()
    with KvCache(toy.dense, device_bytes=512 << 20, page_tokens=4) as cache:
        toy.prefill(cache, list(range(40)))
        assert _resident_bytes() - before < 128 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
