from __future__ import annotations

import pytest

from lite_llm.cli.progress import Bars, Lines, Screen, open_screen
from lite_llm.proto.v1.generate_pb2 import LoadPhase, LoadProgress

STEPS = [
    LoadProgress(phase=LoadPhase.LOAD_PHASE_QUEUE, message="looking for an agent"),
    LoadProgress(phase=LoadPhase.LOAD_PHASE_READ, total_bytes=4096),
    LoadProgress(phase=LoadPhase.LOAD_PHASE_READ, total_bytes=4096, done_bytes=2048),
    LoadProgress(phase=LoadPhase.LOAD_PHASE_INIT),
]


def load_two(screen: Screen) -> None:
    with screen:
        for step in STEPS:
            screen.show("tiny", step)
        screen.show("big", STEPS[0])
        screen.done("tiny")
        screen.done("big")


def test_away_from_a_terminal_each_phase_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = open_screen()
    assert isinstance(screen, Lines)
    load_two(screen)
    written = capsys.readouterr()
    assert written.out == ""
    lines = written.err.splitlines()
    assert lines[:4] == [
        "tiny: looking for an agent",
        "tiny: reading 4.0 KiB",
        "tiny: warming up",
        "big: looking for an agent",
    ]
    assert lines[4].startswith("tiny: ready after ")
    assert "\x1b" not in written.err


def test_on_a_terminal_there_are_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    screen = open_screen()
    assert isinstance(screen, Bars)
    load_two(screen)
    written = capsys.readouterr()
    assert written.out == ""
    assert "tiny" in written.err
    assert "ready" in written.err
