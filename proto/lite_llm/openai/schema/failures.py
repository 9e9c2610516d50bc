"""The one shape of every error."""

from __future__ import annotations

from msgspec import Struct


class FailureDetail(Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    """The field of the request that is wrong, or what else the error is about."""
    code: str | None
    """Stable, snake_case."""


class Failure(Struct, frozen=True, kw_only=True):
    """The body of an answer whose status is 400 or more, and of an error within a stream."""

    error: FailureDetail
