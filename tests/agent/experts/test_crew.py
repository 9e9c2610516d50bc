"""Threads that fetch: in order of urgency, once, cancelled only before they begin."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lite_llm.contracts.errors import Cancelled, Corrupt, Internal
from lite_llm.experts.crew import Crew, Job


@pytest.fixture
def crew() -> Iterator[Crew[str]]:
    crew = Crew("test", ["a"])
    yield crew
    crew.close()


class Held:
    """Work that the only thread is busy with until it is let go."""

    def __init__(self, crew: Crew[str]) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.job: Job[str] = Job(self._work)
        crew.submit(self.job)
        self.began.wait()

    def _work(self, tools: str) -> None:
        self.began.set()
        self.may_end.wait()


def test_the_most_urgent_goes_first_and_each_runs_once(crew: Crew[str]) -> None:
    order: list[str] = []
    held = Held(crew)
    jobs = {name: Job[str](lambda tools, name=name: order.append(name + tools)) for name in "xyz"}  # type: ignore[misc]  # of a default
    for urgency, name in enumerate("xyz", start=1):
        crew.submit(jobs[name], float(urgency))
    crew.submit(jobs["z"])  # a step waits for it now
    held.may_end.set()
    for job in jobs.values():
        job.wait()
    assert order == ["za", "xa", "ya"]
    assert all(job.is_over and job.error is None for job in jobs.values())


def test_what_waits_can_be_cancelled_and_what_runs_can_not(crew: Crew[str]) -> None:
    ran: list[str] = []
    held = Held(crew)
    waiting = Job[str](ran.append)
    crew.submit(waiting)
    assert not held.job.cancel()
    assert waiting.cancel()
    waiting.wait()
    assert isinstance(waiting.error, Cancelled)
    held.may_end.set()
    held.job.wait()
    assert held.job.cancel(), "what is over needs no wait"
    assert held.job.error is None
    assert ran == []


def test_errors_belong_to_the_job_and_let_go_of_frames(crew: Crew[str]) -> None:
    def corrupt(tools: str) -> None:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise Corrupt("chunk 3") from error

    def strange(tools: str) -> None:
        raise ZeroDivisionError("what")

    jobs = [Job[str](corrupt), Job[str](strange)]
    for job in jobs:
        crew.submit(job)
        job.wait()
    first, second = (job.error for job in jobs)
    assert isinstance(first, Corrupt)
    assert first.__traceback__ is None
    assert first.__cause__ is not None
    assert first.__cause__.__traceback__ is None
    assert isinstance(second, Internal)
    assert jobs[0].has_failed


def test_no_error_ends_a_thread(crew: Crew[str]) -> None:
    def end(tools: str) -> None:
        raise SystemExit(3)

    ended, after = Job[str](end), Job[str](lambda tools: None)
    for job in (ended, after):
        crew.submit(job)
        assert job._over.wait(20.0)
    assert isinstance(ended.error, Internal)
    assert after.error is None


def test_a_close_waits_for_what_runs_and_cancels_the_rest() -> None:
    crew = Crew("test", ["a"])
    held, waiting = Held(crew), [Job[str](lambda tools: None) for _ in range(3)]
    for job in waiting:
        crew.submit(job, 1.0)
    closing = threading.Thread(target=crew.close)
    closing.start()
    for job in waiting:
        assert job._over.wait(20.0)
        assert isinstance(job.error, Cancelled)
    assert not held.job.is_over
    held.may_end.set()
    closing.join()
    assert held.job.error is None


def test_a_job_waits_for_those_before_it_at_its_slot() -> None:
    crew = Crew("test", ["a", "b"])
    order: list[str] = []
    may_end = threading.Event()

    def slow(tools: str) -> None:
        may_end.wait()
        order.append("slow")

    first = Job[str](slow)
    second = Job[str](lambda tools: order.append("second"), after=[first])
    crew.submit(first)
    crew.submit(second)
    assert not second.is_over
    may_end.set()
    second.wait()
    crew.close()
    assert order == ["slow", "second"]
