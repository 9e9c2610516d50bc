"""One tenant: what it may see and use."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Annotated

from msgspec import Meta, Struct

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Forbidden
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.generate_pb2 import GenerateStart

_MODES = {
    model_pb2.TIER_MODE_FAST: "fast",
    model_pb2.TIER_MODE_BALANCED: "balanced",
    model_pb2.TIER_MODE_DEEP: "deep",
    model_pb2.TIER_MODE_MAX: "max",
}

Pattern = Annotated[str, Meta(min_length=1, max_length=256)]


class Tenant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As the file of keys declares it."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$|^$")]
    """In metrics, logs and the prefix cache, which no two tenants share."""
    keys: tuple[Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")], ...] = ()
    """SHA-256 of API keys: keys are random, so that no slower hash is needed."""
    models: tuple[Pattern, ...] = ("*/*",)
    """``namespace/name``, with ``*`` and ``?``: all others do not exist for the tenant."""
    tier_sets: tuple[Pattern, ...] = ("*",)
    """Modes and tiers, with ``*`` and ``?``."""
    max_priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    """A request that asks for more gets this."""
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """Share of the turns when tenants wait for them."""
    requests_per_minute: Annotated[float, Meta(gt=0)] | None = None
    """On average; as many may come at once. None: no limit."""
    concurrent_requests: Annotated[int, Meta(ge=1)] | None = None
    is_admin: bool = False
    """Whether it may tell agents what to do: load, unload, pin, drain."""

    def sees(self, model: ModelRef) -> bool:
        """Whether the model exists for the tenant."""
        name = str(model)
        return any(fnmatchcase(name, pattern) for pattern in self.models)

    def is_among(self, names: Collection[str]) -> bool:
        """Whether a model that is for these tenants, or for all if they are none, is for it."""
        return not names or not self.name or self.name in names

    def stamp(self, start: GenerateStart) -> None:
        """Make it a request of this tenant; :class:`Forbidden` names a TierSet it may not use."""
        start.tenant = self.name
        start.priority = min(start.priority, self.max_priority)
        mode = _MODES.get(start.tiers.mode)
        for wanted in ([mode] if mode else []) + list(start.tiers.tiers):
            if not any(fnmatchcase(wanted, pattern) for pattern in self.tier_sets):
                raise Forbidden(
                    f"{wanted} is not open to {self.name}",
                    where="lite_llm.tier_set",
                    remedy=f"ask for one of {', '.join(self.tier_sets)}",
                )

    def check_admin(self) -> None:
        """:class:`Forbidden` unless it may tell agents what to do."""
        if not self.is_admin:
            raise Forbidden(
                f"{self.name} is no administrator",
                where="authorization",
                remedy="use the key of one",
            )


ANYBODY = Tenant(name="", is_admin=True, max_priority=100)
"""Where no keys are declared."""
