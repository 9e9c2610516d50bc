"""Many callers at once, machine code in a cache or without one, memory that can't be written."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lite_llm.kernels import fast, get_threads, is_fast, linear, set_threads, warm_up
from lite_llm.kernels.cache import stamp

SMALL = """
import torch
from lite_llm.kernels import cache, log_softmax
print(cache.directory(), log_softmax(torch.zeros(1, 2)).tolist())
"""


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def test_callers_on_many_threads_do_not_mix() -> None:
    before, weight = get_threads(), normal(300, 700)
    xs = [normal(rows, 700, seed=rows) for rows in range(1, 40)]
    expected = [linear(x, weight) for x in xs]

    def work(index: int) -> bool:
        set_threads(1 + index % 3)
        return torch.equal(linear(xs[index % 39], weight), expected[index % 39])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(200)))
    set_threads(before)


def test_at_least_one_thread() -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        set_threads(0)


def test_warming_up_twice_is_once() -> None:
    warm_up()
    warm_up()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0, 1, 2, 6])
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_weights_mapped_read_only_at_any_address(
    tmp_path: Path, dtype: torch.dtype, offset: int
) -> None:
    weight, x = normal(19, 53).to(dtype), normal(5, 53).to(dtype)
    path = tmp_path / "weights"
    path.write_bytes(bytes(offset) + weight.view(torch.uint8).numpy().tobytes())
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    there = torch.frombuffer(mapped, dtype=dtype, offset=offset).reshape(19, 53)
    assert torch.equal(linear(x, there), linear(x, weight))


def test_the_cache_goes_where_it_is_told(tmp_path: Path) -> None:
    expected = f"{tmp_path}/lite-llm-kernels [[-0.6931471824645996, -0.6931471824645996]]"
    assert run(SMALL, NUMBA_CACHE_DIR=str(tmp_path)) == expected
    kept = sorted((tmp_path / "lite-llm-kernels").iterdir())
    assert kept
    assert run(SMALL, NUMBA_CACHE_DIR=str(tmp_path)) == expected
    assert sorted((tmp_path / "lite-llm-kernels").iterdir()) == kept, "compiled again"


def test_without_a_place_to_write_each_process_compiles_for_itself(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    assert run(SMALL, NUMBA_CACHE_DIR=str(occupied)).startswith("None [[-0.69")


def test_the_stamp_covers_the_room(tmp_path: Path) -> None:
    stamps = {stamp()}
    for number in range(3):  # constants of one file are in the machine code of another
        (tmp_path / f"{number % 2}.py").write_text(f"CONSTANT = {number}\n")
        stamps.add(stamp.__wrapped__(tmp_path))
    assert [*map(len, stamps)] == [64] * 4


def test_fast_mode_is_off_unless_asked_for() -> None:
    x, weight = normal(3, 64), normal(8, 64, seed=1)
    assert not is_fast()
    with fast():
        assert is_fast()
        assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))
    assert not is_fast()
