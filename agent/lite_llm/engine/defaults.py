"""How a checkpoint wants its tokens chosen where a request doesn't say: generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from lite_llm.contracts.errors import Corrupt, InvalidRequest
from lite_llm.engine.sampling import Sampling
from lite_llm.models import parse_json

GENERATION: Final = "generation_config.json"
MAX_EOS = 64  # ids
MOST = 2.0**32  # of any number; an integer in JSON may be beyond all floats


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """A field that the file leaves out is None, and has its neutral value then.

    ``do_sample`` is not among them: a client that says nothing expects to be answered at
    temperature 1, as vLLM answers.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_ids: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, data: bytes, where: str, *, vocab: int) -> Self:
        """From the file's contents; :class:`Corrupt` names a field that makes no sense."""
        values = parse_json(data, where)
        numbers = {
            field.name: _number(values, field.name, where)
            for field in fields(cls)
            if field.name != "eos_token_ids"
        }
        if (top_k := numbers["top_k"]) is not None and type(top_k) is not int:
            raise _corrupt("top_k", top_k, where)
        numbers["top_k"] = top_k or None  # 0 is how the file says: all
        try:
            Sampling(**{name: value for name, value in numbers.items() if value is not None})
        except InvalidRequest as error:
            raise _corrupt(error.where, numbers[error.where], where) from error
        eos = values.get("eos_token_id")
        ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
        if len(ids) > MAX_EOS or any(
            type(each) is not int or not 0 <= each < vocab for each in ids
        ):
            raise _corrupt("eos_token_id", eos, where)
        return cls(**numbers, eos_token_ids=frozenset(ids))


def _number(values: Mapping[str, Any], name: str, where: str) -> Any:
    value = values.get(name)
    if value is not None and (type(value) not in (int, float) or not abs(value) <= MOST):
        raise _corrupt(name, value, where)
    return value


def _corrupt(name: str, value: object, where: str) -> Corrupt:
    return Corrupt(
        f"{name} of {where} is {str(value)[:80]!r}",
        where=name,
        remedy="fetch or convert the checkpoint again",
    )
