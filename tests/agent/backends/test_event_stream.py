"""Server-sent events are the same however their bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.backends.event_stream import EventDecoder
from lite_llm.contracts.errors import BackendFailed

TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)


def decoded(*chunks: bytes) -> list[str]:
    decoder = EventDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@given(
    events=st.lists(TEXTS.filter(lambda text: not text.startswith(" "))),
    cuts=st.lists(st.integers(0, 200)),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_events_do_not_depend_on_the_cuts(events: list[str], cuts: list[int], end: str) -> None:
    whole = "".join(f": comment{end}data: {event}{end}{end}" for event in events).encode()
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(places)]
    assert decoded(*pieces) == events


def test_fields_that_say_nothing_are_passed_over() -> None:
    assert decoded(b"event: x\nid: 3\nretry: 1\n\n: ping\n\ndata:a\ndata: b\n\n") == ["a\nb"]
    assert decoded(b'error: {"code": 500}\n\n') == ['{"code": 500}']
    assert decoded(b"data: never ended\n") == []


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 90, b"data: 1234567890\n" * 10])
def test_an_endless_event_is_refused(chunk: bytes) -> None:
    decoder = EventDecoder(max_bytes=80)
    with pytest.raises(BackendFailed, match="more than 80 bytes"):
        list(decoder.feed(chunk))
