"""Silence and a step without an end are told apart from work and from rest."""

from lite_llm.agent.watchdog import Pulses
from lite_llm.proto.v1.agent_pb2 import Pulse


def test_silence() -> None:
    pulses = Pulses(10.0, now=0.0)
    pulses.answered(Pulse(), 5.0)
    assert not pulses.verdict(15.0)
    assert pulses.verdict(16.0) == "did not answer for 11 s"


def test_a_step_without_an_end() -> None:
    pulses = Pulses(10.0, now=0.0)
    for now in range(12):
        pulses.answered(Pulse(steps=7, stepping=True), float(now))
    assert pulses.verdict(11.0) == "was in one step for 11 s"


def test_steps_that_end_one_after_another() -> None:
    pulses = Pulses(10.0, now=0.0)
    for now in range(100):
        pulses.answered(Pulse(steps=now + 1, stepping=True), float(now))
        assert not pulses.verdict(float(now))


def test_rest() -> None:
    pulses = Pulses(10.0, now=0.0)
    for now in range(100):
        pulses.answered(Pulse(steps=7), float(now))
        assert not pulses.verdict(float(now))


def test_the_first_step_waits_for_the_weights() -> None:
    pulses = Pulses(10.0, now=0.0)
    for now in range(100):
        pulses.answered(Pulse(steps=0, stepping=True), float(now))
        assert not pulses.verdict(float(now))
