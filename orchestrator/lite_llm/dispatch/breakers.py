"""Which agents are left alone for a while, because they lately failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog

from lite_llm.placement import ClusterView, Observed

FAULTS = 5  # in a row, of an agent that can be reached, before it is left alone
OPEN_SECONDS = 1.0  # at first, then twice as long each time
MAX_OPEN_SECONDS = 30.0  # three leases: an agent that is dead has left the view by then
TRIAL_SECONDS = 5.0  # for one request to show whether the agent is well; others keep away so long

log = structlog.get_logger(__name__)


@dataclass
class _Breaker:
    faults: int = 0
    times_open: int = 0
    lifting: asyncio.TimerHandle | None = None


class Breakers:
    """One per agent. Those that are open show in the view, so that every decision heeds them."""

    def __init__(self, views: Observed[ClusterView]) -> None:
        self._views = views
        self._breakers: dict[str, _Breaker] = {}

    def severed(self, node: str, reason: str) -> None:
        """The agent can't be reached: leave it alone."""
        breaker = self._breaker(node)
        if node in self._views.value.avoided and breaker.faults:
            return  # one more stream that broke with the same line
        seconds = min(OPEN_SECONDS * 2.0**breaker.times_open, MAX_OPEN_SECONDS)
        breaker.times_open += 1
        breaker.faults = FAULTS
        log.warning("agent avoided", agent=node, seconds=seconds, reason=reason)
        self._avoid(node, breaker, seconds)

    def failed(self, node: str, reason: str) -> None:
        """A stream broke, though the agent answers."""
        breaker = self._breaker(node)
        breaker.faults += 1
        if breaker.faults >= FAULTS:
            self.severed(node, reason)

    def tried(self, node: str) -> None:
        """A request goes there: after an open breaker it is the only one until it shows the way."""
        breaker = self._breakers.get(node)
        if breaker is not None and breaker.times_open:
            breaker.faults = 0
            self._avoid(node, breaker, TRIAL_SECONDS)

    def succeeded(self, node: str) -> None:
        """The agent works."""
        if node in self._breakers:
            breaker = self._breakers.pop(node)
            if breaker.lifting is not None:
                breaker.lifting.cancel()
            self._lift(node)

    def close(self) -> None:
        """Lift nothing any more."""
        for breaker in self._breakers.values():
            if breaker.lifting is not None:
                breaker.lifting.cancel()

    def _breaker(self, node: str) -> _Breaker:
        if node not in self._breakers:
            # Nodes come and go under ever new names: those that went are forgotten.
            view = self._views.value
            known = view.agents.keys() | view.avoided
            self._breakers = {each: it for each, it in self._breakers.items() if each in known}
        return self._breakers.setdefault(node, _Breaker())

    def _avoid(self, node: str, breaker: _Breaker, seconds: float) -> None:
        if breaker.lifting is not None:
            breaker.lifting.cancel()
        breaker.lifting = asyncio.get_running_loop().call_later(seconds, self._lift, node)
        view = self._views.value
        if node not in view.avoided:
            self._views.set(replace(view, avoided=view.avoided | {node}))

    def _lift(self, node: str) -> None:
        view = self._views.value
        if node in view.avoided:
            self._views.set(replace(view, avoided=view.avoided - {node}))


@contextmanager
def breaking(views: Observed[ClusterView]) -> Iterator[Breakers]:
    """Breakers that let go of the event loop when the block ends."""
    breakers = Breakers(views)
    try:
        yield breakers
    finally:
        breakers.close()
