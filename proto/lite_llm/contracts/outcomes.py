"""The one table from errors to gRPC codes, HTTP answers, exit codes and condition reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lite_llm.contracts import errors
from lite_llm.contracts.errors import LiteLLMError


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one class of error looks from outside."""

    grpc: str
    """Name of the gRPC status code."""
    http: int
    """HTTP status."""
    kind: str
    """``error.type`` in OpenAI's error shape."""
    code: str
    """``error.code`` in OpenAI's error shape: stable, snake_case."""
    exit: int
    """Exit status of a command, after BSD's sysexits.h."""

    @property
    def reason(self) -> str:
        """Reason of a Kubernetes condition and ``ErrorDetail``: the code in CamelCase."""
        return "".join(part.capitalize() for part in self.code.split("_"))


USAGE, DATA, NO_INPUT, UNAVAILABLE, SOFTWARE, INPUT_OUTPUT, TEMPORARY, NO_PERMISSION, CONFIG = (
    64, 65, 66, 69, 70, 74, 75, 77, 78,
)  # fmt: skip

_INVALID, _AUTH, _DENIED, _LIMIT, _SERVER = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
)

OUTCOMES: Final[dict[type[LiteLLMError], Outcome]] = {
    errors.InvalidName: Outcome("INVALID_ARGUMENT", 400, _INVALID, "invalid_name", USAGE),
    errors.InvalidRequest: Outcome("INVALID_ARGUMENT", 400, _INVALID, "invalid_request", USAGE),
    errors.InvalidSettings: Outcome(
        "FAILED_PRECONDITION", 500, _SERVER, "invalid_settings", CONFIG
    ),
    errors.ModelNotFound: Outcome("NOT_FOUND", 404, _INVALID, "model_not_found", NO_INPUT),
    errors.AgentNotFound: Outcome("NOT_FOUND", 404, _INVALID, "agent_not_found", NO_INPUT),
    errors.Unauthenticated: Outcome(
        "UNAUTHENTICATED", 401, _AUTH, "invalid_api_key", NO_PERMISSION
    ),
    errors.Forbidden: Outcome("PERMISSION_DENIED", 403, _DENIED, "forbidden", NO_PERMISSION),
    errors.Unsupported: Outcome("UNIMPLEMENTED", 400, _INVALID, "unsupported", DATA),
    errors.VersionMismatch: Outcome("FAILED_PRECONDITION", 409, _INVALID, "version_mismatch", DATA),
    errors.OverBudget: Outcome("FAILED_PRECONDITION", 400, _INVALID, "over_budget", DATA),
    errors.Overloaded: Outcome("RESOURCE_EXHAUSTED", 429, _LIMIT, "overloaded", TEMPORARY),
    errors.QuotaExceeded: Outcome("RESOURCE_EXHAUSTED", 429, _LIMIT, "quota_exceeded", TEMPORARY),
    errors.OutOfMemory: Outcome("RESOURCE_EXHAUSTED", 503, _SERVER, "out_of_memory", TEMPORARY),
    errors.DeadlineExceeded: Outcome(
        "DEADLINE_EXCEEDED", 504, _SERVER, "deadline_exceeded", TEMPORARY
    ),
    errors.StoreUnavailable: Outcome("UNAVAILABLE", 503, _SERVER, "store_unavailable", UNAVAILABLE),
    errors.LeaseLost: Outcome("ABORTED", 503, _SERVER, "lease_lost", TEMPORARY),
    errors.Conflict: Outcome("ABORTED", 409, _SERVER, "conflict", TEMPORARY),
    errors.NoAgent: Outcome("UNAVAILABLE", 503, _SERVER, "no_agent", UNAVAILABLE),
    errors.Unreachable: Outcome("UNAVAILABLE", 503, _SERVER, "unreachable", UNAVAILABLE),
    errors.TierUnavailable: Outcome("UNAVAILABLE", 503, _SERVER, "tier_unavailable", UNAVAILABLE),
    errors.RoutingMismatch: Outcome("INTERNAL", 500, _SERVER, "routing_mismatch", SOFTWARE),
    errors.AgentLost: Outcome("UNAVAILABLE", 503, _SERVER, "agent_lost", UNAVAILABLE),
    errors.WorkerCrashed: Outcome("UNAVAILABLE", 503, _SERVER, "worker_crashed", UNAVAILABLE),
    errors.BackendFailed: Outcome("INTERNAL", 500, _SERVER, "backend_failed", SOFTWARE),
    # 499 is nginx's word for a client that went away; no client is left to read it.
    errors.Cancelled: Outcome("CANCELLED", 499, _INVALID, "cancelled", TEMPORARY),
    errors.Corrupt: Outcome("DATA_LOSS", 500, _SERVER, "corrupt", DATA),
    errors.StorageFailed: Outcome("INTERNAL", 500, _SERVER, "storage_failed", INPUT_OUTPUT),
    errors.InvalidTransition: Outcome(
        "FAILED_PRECONDITION", 409, _SERVER, "invalid_transition", SOFTWARE
    ),
    errors.Internal: Outcome("INTERNAL", 500, _SERVER, "internal", SOFTWARE),
}

_BY_REASON: Final = {outcome.reason: kind for kind, outcome in OUTCOMES.items()}


def outcome_of(error: BaseException) -> Outcome:
    """The row of the nearest listed class; anything that is not ours counts as ``Internal``."""
    for kind in type(error).__mro__:
        if kind in OUTCOMES:
            return OUTCOMES[kind]
    return OUTCOMES[errors.Internal]


def error_class(reason: str) -> type[LiteLLMError]:
    """The class behind a reason from the wire; ``Internal`` for reasons of a newer version."""
    return _BY_REASON.get(reason, errors.Internal)


def openai_error(error: LiteLLMError) -> dict[str, dict[str, str | None]]:
    """The body of an HTTP answer in OpenAI's error shape."""
    outcome = outcome_of(error)
    return {
        "error": {
            "message": str(error),
            "type": outcome.kind,
            "param": error.where or None,
            "code": outcome.code,
        }
    }


def retry_after_header(error: LiteLLMError) -> str | None:
    """Value of ``Retry-After`` in whole seconds, rounded up; None without usable advice."""
    return str(math.ceil(error.retry_after)) if 0 < error.retry_after < math.inf else None


def leaves(kind: type[LiteLLMError] = LiteLLMError) -> Iterator[type[LiteLLMError]]:
    """Every class of the tree that has none of the tree below it: those that need a row.

    Rooms may refine a leaf for themselves; from outside it looks as that leaf does.
    """
    subclasses = [known for known in kind.__subclasses__() if known.__module__ == errors.__name__]
    if not subclasses:
        yield kind
    for subclass in subclasses:
        yield from leaves(subclass)
