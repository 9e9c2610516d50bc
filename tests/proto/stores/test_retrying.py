"""Waiting times as a table."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lite_llm.stores.retrying import Backoff, parse_retry_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("failures", "retry_after", "luck", "seconds"),
    [
        (1, 0.0, 1.0, 0.2),
        (1, 0.0, 0.0, 0.1),
        (3, 0.0, 1.0, 0.8),
        (20, 0.0, 1.0, 15.0),
        (1, 7.0, 1.0, 7.0),
        (30, 0.0, 1.0, None),
        (1, 61.0, 1.0, None),
    ],
)
def test_delays(failures: int, retry_after: float, luck: float, seconds: float | None) -> None:
    assert Backoff(attempts=30).delay(failures, retry_after, lambda: luck) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("9" * 400, 0.0),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds
