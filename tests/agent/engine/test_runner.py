"""A row that no expert can be chosen for ends its own request only."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lite_llm.engine import Request
from lite_llm.experts import ScoresNotFinite, TooFewExperts
from lite_llm.models import Decoder

Drive = Callable[..., Any]  # of conftest's Driver
Ask = Callable[..., Request]

SICK = 77  # a token


@pytest.mark.parametrize("kind", [ScoresNotFinite, TooFewExperts])
def test_rows_without_experts_end_their_requests_only(
    drive: Drive, ask: Ask, monkeypatch: pytest.MonkeyPatch, kind: type[Any]
) -> None:
    never = {"logit_bias": ((SICK, -100.0),)}
    prompts: list[Any] = [[*range(2, 60)], [5, 6, 7], [9] * 4]
    well = [ask(prompt=prompt, n=2, **never) for prompt in prompts]
    expected = [reader.steps for reader in drive().run(*well)]
    unchanged = Decoder.hidden

    def picky(self: Decoder, tokens_T: torch.Tensor, *rest: Any, **masks: Any) -> torch.Tensor:
        if rows := (tokens_T == SICK).nonzero().flatten().tolist():
            error = kind("these rows", where="layer 0")
            error.rows = tuple(rows)
            raise error
        return unchanged(self, tokens_T, *rest, **masks)

    monkeypatch.setattr(Decoder, "hidden", picky)
    sick = [ask(prompt=[2, SICK]), ask(prompt=[*range(9, 30), SICK, 5], n=2)]
    first, *rest, last = drive().run(sick[0], *well, sick[1])
    assert [reader.steps for reader in rest] == expected
    for reader in (first, last):
        assert reader.failure is not None
        assert isinstance(reader.failure.error, kind)
        assert reader.steps[-1] is reader.failure


def test_an_error_that_names_no_rows_ends_the_batch(
    drive: Drive, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vague(self: Decoder, *_: Any, **masks: Any) -> torch.Tensor:
        raise ScoresNotFinite("somewhere", where="layer 0")

    monkeypatch.setattr(Decoder, "hidden", vague)
    for reader in drive().run(ask(), ask("another")):
        assert isinstance(reader.failure.error, ScoresNotFinite)
