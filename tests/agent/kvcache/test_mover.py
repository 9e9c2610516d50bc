"""However slow moves are, no slot is read before it is written or overwritten before it is read."""

from __future__ import annotations

import threading
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from lite_llm.kvcache import DiskPages, KvCache
from lite_llm.kvcache.page_codec import PageCodec
from lite_llm.kvcache.page_file import PageFile

Toy = Any  # of conftest.py, which can't be imported

PAGE = 1024  # bytes of toy.dense, 4 tokens
SLOW = 0.02  # seconds


@pytest.fixture(params=["encode", "decode"])
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    method = getattr(PageCodec, request.param)

    def slowly(*arguments: Any) -> None:
        sleep(SLOW)
        method(*arguments)

    monkeypatch.setattr(PageCodec, request.param, slowly)


@pytest.mark.usefixtures("slow")
def test_a_step_waits_for_what_it_reads_and_overwrites(toy: Toy) -> None:
    first, second = list(range(17)), list(range(100, 117))
    with KvCache(toy.dense, device_bytes=5 * PAGE, host_bytes=9 * PAGE, page_tokens=4) as cache:
        for tokens in (first, second, first, second):
            toy.prefill(cache, tokens).release()


@pytest.mark.usefixtures("slow")
def test_swapped_in_while_it_is_still_going_out(toy: Toy) -> None:
    tokens = list(range(20))
    with KvCache(toy.dense, device_bytes=5 * PAGE, host_bytes=5 * PAGE, page_tokens=4) as cache:
        sequence = toy.prefill(cache, tokens[:14])
        for _ in range(2):
            assert sequence.swap_out()
            assert sequence.swap_in()
        fork = sequence.fork()
        for each, text in ((sequence, tokens), (fork, [*tokens[:14], 7, 7])):
            assert each.reserve(2)
            toy.compute(cache, [(each, text, 2)])
        cache.check()


@pytest.mark.parametrize("slow_disk", ["read", "write"])
def test_slow_disks_mix_nothing_up(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_disk: str
) -> None:
    method = getattr(PageFile, slow_disk)

    def slowly(*arguments: Any) -> None:
        sleep(SLOW / 4)
        method(*arguments)

    monkeypatch.setattr(PageFile, slow_disk, slowly)
    prompts = [list(range(at, at + 17)) for at in (0, 100, 200)]
    disk = DiskPages(directory=tmp_path, num_bytes=7 * PAGE)
    with KvCache(
        toy.dense, device_bytes=5 * PAGE, host_bytes=2 * PAGE, disk=disk, page_tokens=4
    ) as cache:
        for tokens in prompts * 3:
            sequence = cache.sequence(tokens, salt=b"")
            while not sequence.is_ready:
                sleep(0.001)
            assert sequence.reserve(17 - sequence.num_computed)
            toy.compute(cache, [(sequence, tokens, 17 - sequence.num_computed)])
            sequence.release()
            cache.check()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_way_that_a_page_can_go(toy: Toy, tmp_path: Path, device: str) -> None:
    """Between the device and the host, from either to disk, and back; nothing else has to wait."""
    prompts = [list(range(at, at + 17)) for at in range(0, 600, 100)]
    for host in (0, 6):
        disk = DiskPages(directory=tmp_path, num_bytes=30 * PAGE)
        with KvCache(
            toy.dense,
            device_bytes=5 * PAGE,
            host_bytes=host * PAGE,
            disk=disk,
            page_tokens=4,
            device=device,
        ) as cache:
            for tokens in prompts * 2:
                sequence = cache.sequence(tokens, salt=b"")
                while not sequence.is_ready:
                    sleep(0.001)
                assert sequence.reserve(17 - sequence.num_computed)
                toy.compute(cache, [(sequence, tokens, 17 - sequence.num_computed)])
                assert sequence.swap_out() == bool(host)
                assert sequence.swap_in()
                sequence.release()
                cache.check()


def test_closing_leaves_no_thread(toy: Toy, tmp_path: Path) -> None:
    before = threading.active_count()
    disk = DiskPages(directory=tmp_path, num_bytes=9 * PAGE)
    with KvCache(
        toy.dense, device_bytes=5 * PAGE, host_bytes=2 * PAGE, disk=disk, page_tokens=4
    ) as cache:
        for at in (0, 100, 200):
            toy.prefill(cache, list(range(at, at + 17))).release()
        assert threading.active_count() > before
    assert threading.active_count() == before
