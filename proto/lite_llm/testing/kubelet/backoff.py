"""How long a container that keeps ending must wait before its next run. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """The first restart is immediate, the second waits ``first_seconds``, each next twice as long.

    Kubernetes' own are 10 s, 5 min and 10 min; these are for tests that do not have that long.
    """

    first_seconds: float = 0.25
    longest_seconds: float = 5.0
    forgotten_seconds: float = 60.0
    """A run of this length is a success, after which counting starts anew."""

    def delay(self, restarts_in_a_row: int) -> float:
        """Seconds to wait when this many restarts were made in a row."""
        if restarts_in_a_row == 0:
            return 0.0
        doublings = min(restarts_in_a_row - 1, 30)
        return float(min(self.longest_seconds, self.first_seconds * 2**doublings))
