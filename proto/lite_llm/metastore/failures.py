"""What etcd's failures mean: whether to try again, and which of our errors they are."""

from __future__ import annotations

from enum import Enum, auto

from grpc import StatusCode
from grpc.aio import AioRpcError

from lite_llm.contracts.errors import (
    InvalidRequest,
    InvalidSettings,
    LeaseLost,
    LiteLLMError,
    StoreUnavailable,
)


class RevisionUnavailable(Exception):
    """A read at a revision that etcd has compacted away or has not reached."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self.compacted = "compacted" in details


class Verdict(Enum):
    """What a failed call says about the next try."""

    REFUSED = auto()
    """This member did nothing; another may."""
    BROKEN = auto()
    """No telling whether it was done."""
    LOG_IN = auto()
    """Nothing was done for want of a valid token."""
    FINAL = auto()
    """The next try would fail alike."""


_REFUSALS = ("no leader", "too many requests")
_TOKEN_FAULTS = ("invalid auth token", "revision of auth store is old", "user name is empty")
_BROKEN = {
    StatusCode.UNAVAILABLE,
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.CANCELLED,
    StatusCode.ABORTED,
}


def verdict_of(error: AioRpcError) -> Verdict:
    """Judge a failed call by its code, and by etcd's text where the code says too little."""
    details = error.details() or ""
    if any(fault in details for fault in _TOKEN_FAULTS):
        return Verdict.LOG_IN
    if any(refusal in details for refusal in _REFUSALS):
        return Verdict.REFUSED
    if error.code() is StatusCode.UNAUTHENTICATED:
        return Verdict.LOG_IN
    return Verdict.BROKEN if error.code() in _BROKEN else Verdict.FINAL


def error_of(error: AioRpcError, *, where: str) -> LiteLLMError | RevisionUnavailable:
    """Our error for a failed call to the member at ``where``."""
    details = (error.details() or error.code().name).removeprefix("etcdserver: ")
    match error.code():
        case StatusCode.OUT_OF_RANGE:
            return RevisionUnavailable(details)
        case StatusCode.NOT_FOUND if "lease" in details:
            return LeaseLost("etcd no longer knows the lease", where=where, remedy="take a new one")
        case StatusCode.PERMISSION_DENIED:
            return InvalidSettings(
                "etcd denies the access",
                where=where,
                remedy="grant the store's user a role that may read and write its keys",
            )
        case StatusCode.UNAUTHENTICATED:
            return refused_login(details, where=where)
        case StatusCode.INVALID_ARGUMENT if "user name is empty" in details:
            return refused_login("etcd asks for a user and a password", where=where)
        case StatusCode.INVALID_ARGUMENT:
            return InvalidRequest(f"etcd refuses the request: {details}", where=where)
        case StatusCode.RESOURCE_EXHAUSTED if "message larger" in details:
            return InvalidRequest(f"etcd refuses the request: {details}", where=where)
        case StatusCode.RESOURCE_EXHAUSTED if "space" in details:
            return StoreUnavailable(
                f"etcd is full: {details}",
                where=where,
                remedy="compact and defragment it, or raise --quota-backend-bytes",
            )
    return StoreUnavailable(
        f"etcd did not answer: {details}",
        where=where,
        remedy="see that etcd is up; a write may have been done all the same",
    )


def refused_login(details: str, *, where: str) -> InvalidSettings:
    """The error for credentials that etcd does not take."""
    return InvalidSettings(
        f"etcd refuses the login: {details}",
        where=where,
        remedy="correct the store's user and password",
    )
