"""Which records lie on which media, and what must move when one is wanted: events in, actions out.

No I/O and no clock. Actions are to be carried out in order; the state is what it will be after
them, and an action that fails is reported back as :class:`Gone`. Whatever is carried out in this
order never takes a medium over its budget, not even for a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.resources import format_size
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.eviction import (
    EvictionWeights,
    Usage,
    is_earning_promotion,
    leaving_order,
)

PROMOTE_ABOVE_PER_HOUR = 5
"""Uses in an hour that a record may have without being moved nearer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A record must be on ``medium``."""

    key: str
    num_bytes: int
    medium: Medium
    has_source: bool = True
    """Whether it can be fetched again once no medium has it."""


@dataclass(frozen=True, slots=True)
class Used:
    """A record was used where it is."""

    key: str


@dataclass(frozen=True, slots=True)
class Pinned:
    """A record must stay where it is until as many :class:`Unpinned`."""

    key: str


@dataclass(frozen=True, slots=True)
class Unpinned:
    """The inverse of :class:`Pinned`."""

    key: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A copy is not there: the move failed, the file vanished, the bytes were bad."""

    key: str
    medium: Medium


Event = Wanted | Used | Pinned | Unpinned | Gone


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy from ``source`` to ``target``; the source stays."""

    key: str
    source: Medium
    target: Medium


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget the copy on ``medium``."""

    key: str
    medium: Medium


Action = Copy | Drop


@dataclass(slots=True)
class Record:
    """One record's copies."""

    usage: Usage
    has_source: bool
    media: set[Medium] = field(default_factory=set)
    pins: int = 0


class _Draft:
    """A plan in the making: its actions, and where everything would be after them."""

    def __init__(self, records: Mapping[str, Record], budgets: Mapping[Medium, int]) -> None:
        self.actions: list[Action] = []
        self._records = records
        self._budgets = budgets
        self._media: dict[str, frozenset[Medium]] = {}
        self._used = dict.fromkeys(budgets, 0)
        for record in records.values():
            for medium in record.media:
                self._used[medium] += record.usage.num_bytes

    def fork(self) -> _Draft:
        """A draft to try something on, and to throw away if it comes to nothing."""
        other = copy(self)
        other.actions, other._media, other._used = [*self.actions], {**self._media}, {**self._used}
        return other

    def media_of(self, record: Record) -> frozenset[Medium]:
        return self._media.get(record.usage.key, frozenset(record.media))

    def free(self, medium: Medium) -> int:
        return self._budgets[medium] - self._used[medium]

    def put(self, record: Record, target: Medium) -> None:
        media = self.media_of(record)
        source = min(media, default=Medium.OBJECT_STORE)
        self.actions.append(Copy(record.usage.key, source, target))
        self._media[record.usage.key] = media | {target}
        self._used[target] += record.usage.num_bytes
        assert self.free(target) >= 0, f"{target.name} is over budget"

    def drop(self, record: Record, medium: Medium) -> None:
        self.actions.append(Drop(record.usage.key, medium))
        self._media[record.usage.key] = self.media_of(record) - {medium}
        self._used[medium] -= record.usage.num_bytes

    def commit(self) -> list[Action]:
        for key, media in self._media.items():
            self._records[key].media = set(media)
        return self.actions


