"""Names of things: models and experts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from lite_llm.contracts.errors import InvalidName

DEFAULT_NAMESPACE = "default"
MAX_NAME_LENGTH = (
    63  # of a DNS-1123 label; model names too, so that they fit a Kubernetes label's value
)
MAX_NODE_LENGTH = 253  # of a DNS-1123 subdomain: nodes are named by host name

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")  # one spelling per number, and never a slow one


def checked_label(value: str, what: str) -> str:
    """``value`` if it is a DNS-1123 label, else :class:`InvalidName` about ``what``."""
    if len(value) <= MAX_NAME_LENGTH and _LABEL.fullmatch(value):
        return value
    raise _invalid(value, what, f"use 1 to {MAX_NAME_LENGTH} of a-z, 0-9 and '-' within")


def checked_name(value: str, what: str, *, max_length: int = MAX_NAME_LENGTH) -> str:
    """``value`` if it is a DNS-1123 subdomain: labels joined by dots."""
    if len(value) <= max_length and all(_LABEL.fullmatch(part) for part in value.split(".")):
        return value
    raise _invalid(value, what, f"use 1 to {max_length} of a-z, 0-9 and, within, '-' and '.'")


def checked_node(value: str) -> str:
    """``value`` if it can name a Kubernetes node, else :class:`InvalidName`."""
    return checked_name(value, "node", max_length=MAX_NODE_LENGTH)


def _invalid(value: str, what: str, remedy: str) -> InvalidName:
    return InvalidName(f"{what} {value[:80]!r} is not a valid name", where=what, remedy=remedy)


@dataclass(frozen=True, order=True, slots=True)
class ModelRef:
    """A model's name in its namespace: what Kubernetes allows, at most 63 characters each."""

    namespace: str
    name: str

    def __post_init__(self) -> None:
        checked_label(self.namespace, "namespace")
        checked_name(self.name, "model")

    @classmethod
    def parse(cls, text: str, *, namespace: str = DEFAULT_NAMESPACE) -> Self:
        """From ``name`` or ``namespace/name``, as clients write it in the ``model`` field."""
        head, slash, tail = text.partition("/")
        return cls(head, tail) if slash else cls(namespace, head)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, order=True, slots=True)
class ExpertKey:
    """One expert of one layer (SPEC-022). Keys sort as the experts lie in a checkpoint."""

    layer: int
    tier: int
    group: int
    expert: int

    def __post_init__(self) -> None:
        if min(self.layer, self.tier, self.group, self.expert) < 0:
            raise InvalidName(
                f"expert key {self} has a negative part",
                where="expert key",
                remedy="count layers, tiers, groups and experts from 0",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``: ``"3.0.1.7"`` is layer 3, tier 0, group 1, expert 7."""
        parts = text.split(".")
        if len(parts) != 4 or not all(map(_NUMBER.fullmatch, parts)):
            raise InvalidName(
                f"{text[:80]!r} is not an expert key",
                where="expert key",
                remedy="write layer.tier.group.expert, such as 3.0.1.7",
            )
        layer, tier, group, expert = map(int, parts)
        return cls(layer, tier, group, expert)

    def __str__(self) -> str:
        return f"{self.layer}.{self.tier}.{self.group}.{self.expert}"
