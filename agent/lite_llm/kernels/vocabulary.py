"""Choosing tokens by their logits, and telling how likely they were; many rows in one call.

Each row is looked at by itself. Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lite_llm.kernels import vocabulary_loops
from lite_llm.kernels.threads import scratch

LEAST_TEMPERATURE = float(np.finfo(np.float32).tiny)
"""A smaller one would make zero of what the likeliest token is divided by."""

DRAW = np.dtype(
    [
        ("row", "i8"), ("seed", "u8"), ("position", "i8"), ("top_k", "i8"),
        ("temperature", "f8"), ("top_p", "f8"), ("min_p", "f8"), ("token", "i8"),
    ]
)  # fmt: skip
RATE = np.dtype([("row", "i8"), ("token", "i8"), ("count", "i8"), ("top", "i8"), ("logprob", "f8")])
TOP = np.dtype([("token", "i8"), ("logprob", "f8")])
_DRAW_WORK, _RATE_WORK, _TOP_WORK = 32, 16, 1  # multiplications that an entry takes, about


class Chance(NamedTuple):
    """By what a token is drawn; the filters apply in this order."""

    seed: int
    """64 bits. It and the position fix the random number."""
    position: int
    temperature: float = 1.0
    top_k: int | None = None
    """Only so many largest logits."""
    min_p: float = 0.0
    """Only weights of at least so much, where the largest is 1."""
    top_p: float = 1.0
    """Only the largest weights that together reach this share."""


class Rating(NamedTuple):
    """Natural logarithms of probabilities."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens, likeliest first, equal ones by id."""


def likeliest(logits_RV: Tensor) -> list[int | None]:
    """The token of each row's largest logit, the smallest of equals.

    None for a row that holds NaN or +inf, or nothing but -inf.
    """
    if not logits_RV.is_cpu or logits_RV.dtype != torch.float32 or logits_RV.stride(1) != 1:
        # Largest values are exact, and NaN wins: one look finds all that is wrong with a row.
        is_usable_R = torch.isfinite(logits_RV.amax(dim=-1))
        tokens_R = torch.where(is_usable_R, logits_RV.argmax(dim=-1), -1)  # one wait for both
        return [token if token >= 0 else None for token in tokens_R.tolist()]
    rows, size = logits_RV.shape
    best = np.empty(rows, np.int64)
    address, stride = logits_RV.data_ptr(), 4 * logits_RV.stride(0)
    vocabulary_loops.top.run(rows, _TOP_WORK * rows * size, address, stride, size, best.ctypes.data)
    return [token if token >= 0 else None for token in best.tolist()]


def draw(rows: Sequence[Tensor], chances: Sequence[Chance]) -> list[int]:
    """A token for each row ``[V]``, float32 and on the CPU, with probability ``exp(logit / t)``.

    Rows must have a finite largest logit. The random numbers are those of ``engine.philox``.
    """
    if not rows:
        return []
    size = len(rows[0])
    table = np.array(
        [
            (
                row.data_ptr(),
                chance.seed,
                chance.position,
                size if chance.top_k is None else chance.top_k,
                max(chance.temperature, LEAST_TEMPERATURE),
                chance.top_p,
                chance.min_p,
                0,
            )
            for row, chance in zip(rows, chances, strict=True)
        ],
        DRAW,
    )
    _check(rows, size)
    memory_size = 12 * size + 8 * vocabulary_loops.BUCKETS + 64
    memory_size -= memory_size % 64
    vocabulary_loops.draw.run(
        len(rows),
        _DRAW_WORK * size * len(rows),
        table.ctypes.data,
        size,
        scratch(memory_size),
        memory_size,
    )
    tokens: list[int] = table["token"].tolist()
    return tokens


def rate(rows: Sequence[Tensor], tokens: Sequence[int], counts: Sequence[int]) -> list[Rating]:
    """How likely each row ``[V]`` makes its token, and its ``counts`` likeliest ones.

    Rows are float32 and on the CPU, and have a finite largest logit.
    """
    if not rows:
        return []
    size, most = len(rows[0]), max(counts)
    _check(rows, size)
    counts = [min(count, size) for count in counts]
    tops = np.zeros((len(rows), max(1, most)), TOP)
    begin, step = tops.ctypes.data, tops.strides[0]
    table = np.array(
        [
            (row.data_ptr(), token, count, begin + number * step, 0.0)
            for number, (row, token, count) in enumerate(zip(rows, tokens, counts, strict=True))
        ],
        RATE,
    )
    vocabulary_loops.rate.run(len(rows), _RATE_WORK * size * len(rows), table.ctypes.data, size)
    logprobs = table["logprob"].astype(np.float32).tolist()
    named, rated = tops["token"].tolist(), tops["logprob"].astype(np.float32).tolist()
    return [
        Rating(logprob, tuple(zip(ids[:count], values[:count], strict=True)))
        for logprob, ids, values, count in zip(logprobs, named, rated, counts, strict=True)
    ]


def _check(rows: Sequence[Tensor], size: int) -> None:
    wanted = (True, torch.float32, True, size)
    for row in rows:
        assert (row.is_cpu, row.dtype, row.is_contiguous(), len(row)) == wanted
