"""Our custom resources as the API server last told them, and which of them speak of each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lite_llm.controllers.specs import MODELS, TIER_SETS, Body, Plural, ResourceName

REMEMBERED = 10_000  # ends of objects; only those of the last seconds can matter


class Objects:
    """Of each object the newest view, whichever way it came."""

    def __init__(self) -> None:
        self._bodies: dict[ResourceName, Body] = {}
        self._users: dict[ResourceName, set[ResourceName]] = {}
        self._gone: dict[str, None] = {}
        """Uids, which none has again: a list or an answer from before an end may come after it."""

    def __iter__(self) -> Iterator[ResourceName]:
        return iter(list(self._bodies))

    def __contains__(self, name: ResourceName) -> bool:
        return name in self._bodies

    def get(self, name: ResourceName) -> Body | None:
        """None if it does not exist."""
        return self._bodies.get(name)

    def users(self, tier_set: ResourceName) -> Collection[ResourceName]:
        """Models that name a TierSet."""
        return self._users.get(tier_set, ())

    def seen(self, plural: Plural, body: Body) -> set[ResourceName]:
        """``body`` was told; names of all whose status it may change."""
        name = ResourceName.of(plural, body)
        before = self._bodies.get(name)
        if body["metadata"]["uid"] in self._gone:
            return set()
        if before is not None and not _is_newer(body, before):
            return set()
        self._bodies[name] = body
        return {name} | self._linked(name, before, body)

    def gone(self, plural: Plural, body: Body) -> set[ResourceName]:
        """The object exists no more; names of all whose status that may change."""
        name = ResourceName.of(plural, body)
        before = self._bodies.get(name)
        self._gone[body["metadata"]["uid"]] = None
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        if before is None or before["metadata"]["uid"] != body["metadata"]["uid"]:
            return set()  # another of its name came since
        del self._bodies[name]
        return {name} | self._linked(name, before, None)

    def _linked(
        self, name: ResourceName, before: Body | None, after: Body | None
    ) -> set[ResourceName]:
        if name.plural == TIER_SETS:
            return set(self.users(name)) if before is None or after is None else set()
        old, new = _tier_set_of(name, before), _tier_set_of(name, after)
        if old == new:
            return set()
        if old is not None:
            self._users[old].discard(name)
            if not self._users[old]:
                del self._users[old]
        if new is not None:
            self._users.setdefault(new, set()).add(name)
        return {each for each in (old, new) if each is not None}


def _tier_set_of(name: ResourceName, body: Body | None) -> ResourceName | None:
    if body is None or name.plural != MODELS or "tierSetRef" not in body["spec"]:
        return None
    return ResourceName(TIER_SETS, name.namespace, body["spec"]["tierSetRef"]["name"])


def _is_newer(body: Body, before: Body) -> bool:
    """Versions of one object grow; another object of the same name begins anew."""
    new, old = body["metadata"], before["metadata"]
    return new["uid"] != old["uid"] or int(new["resourceVersion"]) > int(old["resourceVersion"])
