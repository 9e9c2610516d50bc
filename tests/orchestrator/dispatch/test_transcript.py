"""Whatever was told and wherever it broke off: the rest is asked for, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts.errors import AgentLost
from lite_llm.dispatch.transcript import Garbage, Transcript
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_CANCELLED,
    GenerateEvent,
    GenerateFinished,
    GenerateStart,
    SamplingParameters,
    TokenChunk,
)
from lite_llm.testing.stub_agent import saying


async def events_of(start: GenerateStart) -> list[GenerateEvent]:
    return [event async for event in saying(start)]


@given(n=st.integers(1, 3), rates=st.booleans(), cuts=st.lists(st.integers(0, 30), max_size=4))
async def test_all_pieces_together_are_the_whole(n: int, rates: bool, cuts: list[int]) -> None:
    start = GenerateStart(text="abc", sampling=SamplingParameters(n=n))
    if rates:
        start.sampling.prompt_logprobs = 1
    whole = await events_of(start)
    transcript, told = Transcript(start), []
    for cut in [*sorted(cuts), 100]:
        if transcript.is_over:
            break
        for event in await events_of(transcript.continuation()):
            if event.sequence > cut:
                break
            transcript.accept(event, "a")
            told.append(event)
    assert told == whole
    assert transcript.is_over
    assert transcript.num_tokens == 3 * n


@pytest.mark.parametrize(
    "wrong",
    [
        GenerateEvent(sequence=3, tokens=TokenChunk(token_ids=[1])),
        GenerateEvent(sequence=1, tokens=TokenChunk(token_ids=[1])),
        GenerateEvent(sequence=2, tokens=TokenChunk(index=1, token_ids=[1])),
        GenerateEvent(sequence=2, finished=GenerateFinished(index=9)),
        GenerateEvent(sequence=2, started={}),  # type: ignore[arg-type]  # protobuf takes dicts
        GenerateEvent(sequence=2, prompt={}),  # type: ignore[arg-type]  # protobuf takes dicts
        GenerateEvent(sequence=2, progress={}),  # type: ignore[arg-type]  # protobuf takes dicts
        GenerateEvent(sequence=2),
    ],
)
async def test_what_does_not_belong_there_changes_nothing(wrong: GenerateEvent) -> None:
    transcript = Transcript(GenerateStart(text="abc"))
    for event in (await events_of(GenerateStart(text="abc")))[:2]:
        transcript.accept(event, "a")
    before = transcript.continuation()
    with pytest.raises(Garbage):
        transcript.accept(wrong, "a")
    assert transcript.continuation() == before


async def test_an_end_that_nobody_asked_for_is_a_loss() -> None:
    transcript = Transcript(GenerateStart(text="abc"))
    start, *_ = await events_of(GenerateStart(text="abc"))
    transcript.accept(start, "a")
    finished = GenerateFinished(reason=FINISH_REASON_CANCELLED)
    with pytest.raises(AgentLost):
        transcript.accept(GenerateEvent(sequence=1, finished=finished), "a")
    assert not transcript.is_over


async def test_the_time_of_a_request_is_fixed_once() -> None:
    start = GenerateStart(text="abc")
    transcript = Transcript(start)
    assert start.created_at > 0
    for event in (await events_of(start))[:2]:
        transcript.accept(event, "a")
    assert transcript.continuation().created_at == start.created_at
    assert Transcript(GenerateStart(created_at=7)).continuation().created_at == 7


async def test_a_stream_that_a_client_resumes_is_resumed_further() -> None:
    start = GenerateStart(text="abc")
    start.resume.next_sequence = 2
    start.resume.token_ids.ids.extend([1])
    transcript = Transcript(start)
    assert transcript.continuation() is not None
    events = await events_of(transcript.continuation())
    transcript.accept(events[0], "a")
    assert list(transcript.continuation().resume.token_ids.ids) == [1, 2]
    assert transcript.continuation().resume.next_sequence == 3
