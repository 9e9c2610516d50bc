"""What answers' lengths are expected to be."""

from lite_llm.engine.lengths import ENOUGH, REMEMBERED, Lengths


def test_without_experience_answers_take_all_they_may() -> None:
    lengths = Lengths()
    for _ in range(ENOUGH - 1):
        lengths.observe(1, 100)
    assert lengths.expected(0, 100) == 100
    lengths.observe(1, 100)
    assert lengths.expected(0, 100) == 1


def test_those_that_came_far_are_compared_with_those_that_did() -> None:
    lengths = Lengths()
    for _ in range(ENOUGH):
        lengths.observe(10, 100)
        lengths.observe(60, 100)
    assert 35 < lengths.expected(0, 100) < 60
    assert lengths.expected(10, 100) == 60
    assert lengths.expected(59, 100) == 60
    assert lengths.expected(60, 100) == 100
    assert lengths.expected(1, 10) == 6


def test_the_old_is_forgotten() -> None:
    lengths = Lengths()
    for _ in range(REMEMBERED):
        lengths.observe(90, 100)
    for _ in range(REMEMBERED):
        lengths.observe(10, 100)
    assert lengths.expected(0, 100) == 10
