"""The same request gives the same bytes, tokens and log probabilities, whatever goes on around it.

Models are tiny and real; comparisons are of bits.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lite_llm.engine import Request, Resumed
from lite_llm.kernels import get_threads, set_threads

Drive = Callable[..., Any]  # of conftest's Driver
Ask = Callable[..., Request]

PAGE_TOKENS = 16
SHARED = list(range(2, 50))  # a prefix of three pages


@pytest.fixture
def requests(ask: Ask) -> list[Request]:
    """Of every kind: long and short, drawn and greedy, penalised, of several sequences."""
    return [
        ask(prompt=[*SHARED, 9, 9], max_tokens=12, logprobs=2),
        ask(prompt=[*SHARED, 8], max_tokens=9, temperature=0, logprobs=1, prompt_logprobs=1),
        ask("quick", max_tokens=14, top_p=0.9, top_k=40, frequency_penalty=1.0, logprobs=0),
        ask(prompt=range(100, 190), max_tokens=6, n=3, min_p=0.05, logprobs=1, tenant="b"),
        ask("the lazy dog", max_tokens=10, repetition_penalty=1.3, logprobs=1, priority=1),
    ]


@pytest.fixture
def alone(drive: Drive, requests: list[Request]) -> list[Any]:
    """What each says when nobody else is there."""
    return [said(drive(pages=64).run(request)[0]) for request in requests]


def said(reader: Any) -> Any:
    """Tokens with logprobs by sequence, ends, and the prompt's; but not what was cached."""
    assert reader.failure is None
    prompt = [step for step in reader.steps if type(step).__name__ == "PromptRead"]
    ends = sorted((end.index, end.reason) for end in reader.ends)
    return [reader.tokens(index) for index, _ in ends], ends, prompt


def test_whatever_shares_the_batch(drive: Drive, requests: list[Request], alone: Any) -> None:
    driver = drive()
    assert [said(reader) for reader in driver.run(*requests)] == alone
    # Again, and now their prefixes are found.
    assert [said(reader) for reader in driver.run(*requests[::-1])][::-1] == alone
    assert driver.value("vllm:prefix_cache_hits_total") > 0


@pytest.mark.parametrize("budget", [7, 33])
def test_however_prompts_are_cut(
    drive: Drive, requests: list[Request], alone: Any, budget: int
) -> None:
    driver = drive(step_tokens=budget, prompt_tokens=5, max_sequences=7)
    assert [said(reader) for reader in driver.run(*requests)] == alone


def growing(ask: Ask) -> list[Request]:
    """Four short prompts with long answers: five pages each in the end."""
    return [ask(text, max_tokens=64, logprobs=1) for text in ("one", "two", "three", "four")]


@pytest.mark.parametrize("host_pages", [0, 64])
def test_swapped_out_or_computed_anew(drive: Drive, ask: Ask, host_pages: int) -> None:
    free = [said(reader) for reader in drive().run(*growing(ask))]
    driver = drive(pages=9, host_pages=host_pages)
    for _ in range(20):  # so that answers are expected to be short, and too many are admitted
        driver.steps._lineup._lengths.observe(1, 100)
    assert [said(reader) for reader in driver.run(*growing(ask))] == free
    assert driver.value("vllm:num_preemptions_total") > 0


def test_admission_by_prediction_sets_nobody_back(drive: Drive, ask: Ask) -> None:
    driver = drive(pages=9)
    readers = driver.run(*growing(ask))
    assert all(len(reader.ids()) == 64 for reader in readers)
    assert driver.value("vllm:num_preemptions_total") == 0


