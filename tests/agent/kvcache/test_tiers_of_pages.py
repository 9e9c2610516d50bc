"""Pages that leave the device and come back: to host memory, and to disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from lite_llm.contracts.errors import StorageFailed
from lite_llm.kvcache import CachedSequence, DiskPages, KvCache, NotResident, SequenceReleased
from lite_llm.kvcache.page_file import PageFile
from lite_llm.kvcache.tree import Place

Toy = Any  # of conftest.py, which can't be imported

PAGE = 1024  # bytes of toy.dense, 4 tokens


def cache_of(
    toy: Toy, device: int, host: int = 0, disk: int = 0, directory: Path | None = None
) -> KvCache:
    return KvCache(
        toy.dense,
        device_bytes=device * PAGE,
        host_bytes=host * PAGE,
        disk=DiskPages(directory=directory, num_bytes=disk * PAGE) if directory else None,
        page_tokens=4,
    )


def wait_ready(sequence: CachedSequence) -> None:
    deadline = monotonic() + 60
    while not sequence.is_ready:
        assert monotonic() < deadline
        sleep(0.001)


def test_the_toy_has_the_pages_that_these_tests_count(toy: Toy) -> None:
    with cache_of(toy, 7) as cache:
        assert cache.num_pages == 7


def test_evicted_pages_are_found_in_host_memory(toy: Toy) -> None:
    prompts = [[*range(at, at + 17)] for at in range(0, 500, 100)]
    with cache_of(toy, 6, host=20) as cache:
        for tokens in prompts:
            toy.prefill(cache, tokens).release()
            cache.check()
        for tokens in prompts:
            assert cache.num_cached(tokens, salt=b"") == 16
            toy.prefill(cache, tokens).release()
            cache.check()


def test_swapped_out_and_in_again(toy: Toy) -> None:
    mine, others = list(range(30)), list(range(100, 130))
    with cache_of(toy, 8, host=8) as cache:
        sequence = toy.prefill(cache, mine[:22])
        assert sequence.swap_out()
        assert sequence.is_swapped_out
        assert sequence.swap_out()
        cache.check()
        assert not sequence.has_room(1)
        with pytest.raises(NotResident):
            sequence.reserve(1)
        with pytest.raises(NotResident):
            cache.batch([(sequence, 1)])
        with pytest.raises(NotResident):
            sequence.commit([1])
        with pytest.raises(NotResident):
            sequence.fork()
        other = toy.prefill(cache, others)
        assert not sequence.swap_in()
        cache.check()
        other.release()
        assert sequence.swap_in()
        assert sequence.reserve(8)
        toy.compute(cache, [(sequence, mine, 8)])
        cache.check()


def test_without_room_on_the_host_nothing_is_swapped(toy: Toy) -> None:
    with cache_of(toy, 8, host=2) as cache:
        sequence = toy.prefill(cache, list(range(12)))
        assert not sequence.swap_out()
        assert not sequence.is_swapped_out
        assert sequence.reserve(1)
        toy.compute(cache, [(sequence, list(range(13)), 1)])
        cache.check()


def test_what_others_read_stays_until_all_of_them_are_out(toy: Toy) -> None:
    tokens = list(range(20))
    with cache_of(toy, 8, host=8) as cache:
        parent = toy.prefill(cache, tokens[:16])
        child = parent.fork()
        assert child.swap_out()
        assert parent.reserve(4)
        toy.compute(cache, [(parent, tokens, 4)])
        assert parent.swap_out()
        assert cache.num_free_pages == 8
        cache.check()
        for sequence in (parent, child):
            assert sequence.swap_in()
        assert cache.num_pages - cache.num_free_pages == 5
        cache.check()
        parent.swap_out()
        parent.release()
        assert child.reserve(4)
        toy.compute(cache, [(child, [*tokens[:16], 9, 9, 9, 9], 4)])
        cache.check()


def test_what_only_those_swapped_out_hold_leaves_with_the_last_resident(toy: Toy) -> None:
    tokens = list(range(20))
    with cache_of(toy, 8, host=8) as cache:
        parent = toy.prefill(cache, tokens[:18])
        child = parent.fork()
        assert child.swap_out()
        parent.release()
        assert cache.num_free_pages == 8
        cache.check()
        assert child.swap_in()
        assert child.reserve(2)
        toy.compute(cache, [(child, tokens, 2)])


def test_a_prefix_of_one_swapped_out_is_found(toy: Toy) -> None:
    tokens = list(range(24))
    with cache_of(toy, 12, host=12) as cache:
        first = toy.prefill(cache, tokens[:16])
        assert first.swap_out()
        second = toy.prefill(cache, tokens)
        cache.check()
        assert first.swap_in()
        assert cache.num_pages - cache.num_free_pages == 6
        assert first.reserve(8)
        toy.compute(cache, [(first, tokens, 8)])
        second.release()
        cache.check()


def test_swapped_out_is_released_too(toy: Toy) -> None:
    with cache_of(toy, 8, host=8) as cache:
        sequence = toy.prefill(cache, list(range(10)))
        sequence.swap_out()
        sequence.release()
        cache.check()
        with pytest.raises(SequenceReleased):
            sequence.swap_in()
        assert cache.num_cached(list(range(10)), salt=b"") == 8


def test_a_prefix_too_large_for_what_is_free_is_found_in_part(toy: Toy) -> None:
    long, other = list(range(33)), list(range(100, 116))
    with cache_of(toy, 9, host=20) as cache:
        toy.prefill(cache, long).release()
        running = toy.prefill(cache, other)
        part = cache.sequence(long, salt=b"")
        assert part.num_computed == 20
        assert cache.num_free_pages + cache.num_evictable_pages == 0
        cache.check()
        running.release()


def test_a_slow_copy_is_not_waited_for(toy: Toy) -> None:
    tokens = list(range(17))
    with cache_of(toy, 5, host=20) as cache:
        toy.prefill(cache, tokens).release()
        toy.prefill(cache, list(range(100, 117))).release()
        toy.prefill(cache, tokens).release()  # brought once, so the pace is known
        toy.prefill(cache, list(range(100, 117))).release()
        assert cache.num_cached(tokens, salt=b"") == 16
        cache.token_seconds = 1e-12
        assert cache.num_cached(tokens, salt=b"") < 16
        cache.token_seconds = 1e3
        assert cache.num_cached(tokens, salt=b"") == 16


def test_pages_go_to_disk_and_come_back(toy: Toy, tmp_path: Path) -> None:
    prompts = [[*range(at, at + 17)] for at in range(0, 500, 100)]
    with cache_of(toy, 6, host=3, disk=30, directory=tmp_path) as cache:
        for tokens in prompts:
            toy.prefill(cache, tokens).release()
        cache.check()
        for tokens in prompts:
            sequence = cache.sequence(tokens, salt=b"")
            wait_ready(sequence)
            assert sequence.num_computed == 16
            assert sequence.reserve(1)
            toy.compute(cache, [(sequence, tokens, 1)])
            sequence.release()
            cache.check()
        assert list(tmp_path.iterdir()) == []


def test_a_sequence_that_waits_for_the_disk_cant_be_computed(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, allowed, read = list(range(17)), threading.Event(), PageFile.read
    monkeypatch.setattr(PageFile, "read", lambda *a: (allowed.wait(60), read(*a))[1])
    with cache_of(toy, 6, disk=30, directory=tmp_path) as cache:
        toy.prefill(cache, tokens).release()
        toy.prefill(cache, list(range(100, 121))).release()
        sequence = cache.sequence(tokens, salt=b"")
        assert not sequence.is_ready
        assert sequence.reserve(1)
        with pytest.raises(NotResident):
            cache.batch([(sequence, 1)])
        with pytest.raises(NotResident):
            sequence.fork()
        assert not sequence.swap_out()
        allowed.set()
        wait_ready(sequence)
        toy.compute(cache, [(sequence, tokens, 1)])
        cache.check()


def break_slot(cache: KvCache, files: list[PageFile], tokens: list[int], index: int) -> None:
    """Overwrite bytes of the page ``index`` of ``tokens``, all of which are on disk."""
    cache._mover._writing.submit(int).result()  # what is still to be written has been
    pages = [node.pages[0] for node in cache._find(tokens, b"")]
    assert {page.place for page in pages if page} == {Place.DISK}
    page = pages[index]
    assert page is not None
    os.pwrite(files[0]._file.fileno(), b"\xff\xfe", page.slot * PAGE + 9)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[PageFile]:
    opened: list[PageFile] = []
    enter = PageFile.__enter__

    def remember(file: PageFile) -> PageFile:
        opened.append(file)
        return enter(file)

    monkeypatch.setattr(PageFile, "__enter__", remember)
    return opened


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_a_corrupt_page_on_disk_is_computed_again(
    toy: Toy, tmp_path: Path, files: list[PageFile], broken: int
) -> None:
    tokens = list(range(17))
    with cache_of(toy, 5, disk=30, directory=tmp_path) as cache:
        toy.prefill(cache, tokens).release()
        toy.prefill(cache, list(range(100, 117))).release()
        break_slot(cache, files, tokens, broken)
        waiting, also = (cache.sequence(tokens, salt=b"") for _ in range(2))
        for sequence in (waiting, also):
            wait_ready(sequence)
            assert sequence.num_computed == 4 * broken
            cache.check()
        also.release()
        assert waiting.reserve(17 - 4 * broken)
        toy.compute(cache, [(waiting, tokens, 17 - 4 * broken)])
        assert cache.num_cached(tokens, salt=b"") == 16
        cache.check()


def test_a_corrupt_page_is_not_found_by_those_who_come_later(
    toy: Toy, tmp_path: Path, files: list[PageFile]
) -> None:
    """It is read for a sequence that is gone when it arrives, and then moved to disk again."""
    tokens = list(range(17))
    with cache_of(toy, 5, disk=30, directory=tmp_path) as cache:
        toy.prefill(cache, tokens).release()
        toy.prefill(cache, list(range(100, 117))).release()
        break_slot(cache, files, tokens, 2)
        for begin in (200, 300):
            cache.sequence(tokens, salt=b"").release()
            toy.prefill(cache, list(range(begin, begin + 17))).release()
        sequence = cache.sequence(tokens, salt=b"")
        wait_ready(sequence)
        assert sequence.num_computed == 8
        cache.check()


def test_a_directory_that_takes_no_file(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        cache_of(toy, 5, disk=5, directory=tmp_path / "missing")


def test_a_full_disk_costs_pages_not_answers(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    tokens = list(range(17))
    with cache_of(toy, 5, disk=30, directory=tmp_path) as cache:
        toy.prefill(cache, tokens).release()
        monkeypatch.setattr(os, "pwrite", refuse)
        toy.prefill(cache, list(range(100, 117))).release()
        sequence = cache.sequence(tokens, salt=b"")
        wait_ready(sequence)
        assert sequence.num_computed == 0
        assert sequence.reserve(17)
        toy.compute(cache, [(sequence, tokens, 17)])
        cache.check()
