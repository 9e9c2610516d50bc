"""The wait between restarts doubles up to its limit."""

from lite_llm.testing.kubelet import BackOff


def test_the_first_restart_is_immediate_and_later_ones_are_not() -> None:
    back_off = BackOff(first_seconds=10, longest_seconds=300)
    delays = [back_off.delay(restarts) for restarts in range(9)]
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    assert back_off.delay(10_000) == 300
