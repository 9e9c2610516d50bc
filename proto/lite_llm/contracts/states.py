"""The state machine of a model on an agent (SPEC-010): a table, and a function over all of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lite_llm.contracts.errors import InvalidTransition


class ModelState(StrEnum):
    """The same words in proto (``MODEL_STATE_…``), etcd and the CRD's column."""

    INIT = "Init"
    WARM = "Warm"
    ACTIVE = "Active"
    EXPANDING = "Expanding"
    FROZEN = "Frozen"
    RECOVERING = "Recovering"

    @property
    def takes_requests(self) -> bool:
        """Whether new requests are admitted; Expanding serves under its old tiers."""
        return self in (ModelState.ACTIVE, ModelState.EXPANDING)

    @property
    def runs_requests(self) -> bool:
        """Whether admitted requests make progress."""
        return self.takes_requests or self is ModelState.FROZEN


class ModelEvent(StrEnum):
    """What happens to a model."""

    LOADED = "loaded"
    """Dense weights and active tiers are in host memory or nearer."""
    ACTIVATED = "activated"
    """Every active tier is where it must be; the engine is up."""
    EXPAND = "expand"
    """New tiers begin to load while the old ones serve."""
    EXPANDED = "expanded"
    """The new tiers are loaded, or given up: the active tiers are all loaded again."""
    FREEZE = "freeze"
    """Take nothing new: for a drain, a snapshot or an unload."""
    THAW = "thaw"
    """Take requests again; nothing was unloaded."""
    RELEASED = "released"
    """The last request is done and device memory is given back."""
    FAILED = "failed"
    """A fatal error: a crash, corrupt bytes, disagreement on routing."""
    RECOVERED = "recovered"
    """Rebuilt from the checkpoint, with the same seed."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an event does: the state after it and, where it is refused, the reason in words."""

    state: ModelState
    refused: str = ""


_INIT, _WARM, _ACTIVE, _EXPANDING, _FROZEN, _RECOVERING = ModelState

TRANSITIONS: Final[dict[tuple[ModelState, ModelEvent], ModelState]] = {
    (_INIT, ModelEvent.LOADED): _WARM,
    (_WARM, ModelEvent.ACTIVATED): _ACTIVE,
    (_ACTIVE, ModelEvent.EXPAND): _EXPANDING,
    (_EXPANDING, ModelEvent.EXPANDED): _ACTIVE,
    (_ACTIVE, ModelEvent.FREEZE): _FROZEN,
    (_FROZEN, ModelEvent.THAW): _ACTIVE,
    (_FROZEN, ModelEvent.RELEASED): _WARM,
    (_RECOVERING, ModelEvent.RECOVERED): _WARM,
    **{(state, ModelEvent.FAILED): _RECOVERING for state in ModelState},
}
"""Everything that is allowed; any other pair is refused."""


def step(state: ModelState, event: ModelEvent) -> Step:
    """Defined for every pair: a refused event leaves the state as it is and says why."""
    if after := TRANSITIONS.get((state, event)):
        return Step(after)
    allowed = sorted(known.value for at, known in TRANSITIONS if at is state)
    return Step(state, f"{event} is refused in {state}, which allows {', '.join(allowed)}")


def advanced(state: ModelState, event: ModelEvent) -> ModelState:
    """The state after ``event``, or :class:`InvalidTransition`."""
    result = step(state, event)
    if result.refused:
        raise InvalidTransition(
            result.refused, where="model state", remedy="report this with the model's events"
        )
    return result.state