class Residency:
    """The state machine over the media that have a budget; the object store below has none."""

    def __init__(
        self,
        budgets: Mapping[Medium, int],
        *,
        weights: EvictionWeights | None = None,
        promote_above_per_hour: int = PROMOTE_ABOVE_PER_HOUR,
    ) -> None:
        """``budgets`` in bytes. Records leave each medium for the next one listed, by distance."""
        assert Medium.OBJECT_STORE not in budgets
        self.budgets = dict(sorted(budgets.items()))
        self._below = dict(pairwise(self.budgets))
        self._above = {below: above for above, below in self._below.items()}
        self._weights = weights or EvictionWeights()
        self._rate = promote_above_per_hour
        self._records: dict[str, Record] = {}

    def on(self, event: Event, now: float) -> list[Action]:
        """What to do about ``event`` at ``now`` seconds.

        A :class:`Wanted` that can't be met raises :class:`OutOfMemory` and changes nothing.
        """
        match event:
            case Wanted():
                return self._wanted(event, now)
            case Used(key):
                return self._used(key, now)
            case Pinned(key):
                self._records[key].pins += 1
            case Unpinned(key):
                assert self._records[key].pins > 0, f"{key} is not pinned"
                self._records[key].pins -= 1
            case Gone(key, medium):
                if record := self._records.get(key):
                    record.media.discard(medium)
                    self._forget_if_nowhere(key)
        return []

    def media_of(self, key: str) -> frozenset[Medium]:
        """Where copies are; empty for an unknown record."""
        record = self._records.get(key)
        return frozenset(record.media) if record else frozenset()

    def nearest(self, key: str) -> Medium:
        """The medium to read from; the object store if nothing nearer has it."""
        return min(self.media_of(key), default=Medium.OBJECT_STORE)

    def used_bytes(self, medium: Medium) -> int:
        """In copies on ``medium``."""
        return sum(r.usage.num_bytes for r in self._records.values() if medium in r.media)

    def check(self) -> None:
        """Assert the budgets."""
        for medium, budget in self.budgets.items():
            assert self.used_bytes(medium) <= budget, f"{medium.name} is over budget"

    def _wanted(self, event: Wanted, now: float) -> list[Action]:
        records = {**self._records}
        record = records.setdefault(
            event.key, Record(Usage(event.key, event.num_bytes), event.has_source)
        )
        draft = _Draft(records, self.budgets)
        if event.medium not in record.media:
            planned = self._with_room(draft, event.medium, record, now, keep=frozenset({event.key}))
            if planned is None:
                budget = format_size(self.budgets[event.medium])
                raise OutOfMemory(
                    f"{event.medium.name} ({budget}) has no room for {event.key} "
                    f"({format_size(event.num_bytes)})",
                    where=event.medium.name,
                    remedy="raise the medium's budget, or release what is pinned there",
                )
            draft = planned
            draft.put(record, event.medium)
        self._records = records
        record.usage = record.usage.used(now, keep=self._rate + 1)
        return self._commit(draft)

    def _used(self, key: str, now: float) -> list[Action]:
        record = self._records[key]
        record.usage = record.usage.used(now, keep=self._rate + 1)
        target = self._above.get(self.nearest(key))
        if target is None or not is_earning_promotion(record.usage, now, above_per_hour=self._rate):
            return []
        # Only what was not used since the first use that earned the promotion makes way for it.
        draft = self._with_room(
            _Draft(self._records, self.budgets), target, record, now,
            keep=frozenset({key}), unused_since=record.usage.recent[0],
        )  # fmt: skip
        if draft is None:
            return []
        draft.put(record, target)
        return self._commit(draft)

    def _with_room(
        self,
        draft: _Draft,
        medium: Medium,
        wanted: Record,
        now: float,
        *,
        keep: frozenset[str],
        unused_since: float = float("inf"),
    ) -> _Draft | None:
        """``draft`` and what makes room for ``wanted``, least useful first; None if nothing does.

        ``keep`` are records on their way through this very plan: their copies must not vanish.
        """
        need = wanted.usage.num_bytes
        if need > self.budgets[medium]:
            return None
        if draft.free(medium) >= need:
            return draft
        movable = [
            record.usage
            for key, record in self._records.items()
            if medium in draft.media_of(record)
            and not record.pins
            and key not in keep
            and record.usage.last_use < unused_since
        ]
        for victim in leaving_order(movable, now, self._weights):
            draft = self._demoted(draft, self._records[victim.key], medium, now, keep=keep) or draft
            if draft.free(medium) >= need:
                return draft
        return None

    def _demoted(
        self, draft: _Draft, victim: Record, medium: Medium, now: float, *, keep: frozenset[str]
    ) -> _Draft | None:
        """``victim`` off ``medium``: one step down if there is room, else out if it may."""
        held = draft.media_of(victim)
        draft = draft.fork()
        below = self._below.get(medium)
        if below is not None and not any(lower > medium for lower in held):
            keep |= {victim.usage.key}
            if roomy := self._with_room(draft, below, victim, now, keep=keep):
                draft = roomy
                draft.put(victim, below)
        if draft.media_of(victim) == {medium} and not victim.has_source:
            return None
        draft.drop(victim, medium)
        return draft

    def _commit(self, draft: _Draft) -> list[Action]:
        actions = draft.commit()
        for key in {action.key for action in actions}:
            self._forget_if_nowhere(key)
        self.check()
        return actions

    def _forget_if_nowhere(self, key: str) -> None:
        record = self._records[key]
        if not record.media and not record.pins:
            del self._records[key]
