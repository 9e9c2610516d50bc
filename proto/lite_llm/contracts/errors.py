"""Everything that can go wrong, in four families (SPEC-008).

Each error says what is wrong (``message``), where, what to do about it (``remedy``) and whether the
same call may succeed later unchanged (``recoverable``). How an error looks on the wire, in an exit
code and in a condition is the business of :mod:`lite_llm.contracts.outcomes` alone.
"""

from __future__ import annotations


class LiteLLMError(Exception):
    """Root of the tree; never raised itself."""

    recoverable = False

    def __init__(
        self, message: str, *, where: str = "", remedy: str = "", retry_after: float = 0.0
    ) -> None:
        """``retry_after`` is in seconds; 0 gives no advice."""
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments survive pickling, so that an error can cross a process border.
        return _rebuild, (type(self), self.message, self.where, self.remedy, self.retry_after)


def _rebuild(
    kind: type[LiteLLMError], message: str, where: str, remedy: str, retry_after: float
) -> LiteLLMError:
    return kind(message, where=where, remedy=remedy, retry_after=retry_after)


# Configuration: what was asked for can't be meant. The caller changes the request or the setting.
class ConfigurationError(LiteLLMError):
    """A request, a setting or a declaration is wrong."""


class InvalidName(ConfigurationError):
    """A name breaks its rules."""


class InvalidRequest(ConfigurationError):
    """A request is malformed or contradicts itself."""


class InvalidSettings(ConfigurationError):
    """A program's own settings are wrong; it does not start."""


class ModelNotFound(ConfigurationError):
    """No such model, or none that the caller may see."""


class AgentNotFound(ConfigurationError):
    """No agent of that name is registered."""


class Unauthenticated(ConfigurationError):
    """The credentials are missing or wrong."""


class Forbidden(ConfigurationError):
    """The caller is known and may not do this."""


class Unsupported(ConfigurationError):
    """An architecture, a configuration field or a feature that this version does not have."""


class VersionMismatch(ConfigurationError):
    """A checkpoint, a peer or a stored value of an incompatible major version."""


class OverBudget(ConfigurationError):
    """A tier holds more than its declared budget, or no TierSet fits a request's budget."""


# Resource: it could be done with more room, another time or elsewhere.
class ResourceError(LiteLLMError):
    """Too little of something."""

    recoverable = True


class Overloaded(ResourceError):
    """A queue is full; ``retry_after`` says when to come back."""


class QuotaExceeded(ResourceError):
    """A tenant's limit on rate, concurrency, memory or cost is reached."""


class OutOfMemory(ResourceError):
    """A medium has no room left for what is needed."""


class DeadlineExceeded(ResourceError):
    """The caller's or our own time ran out."""


class StoreUnavailable(ResourceError):
    """The metadata store or an object store can't be reached now."""


class LeaseLost(ResourceError):
    """A lease ran out or was revoked; what it guarded may belong to another."""


class Conflict(ResourceError):
    """A compare-and-swap lost against another writer."""


# Routing: nobody can take the request, or those who could disagree.
class RoutingError(LiteLLMError):
    """A request found no place."""


class NoAgent(RoutingError):
    """No agent can take this request now."""

    recoverable = True


class Unreachable(RoutingError):
    """Nobody answers at an address that a command was given."""

    recoverable = True


class TierUnavailable(RoutingError):
    """A required tier is not loaded and can't be."""

    recoverable = True


class RoutingMismatch(RoutingError):
    """Ranks chose different experts for the same tokens; the batch is void (SPEC-016)."""


# Runtime: something broke while running.
class RuntimeFault(LiteLLMError):
    """Something broke while running."""


class AgentLost(RuntimeFault):
    """The agent died or was cut off in the middle of a call; the request can be replayed."""

    recoverable = True


class WorkerCrashed(RuntimeFault):
    """A model's worker process ended by itself; the model goes to Recovering."""

    recoverable = True


class BackendFailed(RuntimeFault):
    """A foreign inference server answered with a fault of its own, or with what is no answer."""


class Cancelled(RuntimeFault):
    """The caller withdrew the request."""

    recoverable = True


class Corrupt(RuntimeFault):
    """Bytes differ from their checksum or signature."""


class StorageFailed(RuntimeFault):
    """A disk or a store refused to read or write, or gave less than it promised."""


class InvalidTransition(RuntimeFault):
    """An event that the state machine refuses in its present state (SPEC-010)."""


class Internal(RuntimeFault):
    """A fault of ours: an invariant does not hold."""
