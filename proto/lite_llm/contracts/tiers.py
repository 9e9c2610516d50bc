"""Media, tiers of experts, TierSets, and the rule by which a request gets some of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property

from lite_llm.contracts.errors import Forbidden, InvalidRequest, InvalidSettings
from lite_llm.contracts.identity import checked_label
from lite_llm.contracts.resources import NO_LIMITS, Budget

SEED_BITS = 128


class Medium(IntEnum):
    """Where bytes lie, nearest first; the value is the score's ``cache_level``."""

    GPU = 0
    DRAM = 1
    NVME = 2
    SATA = 3
    OBJECT_STORE = 4


class Placement(IntEnum):
    """How near a tier's experts are kept (SPEC-021), nearest first."""

    HOT = 0
    WARM = 1
    COLD = 2
    ARCHIVE = 3


class TierMode(StrEnum):
    """Named selections of tiers, least capacity first (SPEC-041)."""

    FAST = "fast"
    BALANCED = "balanced"
    DEEP = "deep"
    MAX = "max"

    @property
    def farthest(self) -> Placement:
        """Tiers placed this near or nearer belong to the mode."""
        return Placement(self.rank)

    @property
    def rank(self) -> int:
        """0 for fast to 3 for max."""
        return list(TierMode).index(self)


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One tier of experts (SPEC-004); all counts are per layer but the budget."""

    id: int
    name: str
    parameter_budget: int
    """Upper bound on the sum of the tier's expert parameters over all layers, as a count."""
    groups: int
    experts_per_group: int
    placement: Placement
    top_k_groups: int = 1
    top_k_experts: int = 1
    dtype: str = ""
    """Storage type of the weights by its safetensors name; empty: the checkpoint's."""

    def __post_init__(self) -> None:
        checked_label(self.name, "tier")
        if self.id < 0 or self.parameter_budget < 0:
            raise self._wrong("id and parameter_budget must not be negative")
        if not 1 <= self.top_k_groups <= self.groups:
            raise self._wrong(f"top_k_groups must lie in 1..groups: 1..{self.groups}")
        if not 1 <= self.top_k_experts <= self.experts_per_group:
            raise self._wrong(
                f"top_k_experts must lie in 1..experts_per_group: 1..{self.experts_per_group}"
            )

    def _wrong(self, remedy: str) -> InvalidSettings:
        return InvalidSettings(f"tier {self.name!r} is invalid", where="tiers", remedy=remedy)

    @property
    def experts(self) -> int:
        """Experts per layer."""
        return self.groups * self.experts_per_group

    @property
    def active_experts(self) -> int:
        """Experts that run per token and layer when this tier is chosen."""
        return self.top_k_groups * self.top_k_experts


@dataclass(frozen=True, kw_only=True)
class TierSet:
    """The tiers of a model family, and what a request may have of them."""

    tiers: tuple[Tier, ...]
    top_k_tiers: int = 1
    default_mode: TierMode = TierMode.BALANCED
    min_mode: TierMode = TierMode.FAST
    max_mode: TierMode = TierMode.MAX
    budget: Budget = NO_LIMITS
    routing_seed: int = 0
    """Base of the routing seeds (SPEC-003), 128 bits, unsigned."""

    def __post_init__(self) -> None:
        if not self.tiers:
            raise self._wrong("declare at least one tier")
        for what, values in (
            ("id", [tier.id for tier in self.tiers]),
            ("name", [tier.name for tier in self.tiers]),
        ):
            if len(set(values)) < len(values):
                raise self._wrong(f"give every tier a {what} of its own")
        if not 1 <= self.top_k_tiers <= len(self.tiers):
            raise self._wrong(f"top_k_tiers must lie in 1..{len(self.tiers)}")
        if not self.min_mode.rank <= self.default_mode.rank <= self.max_mode.rank:
            raise self._wrong("modes must satisfy min_mode <= default_mode <= max_mode")
        if not 0 <= self.routing_seed < 1 << SEED_BITS:
            raise self._wrong(f"routing_seed must be an unsigned {SEED_BITS}-bit number")

    @staticmethod
    def _wrong(remedy: str) -> InvalidSettings:
        return InvalidSettings("the TierSet is invalid", where="tierSet", remedy=remedy)

    @cached_property
    def by_name(self) -> dict[str, Tier]:
        return {tier.name: tier for tier in self.tiers}

    @property
    def max_active_experts(self) -> int:
        """Experts that run per token and layer at most, under any selection (SPEC-001)."""
        active = sorted((tier.active_experts for tier in self.tiers), reverse=True)
        return sum(active[: self.top_k_tiers])

    def of_mode(self, mode: TierMode) -> tuple[Tier, ...]:
        """The mode's tiers in order of id. The nearest tier always answers: never empty."""
        nearest = min(tier.placement for tier in self.tiers)
        farthest = max(mode.farthest, nearest)
        chosen = [tier for tier in self.tiers if tier.placement <= farthest]
        return tuple(sorted(chosen, key=lambda tier: tier.id))

    def select(self, mode: TierMode | None = None, names: Collection[str] = ()) -> tuple[Tier, ...]:
        """What a request gets: its tiers by name, or its mode within the administrator's bounds.

        A mode outside ``min_mode..max_mode`` is moved to the nearer bound. Names are checked, not
        moved: an unknown one raises :class:`InvalidRequest`, one beyond ``max_mode``
        :class:`Forbidden`.
        """
        if not names:
            wanted = mode or self.default_mode
            bounded = min(max(wanted.rank, self.min_mode.rank), self.max_mode.rank)
            return self.of_mode(list(TierMode)[bounded])
        if unknown := sorted(set(names) - self.by_name.keys()):
            raise InvalidRequest(
                f"there is no tier {unknown[0]!r}",
                where="lite_llm.tier_set",
                remedy=f"choose from {', '.join(sorted(self.by_name))}",
            )
        allowed = self.of_mode(self.max_mode)
        chosen = sorted((self.by_name[name] for name in set(names)), key=lambda tier: tier.id)
        if beyond := [tier.name for tier in chosen if tier not in allowed]:
            raise Forbidden(
                f"tier {beyond[0]!r} lies beyond this deployment's max_mode {self.max_mode}",
                where="lite_llm.tier_set",
                remedy=f"choose from {', '.join(sorted(tier.name for tier in allowed))}",
            )
        return tuple(chosen)
