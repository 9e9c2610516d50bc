"""The peak without stepping is the peak found by stepping."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lite_llm.kvcache import CachedSequence, KvCache, Prediction
from lite_llm.kvcache.predict import most_held, peak_pages

Toy = Any  # of conftest.py, which can't be imported

predictions = st.lists(
    st.builds(
        Prediction,
        num_tokens=st.integers(0, 40),
        num_more=st.integers(0, 40),
        num_shared_pages=st.integers(0, 2),
    ),
    max_size=8,
)


def stepped(
    predicted: list[Prediction], windows: list[int | None], page_tokens: int, shared: int
) -> int:
    usage = [0]
    for step in range(1 + max((p.num_more for p in predicted), default=0)):
        running = [p for p in predicted if p.num_more >= step]
        pages = sum(
            most_held(p.num_tokens + step, window, page_tokens)
            for p in running
            for window in windows
        )
        usage.append(pages - sum(p.num_shared_pages for p in running) + shared)
    return max(usage[1:]) if predicted else 0


@given(
    predictions,
    st.lists(st.sampled_from([None, 2, 5, 16]), min_size=1, max_size=3),
    st.sampled_from([1, 3, 4, 16]),
    st.integers(0, 5),
)
def test_as_if_stepped(
    predicted: list[Prediction], windows: list[int | None], page_tokens: int, shared: int
) -> None:
    peak = peak_pages(predicted, windows=windows, page_tokens=page_tokens, num_shared_pages=shared)
    assert peak == stepped(predicted, windows, page_tokens, shared)


@pytest.mark.parametrize(
    ("predicted", "peak"),
    [
        ([], 0),
        ([Prediction(4, 0)], 1),
        ([Prediction(4, 1)], 2),
        ([Prediction(4, 4), Prediction(8, 0)], 3),
        ([Prediction(40, 1), Prediction(4, 400)], 101),
    ],
)
def test_by_hand(predicted: list[Prediction], peak: int) -> None:
    assert peak_pages(predicted, windows=[None], page_tokens=4) == peak


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.integers(0, 2),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(0, 12)), min_size=1, max_size=5
    ),
)
def test_never_more_is_held(toy: Toy, layout: int, plan: list[tuple[int, int, int]]) -> None:
    """Sequences that begin alike, and forks of the last one: (forks, tokens, tokens to come)."""
    with KvCache(toy.layouts[layout], device_bytes=1 << 20, page_tokens=4) as cache:
        running: list[tuple[CachedSequence, list[int], int]] = []
        for forks, length, more in plan:
            text = list(range(length))
            sequence = cache.sequence(text, salt=b"")
            for token in text[sequence.num_computed :]:
                assert sequence.reserve(1)
                sequence.commit([token])
            running.append((sequence, text, more))
            running += [(sequence.fork(), list(text), more + i) for i in range(forks)]
        foretold = cache.peak_pages(
            [Prediction(len(text), more, s.num_shared_pages) for s, text, more in running]
        )
        for step in range(max(more for *_, more in running) + 1):
            held = cache.num_pages - cache.num_free_pages - cache.num_evictable_pages
            assert held <= foretold
            for number, (sequence, text, more) in enumerate(running):
                if step == more:
                    sequence.release()
                elif step < more:
                    text.append(1000 * number + step)
                    assert sequence.reserve(1)
                    sequence.commit(text[-1:])
            cache.check()