def test_the_important_go_first_and_set_others_back(drive: Drive, ask: Ask) -> None:
    usual, urgent = growing(ask)[0], ask("urgent", max_tokens=64, priority=1)
    [alone] = drive().run(usual)
    driver = drive(max_sequences=1)
    first = driver.add(usual)
    for _ in range(5):
        driver.steps.step()
    second = driver.add(urgent)
    driver.steps.step()
    driver.steps.step()
    assert len(first.ids()) < 10
    assert len(second.ids()) > 0
    driver.run()
    assert first.tokens() == alone.tokens()


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.permutations(range(5)),
    gaps=st.lists(st.integers(0, 6), min_size=5, max_size=5),
    pages=st.integers(9, 40),
    host_pages=st.sampled_from([0, 40]),
    budget=st.integers(8, 64),
    seats=st.integers(1, 8),
    cancelled=st.none() | st.integers(0, 4),
)
def test_any_schedule(
    drive: Drive,
    requests: list[Request],
    alone: Any,
    order: list[int],
    gaps: list[int],
    pages: int,
    host_pages: int,
    budget: int,
    seats: int,
    cancelled: int | None,
) -> None:
    driver = drive(pages=pages, host_pages=host_pages, step_tokens=budget, max_sequences=seats)
    readers, groups = {}, {}
    for which, gap in zip(order, gaps, strict=True):
        readers[which] = driver.add(requests[which])
        groups[which] = driver.steps._groups[driver.steps._num_arrived]
        for _ in range(gap):
            driver.steps.step()
    if cancelled is not None:
        driver.steps.cancel(groups[cancelled])
    driver.run()
    driver.kv.check()
    for which, reader in readers.items():
        if which != cancelled:
            assert said(reader) == alone[which]


@pytest.mark.parametrize("which", [0, 2, 4])
def test_resumed_at_every_place(
    drive: Drive, requests: list[Request], alone: Any, which: int
) -> None:
    request, [whole] = requests[which], alone[which][0]
    driver = drive()
    for cut in range(1, len(whole) + 1):
        known = Resumed(tuple(token.id for token in whole[:cut]))
        fields = {name: getattr(request, name) for name in request.__dataclass_fields__}
        [reader] = driver.run(Request(**{**fields, "resumed": (known,)}))
        assert reader.tokens() == whole[cut:]
        assert len(reader.ends) == 1


def test_several_sequences_resumed_each_at_its_place(
    drive: Drive, requests: list[Request], alone: Any
) -> None:
    whole, ends, _ = alone[3]
    cuts = (0, 6, 2)
    known = tuple(
        Resumed(tuple(token.id for token in tokens[:cut]), finished=cut == 6)
        for tokens, cut in zip(whole, cuts, strict=True)
    )
    fields = {name: getattr(requests[3], name) for name in requests[3].__dataclass_fields__}
    [reader] = drive().run(Request(**{**fields, "resumed": known}))
    assert [reader.tokens(index) for index in range(3)] == [
        tokens[cut:] for tokens, cut in zip(whole, cuts, strict=True)
    ]
    assert sorted(end.index for end in reader.ends) == [0, 2]
    assert len(ends) == 3


def test_a_stop_string_that_began_before_the_interruption(drive: Drive, ask: Ask) -> None:
    [free] = drive().run(ask(temperature=0))
    stop = free.text()[4:9]
    [whole] = drive().run(ask(temperature=0, stop=(stop,)))
    assert whole.text() == free.text()[: free.text().index(stop)]
    for cut in range(len(whole.ids())):
        known = Resumed(tuple(whole.ids()[:cut]))
        [reader] = drive().run(ask(temperature=0, stop=(stop,), resumed=(known,)))
        assert reader.tokens() == whole.tokens()[cut:]


def test_any_number_of_threads(drive: Drive, requests: list[Request], alone: Any) -> None:
    before = get_threads()
    try:
        set_threads(2)
        assert [said(reader) for reader in drive().run(*requests)] == alone
    finally:
        set_threads(before)


PROGRAM = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import Driver
from lite_llm.engine import Limits, Request, Sampling, load_model
*_, model = load_model(Path(sys.argv[1]))
request = Request(
    prompt=tuple(range(2, 60)),
    sampling=Sampling(temperature=1.1, seed=3, top_p=0.95),
    limits=Limits(max_tokens=16),
    logprobs=4,
)
[reader] = Driver(model, step_tokens=64).run(request)
print(hashlib.sha256(repr(reader.steps).encode()).hexdigest())
"""


def test_another_process(checkpoint: Path, drive: Drive, ask: Ask) -> None:
    command = [sys.executable, "-c", PROGRAM, str(checkpoint), str(Path(__file__).parent)]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    [here] = drive(step_tokens=13, max_sequences=2).run(
        ask(prompt=range(2, 60), temperature=1.1, seed=3, top_p=0.95, max_tokens=16, logprobs=4)
    )
    digest = hashlib.sha256(repr(here.steps).encode()).hexdigest()
    assert there.stdout.strip() == digest
