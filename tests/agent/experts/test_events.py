"""The sequence of events, as lines and as a digest."""

from __future__ import annotations

import json
from pathlib import Path

from lite_llm.contracts.identity import ExpertKey
from lite_llm.experts.events import EventLog, Happening


def test_lines_name_tick_happening_expert_and_slot(tmp_path: Path) -> None:
    log, path = EventLog(), tmp_path / "events.jsonl"
    log.add(1, Happening.LOAD, ExpertKey(3, 0, 1, 7), 5)
    log.add(2, Happening.BYPASS, ExpertKey(3, 0, 1, 8), -1)
    log.write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [[1, "load", "3.0.1.7", 5], [2, "bypass", "3.0.1.8", -1]]
    assert log.counts() == {Happening.LOAD: 1, Happening.BYPASS: 1}


def test_another_order_is_another_digest() -> None:
    digests = set()
    for order in ((0, 1), (1, 0), (0, 1)):
        log = EventLog()
        for slot in order:
            log.add(1, Happening.HIT, slot, slot)
        digests.add(log.digest())
    assert len(digests) == 2
