"""Seeds of 64 bits for servers with smaller ones, one for each sequence of a request."""

from __future__ import annotations

from hashlib import blake2b


def seed_for(seed: int, index: int, bits: int) -> int:
    """Of sequence ``index``, below ``2**bits - 1``: the largest number means "random" to some.

    The first sequence's seed is the request's own where it fits.
    """
    limit = (1 << bits) - 1
    if index == 0 and seed < limit:
        return seed
    words = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    return int.from_bytes(blake2b(words, digest_size=16).digest(), "little") % limit
