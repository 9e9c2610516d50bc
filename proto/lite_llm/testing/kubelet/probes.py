"""When a container counts as started, ready and alive: the rules of probes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from lite_llm.testing.kubelet.environment import Object

HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")


@dataclass(frozen=True)
class Probe:
    """One probe of a container, with Kubernetes' defaults; times in seconds."""

    handler: str
    action: Object
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: float | None = None
    """How long to let the container end when it failed, if not as long as the Pod says."""

    @classmethod
    def of(cls, container: Object, name: str) -> Self | None:
        """The ``livenessProbe``, ``readinessProbe`` or ``startupProbe`` of a container, if any."""
        spec = container.get(name)
        if not spec:
            return None
        handler = next(handler for handler in HANDLERS if handler in spec)
        grace = spec.get("terminationGracePeriodSeconds")
        return cls(
            handler=handler,
            action=spec[handler] or {},
            initial_delay=float(spec.get("initialDelaySeconds") or 0),
            period=float(spec.get("periodSeconds") or 10),
            timeout=float(spec.get("timeoutSeconds") or 1),
            success_threshold=spec.get("successThreshold") or 1,
            failure_threshold=spec.get("failureThreshold") or 3,
            grace=None if grace is None else float(grace),
        )


@dataclass(frozen=True)
class Verdict:
    """What a row of outcomes says: ``passed`` turns only when a threshold is met."""

    passed: bool
    row: int = 0
    last: bool | None = None

    def after(self, outcome: bool, probe: Probe) -> Verdict:
        """The verdict after one more outcome."""
        row = self.row + 1 if outcome == self.last else 1
        threshold = probe.success_threshold if outcome else probe.failure_threshold
        passed = outcome if row >= threshold else self.passed
        return replace(self, passed=passed, row=row, last=outcome)

    def failed(self, probe: Probe) -> bool:
        """Whether the container must be ended for it: enough failures in a row, just now."""
        return self.last is False and self.row >= probe.failure_threshold


def port_number(port: int | str, container: Object) -> int:
    """The number of a port that may be given by name.

    Raises:
        ValueError: the container names no such port.
    """
    if isinstance(port, int) or port.isdigit():
        return int(port)
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    raise ValueError(f"container {container['name']} has no port called {port}")
