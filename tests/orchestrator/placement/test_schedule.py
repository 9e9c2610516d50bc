"""Floors by the clock of some place."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.placement.schedule import check_floor, floor_at
from lite_llm.proto.v1.model_pb2 import ScheduledFloor

BERLIN = "Europe/Berlin"
OFFICE = {"days": "mon-fri", "start": "08:00", "end": "18:30", "zone": BERLIN}
NIGHT = {"days": "fri", "start": "22:00", "end": "06:00", "zone": BERLIN}


def at(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("floor", "now", "holds"),
    [
        (OFFICE, "2026-11-20T08:00", True),  # a Friday
        (OFFICE, "2026-11-20T07:59:59", False),
        (OFFICE, "2026-11-20T18:29:59", True),
        (OFFICE, "2026-11-20T18:30", False),
        (OFFICE, "2026-11-21T12:00", False),
        (NIGHT, "2026-11-20T23:00", True),
        (NIGHT, "2026-11-21T05:59", True),
        (NIGHT, "2026-11-21T06:00", False),
        (NIGHT, "2026-11-20T05:00", False),  # Thursday's night is none
        (OFFICE, "2026-07-20T08:00", True),  # in summer time, too
        ({**OFFICE, "days": "sat-mon"}, "2026-11-22T12:00", True),
        ({**OFFICE, "days": "sat-mon"}, "2026-11-20T12:00", False),
        ({**OFFICE, "days": "wed, FRI"}, "2026-11-20T12:00", True),
        ({"start": "0:00", "end": "0:00"}, "2026-11-20T12:00", True),
    ],
)
def test_windows(floor: dict[str, str], now: str, holds: bool) -> None:
    assert floor_at([ScheduledFloor(**floor, min_replicas=3)], at(now))[0] == 3 * holds


def test_another_place_has_another_clock() -> None:
    floor = ScheduledFloor(start="08:00", end="09:00", zone="Asia/Tokyo", min_replicas=1)
    assert floor_at([floor], at("2026-11-20T08:30", "Asia/Tokyo"))[0] == 1
    assert floor_at([floor], at("2026-11-20T08:30"))[0] == 0


def test_the_highest_counts_and_is_told() -> None:
    low = ScheduledFloor(start="00:00", end="23:59", min_replicas=1)
    high = ScheduledFloor(**OFFICE, min_replicas=4)
    assert floor_at([high, low], at("2026-11-20T12:00")) == (
        4, "mon-fri 08:00 to 18:30 Europe/Berlin",
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"days": "monday"}, {"days": "mon-xxx"}, {"start": "8"}, {"end": "24:00"},
        {"zone": "Middle/Earth"}, {"zone": "../../etc/passwd"}, {"zone": "x" * 300},
    ],
)  # fmt: skip
def test_what_cant_be_read_is_named_and_holds_never(wrong: dict[str, str]) -> None:
    floor = ScheduledFloor(**{**OFFICE, **wrong}, min_replicas=9)
    with pytest.raises(InvalidSettings):
        check_floor(floor)
    assert (
        floor_at([floor, ScheduledFloor(**OFFICE, min_replicas=2)], at("2026-11-20T12:00"))[0] == 2
    )
