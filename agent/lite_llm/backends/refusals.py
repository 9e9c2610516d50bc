"""What foreign servers have not got is refused by name, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from lite_llm.contracts.errors import Unsupported
from lite_llm.proto.v1.generate_pb2 import GenerateStart

_NEUTRAL: Final[Mapping[str, float]] = {"top_p": 1, "top_k": 0, "repetition_penalty": 1}
"""Values of optional fields that change nothing; of all others it is zero or nothing."""


_ASKED_AS: Final[Mapping[str, str]] = {"json_schema": "response_format"}
"""Names that clients know some fields by."""


def refuse_fields(backend: str, start: GenerateStart, missing: Iterable[str]) -> None:
    """Raises :class:`Unsupported` if ``start`` asks for a sampling parameter among ``missing``."""
    asked = {
        field.name
        for field, value in start.sampling.ListFields()
        if field.name.endswith("logprobs") or value != _NEUTRAL.get(field.name, 0)
    }
    _refuse(backend, asked.intersection(missing))


def refuse_guarantees(backend: str, start: GenerateStart) -> None:
    """Refuse what only the native engine does, whatever foreign server it is."""
    resume = start.resume
    # With the number 1 and no tokens only the start was told: all is still to come.
    resumed = resume.next_sequence > 1 or resume.token_ids.ids or resume.sequences
    if resumed:
        raise Unsupported(
            f"a stream of the {backend} backend can't be resumed",
            where="resume",
            remedy="ask again from the start: it does not promise the same bytes twice",
        )
    wanted = {
        "tiers": start.tiers.tiers,
        "prompt_logprobs": start.sampling.HasField("prompt_logprobs"),
    }
    _refuse(backend, [name for name, is_wanted in wanted.items() if is_wanted])


def _refuse(backend: str, fields: Iterable[str]) -> None:
    if found := sorted(fields):
        raise Unsupported(
            f"the {backend} backend has no {', '.join(found)}",
            where=_ASKED_AS.get(found[0], found[0]),
            remedy="leave it out, or use the native backend",
        )
