"""Amounts: bytes as people write them, and what a request may take."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lite_llm.contracts.errors import InvalidRequest, InvalidSettings

_BINARY = ("KiB", "MiB", "GiB", "TiB", "PiB")
_UNITS: dict[str, int] = {"": 1, "B": 1}
for _power, _unit in enumerate(_BINARY, start=1):
    _UNITS[_unit] = _UNITS[_unit[:2]] = 1024**_power  # GiB, and Gi as Kubernetes writes it
    _UNITS[_unit[0] + "B"] = 1000**_power
_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))? *([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes from ``"8MiB"``, ``"1.5 GB"``, ``"4Gi"`` or ``"4096"``; fractions round down.

    Binary units take an ``i``, decimal ones don't; anything else raises :class:`InvalidSettings`.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[3] not in _UNITS:
        raise InvalidSettings(
            f"{text[:80]!r} is not a size",
            where="size",
            remedy="write a number and B, KiB, MiB, GiB, TiB (or KB, MB, GB, TB for powers of ten)",
        )
    whole, fraction, unit = match[1], match[2] or "", _UNITS[match[3]]
    scale: int = 10 ** len(fraction)
    return int(whole + fraction) * unit // scale


def format_size(num_bytes: int) -> str:
    """``num_bytes`` in the largest binary unit that keeps it at 1 or more: ``"1.5 GiB"``."""
    amount, power = float(num_bytes), 0
    while abs(amount) >= 1024 and power < len(_BINARY):
        amount, power = amount / 1024, power + 1
    return f"{amount:.1f} {_BINARY[power - 1]}" if power else f"{num_bytes} B"


# What the wire has room for.
_LARGEST = {
    "first_token_ms": 2**32 - 1,
    "per_token_ms": 2**32 - 1,
    "micro_cost_per_1k_tokens": 2**64 - 1,
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a request may take; None means no limit."""

    first_token_ms: int | None = None
    """Milliseconds to the first token."""
    per_token_ms: int | None = None
    """Milliseconds per further token."""
    micro_cost_per_1k_tokens: int | None = None
    """Millionths of the deployment's currency per 1,000 output tokens."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value <= _LARGEST[name]:
                raise InvalidRequest(
                    f"budget {name} is {value}",
                    where=name,
                    remedy=f"leave it out, or choose from 1 to {_LARGEST[name]}",
                )

    def tightened(self, other: Budget) -> Budget:
        """The smaller limit of each pair: neither party gets more than either allows."""
        return Budget(
            **{
                name: min((limit for limit in (mine, vars(other)[name]) if limit), default=None)
                for name, mine in vars(self).items()
            }
        )


NO_LIMITS = Budget()
