"""Who waits and who runs: nobody waits for ever, and not for whoever does not read."""

from collections.abc import Callable
from typing import Any

from lite_llm.engine import Request, Resumed

Drive = Callable[..., Any]  # of conftest's Driver
Ask = Callable[..., Request]


def test_a_paused_request_with_much_to_compute_lets_others_in(drive: Drive, ask: Ask) -> None:
    driver = drive(step_tokens=64, prompt_tokens=32, max_sequences=8)
    slow = driver.add(ask(prompt=range(2, 200), max_tokens=8))
    driver.steps.step()
    slow.full = True
    [other] = driver.run(ask(max_tokens=4))
    assert len(other.ids()) == 4
    slow.full = False
    driver.run()
    assert len(slow.ids()) == 8


def test_what_was_swapped_out_gives_way_to_the_only_one_that_runs(drive: Drive, ask: Ask) -> None:
    """Two share seven pages; the host takes one, so these stay on the device when both wait."""
    two = ask(prompt=range(2, 2 + 7 * 16), n=2, max_tokens=16)
    large = ask(prompt=range(150, 300), max_tokens=10, priority=5)
    expected = [reader.tokens() for reader in drive().run(two, large)]
    driver = drive(pages=10, host_pages=1)
    first = driver.add(two)
    for _ in range(5):
        driver.steps.step()
    second = driver.add(large)
    driver.steps.step()
    assert len(driver.steps._lineup.running) == 1
    driver.run()
    assert [first.tokens(), second.tokens()] == expected
    assert len(first.ends) == 2


def test_one_that_comes_back_alone_finds_room(drive: Drive, ask: Ask) -> None:
    """What others that were swapped out have left on the device is not in its way."""
    two = ask(prompt=range(2, 2 + 7 * 16), n=2, max_tokens=16)
    large = ask(prompt=range(150, 270), max_tokens=20, priority=5)
    expected = [reader.tokens() for reader in drive().run(large, two)]
    driver = drive(pages=10, host_pages=9)
    first = driver.add(large)
    driver.steps.step()
    large_sequence = driver.steps._lineup.running[0]
    driver.steps._lineup._set_back(large_sequence)
    assert large_sequence.kv.is_swapped_out
    first.full = True
    second = driver.add(two)
    for _ in range(4):
        driver.steps.step()
    first.full = False
    driver.run()
    assert [first.tokens(), second.tokens()] == expected


def test_an_end_that_the_client_knows_is_not_told_again(drive: Drive, ask: Ask) -> None:
    """Whatever it was: these tokens alone do not end the answer."""
    [whole] = drive().run(ask(n=2))
    known = (Resumed((5, 6), finished=True), Resumed(tuple(whole.ids(1)[:4])))
    [reader] = drive().run(ask(n=2, resumed=known))
    assert reader.ids(0) == []
    assert reader.ids(1) == whole.ids(1)[4:]
    assert [end.index for end in reader.ends] == [1]
