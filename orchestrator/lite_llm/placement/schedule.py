"""Floors at set times: how many agents a model has at least, by the clock of some place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.proto.v1.model_pb2 import ScheduledFloor

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def floor_at(floors: Iterable[ScheduledFloor], now: float) -> tuple[int, str]:
    """The highest floor at ``now``, seconds since the epoch, and its window in words.

    0 where none holds. What can't be read holds never, and is told by :func:`check_floor`.
    """
    highest, words = 0, ""
    for floor in floors:
        try:
            holds = _holds(floor, now)
        except InvalidSettings:
            continue
        if holds and floor.min_replicas > highest:
            highest, words = floor.min_replicas, _words(floor)
    return highest, words


def check_floor(floor: ScheduledFloor) -> None:
    """:class:`InvalidSettings` says what of it can't be read."""
    _holds(floor, 0.0)


def _holds(floor: ScheduledFloor, now: float) -> bool:
    days, start, end = _days(floor.days), _clock(floor.start), _clock(floor.end)
    there = datetime.fromtimestamp(now, _zone(floor.zone))
    clock, today = there.time(), there.weekday()
    if start < end:
        return today in days and start <= clock < end
    # Over midnight: it began today, or it began yesterday and is not over.
    yesterday = (there - timedelta(days=1)).weekday()
    return (today in days and clock >= start) or (yesterday in days and clock < end)


def _days(text: str) -> set[int]:
    found: set[int] = set()
    for part in filter(None, re.split(r"[,\s]+", text.lower())):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise _wrong("days", text, "write mon-fri, or sat,sun")
        begin = DAYS.index(first)
        length = (DAYS.index(last or first) - begin) % 7
        found.update((begin + offset) % 7 for offset in range(length + 1))
    return found or set(range(7))


def _clock(text: str) -> time:
    if (parts := _CLOCK.fullmatch(text)) is None:
        raise _wrong("start or end", text, "write a time of day as 08:30")
    return time(int(parts[1]), int(parts[2]))


def _zone(name: str) -> tzinfo:
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise _wrong("zone", name, "write it as Europe/Berlin") from error


def _wrong(what: str, value: str, remedy: str) -> InvalidSettings:
    return InvalidSettings(f"{what} is {value[:80]!r}", where="scaling.floors", remedy=remedy)


def _words(floor: ScheduledFloor) -> str:
    days = floor.days or "every day"
    return f"{days} {floor.start} to {floor.end} {floor.zone or 'UTC'}"
