"""Seeds of 64 bits for servers with smaller ones, one for each sequence of a request."""

from __future__ import annotations

_ODD = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: neighbours land far apart


def seed_for(seed: int, index: int, bits: int) -> int:
    """Of sequence ``index``, below ``2**bits - 1``: the largest number means "random" to some.

    The first sequence's seed is the request's own where it fits.
    """
    wide = (seed + index * _ODD) % (1 << 64)
    return (wide ^ (wide >> bits) if wide >> bits else wide) % ((1 << bits) - 1)
