"""Resource profiles: how large a part of a node a model gets, in words that fit every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lite_llm.contracts.errors import InvalidRequest

_GIB: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a server is given."""

    name: str
    sequences: int
    """That it works on at a time; more wait."""
    slots: int
    """As ``sequences``, for servers that reserve the whole context of each one."""
    context_tokens: int
    """Of one sequence at most, prompt and answer together; a model that has less has its own."""
    device_share: float
    """Of the memory of each GPU that it may see, weights included."""

    @property
    def cache_tokens(self) -> int:
        """Room for every slot at its longest."""
        return self.slots * self.context_tokens


PROFILES: Final = {
    profile.name: profile
    for profile in (
        # Half and a third of a device, so that two or three models share one.
        Profile(name="small", sequences=4, slots=4, context_tokens=4096, device_share=0.3),
        Profile(name="medium", sequences=16, slots=8, context_tokens=8192, device_share=0.45),
        Profile(name="large", sequences=64, slots=8, context_tokens=32_768, device_share=0.9),
    )
}
_UP_TO: Final = ((8 * _GIB, "small"), (40 * _GIB, "medium"))
"""Bytes of weights up to which a model has a profile; above, the largest."""


def profile_for(name: str, weight_bytes: int) -> Profile:
    """The profile called ``name``; for an empty name the one that suits the size.

    Raises :class:`InvalidRequest` for an unknown name.
    """
    if not name:
        name = next((each for limit, each in _UP_TO if weight_bytes <= limit), "large")
    if name not in PROFILES:
        raise InvalidRequest(
            f"there is no profile {name!r}",
            where="profile",
            remedy=f"use one of {', '.join(PROFILES)}, or none",
        )
    return PROFILES[name]
