"""Requests through the step loop: their steps, their ends, cancels and faults."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lite_llm.contracts.errors import Internal, OutOfMemory
from lite_llm.engine import (
    Finished,
    FinishReason,
    Model,
    PromptRead,
    Request,
    Resumed,
    Started,
    Token,
)
from lite_llm.models import Decoder

Drive = Callable[..., Any]  # of conftest's Driver
Ask = Callable[..., Request]


def test_the_order_of_steps(drive: Drive, ask: Ask) -> None:
    [reader] = drive().run(ask(max_tokens=2))
    begun, read, first, second, last = reader.steps
    assert (begun, read) == (Started(0), PromptRead())
    assert isinstance(first, Token)
    assert isinstance(second, Token)
    assert last == Finished(0, FinishReason.LENGTH)


def test_seeds_decide(drive: Drive, ask: Ask) -> None:
    one, again, other = drive().run(ask(), ask(), ask(seed=43))
    assert one.ids() == again.ids() != other.ids()


def test_the_text_is_what_the_tokens_decode_to(drive: Drive, ask: Ask, model: Model) -> None:
    [reader] = drive().run(ask())
    assert reader.text() == model.tokenizer.decode(reader.ids())


def test_each_of_several_sequences_draws_its_own(drive: Drive, ask: Ask) -> None:
    single, three = drive().run(ask(), ask(n=3))
    assert three.ids(0) == single.ids()
    assert len({tuple(three.ids(index)) for index in range(3)}) == 3
    assert sorted(end.index for end in three.ends) == [0, 1, 2]
    [greedy] = drive().run(ask(n=2, temperature=0))
    assert greedy.ids(0) == greedy.ids(1)


def test_more_sequences_than_run_at_once_take_turns(drive: Drive, ask: Ask) -> None:
    [wide] = drive().run(ask(n=5, max_tokens=6))
    [narrow] = drive(max_sequences=2).run(ask(n=5, max_tokens=6))
    assert [wide.tokens(index) for index in range(5)] == [narrow.tokens(i) for i in range(5)]


def test_the_prompt_is_found_by_whoever_asks_again(drive: Drive, ask: Ask) -> None:
    driver, prompt = drive(), range(2, 102)
    [first] = driver.run(ask(prompt=prompt))
    [again] = driver.run(ask(prompt=prompt))
    [stranger] = driver.run(ask(prompt=prompt, tenant="other"))
    assert [reader.steps[0] for reader in (first, again, stranger)] == [
        Started(0),
        Started(96),
        Started(0),
    ]
    assert first.tokens() == again.tokens() == stranger.tokens()
    assert driver.value("vllm:prefix_cache_hits_total") == 96
    assert driver.value("vllm:prefix_cache_queries_total") == 300


def test_an_answer_is_found_with_its_prompt_in_the_next_turn(drive: Drive, ask: Ask) -> None:
    driver = drive()
    [first] = driver.run(ask(prompt=range(2, 60), max_tokens=30))
    [second] = driver.run(ask(prompt=[*range(2, 60), *first.ids(), 7]))
    assert second.steps[0] == Started(80)  # whole pages of 58 + 30


def test_min_tokens_holds_back_the_end(drive: Drive, ask: Ask) -> None:
    [free] = drive().run(ask())
    banned = frozenset(free.ids()[:2])
    [stopped] = drive().run(ask(stop_tokens=banned))
    assert (stopped.ids(), stopped.ends[0].reason) == (free.ids()[:1], FinishReason.STOP)
    [longer] = drive().run(ask(stop_tokens=banned, min_tokens=7))
    assert not banned & set(longer.ids()[:7])
    assert len(longer.ids()) >= 7


def test_penalties_look_back_over_the_answer(drive: Drive, ask: Ask) -> None:
    plain, varied = drive().run(
        ask(temperature=0, max_tokens=60), ask(temperature=0, max_tokens=60, presence_penalty=2.0)
    )
    assert len(set(varied.ids())) > len(set(plain.ids()))


def test_logprobs_come_with_tokens_and_prompt(drive: Drive, ask: Ask, model: Model) -> None:
    plain, rated = drive().run(ask(), ask(logprobs=3, prompt_logprobs=2))
    assert rated.ids() == plain.ids()
    for token in rated.tokens():
        assert token.logprobs is not None
        assert token.logprobs.token == token.id
        assert len(token.logprobs.top) == 3
        assert token.logprobs.logprob <= token.logprobs.top[0][1] < 0
    _, read, *_ = rated.steps
    assert isinstance(read, PromptRead)
    prompt = model.tokenizer.encode("the same")
    assert tuple(each.token for each in read.logprobs) == prompt[1:]


def test_prompt_logprobs_are_those_of_an_answer_that_said_the_same(drive: Drive, ask: Ask) -> None:
    """What was generated, given again as a prompt, is as likely as it was."""
    driver = drive()
    [said] = driver.run(ask(prompt=range(2, 40), max_tokens=40, logprobs=2))
    whole = [*range(2, 40), *said.ids()]
    for budget in (64, 23):
        [again] = drive(step_tokens=budget).run(ask(prompt=whole, prompt_logprobs=2))
        read = again.steps[1]
        assert isinstance(read, PromptRead)
        assert list(read.logprobs[37:]) == [token.logprobs for token in said.tokens()]
    [cached] = driver.run(ask(prompt=whole, prompt_logprobs=2))
    assert cached.steps[1] == read


def test_cancelling_frees_everything_and_disturbs_nobody(drive: Drive, ask: Ask) -> None:
    alone = drive().run(ask("another"))[0]
    driver = drive()
    groups = []
    for text in ("the same", "quick brown fox", "a model costs nothing"):
        reader = driver.add(ask(text, n=2, max_tokens=200))
        groups.append(next(g for g in driver.steps._groups.values() if g.outlet is reader))
    kept = driver.add(ask("another"))
    for group in groups:
        driver.steps.step()
        driver.steps.cancel(group)
        driver.steps.cancel(group)
    driver.run()
    assert kept.tokens() == alone.tokens()
    assert driver.kv.num_free_pages + driver.kv.num_evictable_pages == driver.kv.num_pages


@pytest.mark.parametrize("n", [1, 3])
def test_logits_that_are_no_numbers_end_their_request_only(
    drive: Drive, ask: Ask, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    alone = drive().run(ask("another"))[0]
    unchanged = Decoder.logits

    def broken(self: Decoder, hidden_RD: torch.Tensor) -> torch.Tensor:
        logits_RV = unchanged(self, hidden_RD).clone()
        if len(logits_RV) > 1:
            logits_RV[0, 5] = torch.nan
        return logits_RV

    monkeypatch.setattr(Decoder, "logits", broken)
    sick, well = drive().run(ask(n=n), ask("another"))
    assert sick.failure is not None
    assert isinstance(sick.failure.error, Internal)
    assert sick.failure.error.where == "logits"
    assert well.tokens() == alone.tokens()


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError, RuntimeError])
def test_too_little_memory_makes_smaller_steps(
    drive: Drive, ask: Ask, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    requests = [ask(prompt=range(2, 80)), ask("another", n=2), ask("third")]
    expected = [reader.steps for reader in drive().run(*requests)]
    unchanged, sizes = Decoder.hidden, []

    def cramped(self: Decoder, tokens_T: torch.Tensor, *rest: Any, **masks: Any) -> torch.Tensor:
        if len(tokens_T) > 11:
            raise kind("DefaultCPUAllocator: can't allocate memory")
        sizes.append(len(tokens_T))
        return unchanged(self, tokens_T, *rest, **masks)

    monkeypatch.setattr(Decoder, "hidden", cramped)
    driver = drive(step_tokens=128, max_sequences=8)
    assert [reader.tokens() for reader in driver.run(*requests)] == [
        [step for step in steps if isinstance(step, Token) and step.index == 0]
        for steps in expected
    ]
    assert max(sizes) <= 11
    assert driver.steps._lineup.step_tokens == 8


def test_no_memory_for_a_single_token_is_reported(
    drive: Drive, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Decoder, *_: Any, **masks: Any) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(Decoder, "hidden", full)
    for reader in drive().run(ask(), ask("another")):
        assert reader.failure is not None
        assert isinstance(reader.failure.error, OutOfMemory)


def test_a_fault_of_ours_ends_the_batch_and_not_the_engine(
    drive: Drive, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive()
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "hidden", lambda *_, **masks: 1 / 0)
        [reader] = driver.run(ask())
    assert reader.failure is not None
    assert isinstance(reader.failure.error, Internal)
    [after] = driver.run(ask())
    assert len(after.ids()) == 24


def test_a_request_that_was_over_ends_at_once(drive: Drive, ask: Ask) -> None:
    [whole] = drive().run(ask(n=2))
    known = [Resumed(tuple(whole.ids(index)), finished=index == 1) for index in range(2)]
    [resumed] = drive().run(ask(n=2, resumed=tuple(known)))
    assert resumed.steps == [Finished(0, FinishReason.LENGTH)]


def test_a_reader_that_is_behind_pauses_its_own_request_only(drive: Drive, ask: Ask) -> None:
    driver = drive()
    slow, fast = driver.add(ask()), driver.add(ask("another"))
    for _ in range(4):
        driver.steps.step()
    slow.full, seen = True, len(slow.steps)
    while driver.steps.step():
        pass
    assert len(fast.ids()) == 24
    assert len(slow.steps) == seen
    slow.full = False
    driver.run()
    assert slow.tokens() == drive().run(ask())[0].tokens()
