"""Random numbers that depend on a key and a counter alone, not on what was drawn before.

Philox-4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): a few
lines that give the same numbers on every processor and, later, inside a kernel.
"""

from __future__ import annotations

_ROUNDS = 10
_MASK = 0xFFFF_FFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD251_1F53, 0xCD9E_8D57
_WEYL_0, _WEYL_1 = 0x9E37_79B9, 0xBB67_AE85

Words4 = tuple[int, int, int, int]


def philox(counter: Words4, key: tuple[int, int]) -> Words4:
    """Four random 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> 32) ^ c1 ^ k0,
            product_1 & _MASK,
            (product_0 >> 32) ^ c3 ^ k1,
            product_0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, the same for every (64-bit seed, position)."""
    counter = (position & _MASK, position >> 32 & _MASK, 0, 0)
    high, low, _, _ = philox(counter, (seed & _MASK, seed >> 32 & _MASK))
    return float((high << 32 | low) >> 11) * 2.0**-53


def derived_seed(seed: int, index: int) -> int:
    """A 64-bit seed for each of a request's sequences; the first one's is ``seed`` itself."""
    if index == 0:
        return seed
    high, low, _, _ = philox((index & _MASK, index >> 32, 0, 1), (seed & _MASK, seed >> 32 & _MASK))
    return high << 32 | low
