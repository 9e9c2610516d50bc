"""Typed access to the fields of a checkpoint's JSON files: what nobody asked for is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeGuard

from lite_llm.contracts.errors import Corrupt, Unsupported

_IGNORED: Final = frozenset(
    {
        *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
        *("initializer_range", "tokenizer_class"),
        *("bos_token_id", "pad_token_id", "sep_token_id", "use_cache", "auto_map"),
        *("transformers_version", "transformers.js_config", "pretraining_tp"),
        *("is_llama_config", "unsloth_fixed", "unsloth_version"),
        *("output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "problem_type", "id2label", "label2id", "task_specific_params"),
    }
)
"""Fields of training, of bookkeeping and of other programs: they don't change an answer."""


class Fields:
    """A JSON object that remembers which of its fields were read.

    Every reading method raises :class:`Corrupt` for a value that makes no sense and
    :class:`Unsupported` for one that is not implemented, naming the field. ``null`` is absence.
    """

    def __init__(self, values: Mapping[str, Any], *, file: str = "config.json") -> None:
        self._values = values
        self._file = file
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and not null; does not count as reading it."""
        return self._values.get(name) is not None

    def mentions(self, name: str) -> bool:
        """Whether the field is there, if only as null."""
        return name in self._values

    def raw(self, name: str) -> Any:
        """The value as it is, None if absent."""
        self._read.add(name)
        return self._values.get(name)

    def count(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """An integer from ``minimum`` on; needed if there is no default."""
        value = self.raw(name)
        value = default if value is None else value
        if type(value) is not int or value < minimum:
            self.wrong(name, f"it must be an integer, {minimum} or more")
        return value

    def optional_count(self, name: str, *, minimum: int = 1) -> int | None:
        """An integer from ``minimum`` on, or None."""
        return None if self.raw(name) is None else self.count(name, minimum=minimum)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive finite number; needed if there is no default."""
        value = self.raw(name)
        value = default if value is None else value
        if not is_positive(value):
            self.wrong(name, "it must be a positive number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """A positive finite number, or None."""
        return None if self.raw(name) is None else self.number(name)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self.raw(name)
        value = default if value is None else value
        if value is not True and value is not False:
            self.wrong(name, "it must be true or false")
        return bool(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; needed if there is no default."""
        value = self.raw(name)
        value = default if value is None else value
        if not isinstance(value, str):
            self.wrong(name, "it must be a string")
        return value

    def items(self, name: str) -> list[Any] | None:
        """A list, or None."""
        value = self.raw(name)
        if value is not None and not isinstance(value, list):
            self.wrong(name, "it must be a list")
        return value

    def nested(self, name: str) -> Fields | None:
        """An object within this one, or None. Whoever reads it also calls its :meth:`finish`."""
        value = self.raw(name)
        if value is not None and not isinstance(value, dict):
            self.wrong(name, "it must be an object")
        return None if value is None else Fields(value, file=self._file)

    def only(self, name: str, *implemented: object) -> None:
        """Refuse every value but absence and those that are implemented."""
        value = self.raw(name)
        if value is not None and not any(_same(value, one) for one in implemented):
            names = " and ".join(map(repr, implemented)) or "its absence"
            self.unsupported(name, f"only {names} is implemented")

    def ignore(self, *names: str) -> None:
        """Count as read what does not change an answer of this family."""
        self._read.update(names)

    def finish(self) -> None:
        """Refuse the first field that nobody read and that could change an answer."""
        for name, value in self._values.items():
            known = name in self._read or name in _IGNORED or name.startswith("_")
            if not known and value is not None:
                self.unsupported(name, "remove it if it does not change the computation")

    def wrong(self, name: str, remedy: str) -> NoReturn:
        """Raise :class:`Corrupt` on behalf of a field."""
        message = f"{self._file}: {name} is {self._values.get(name)!r:.80}"
        raise Corrupt(message, where=name, remedy=remedy)

    def unsupported(self, name: str, remedy: str) -> NoReturn:
        """Raise :class:`Unsupported` on behalf of a field."""
        message = f"{self._file}: {name} = {self._values.get(name)!r:.80} is not supported"
        raise Unsupported(message, where=name, remedy=remedy)


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """The object in one of a checkpoint's small files; :class:`Corrupt` names a broken one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _broken(where, f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _broken(where, "holds no JSON object")
    return value


def is_positive(value: object) -> TypeGuard[float]:
    """Whether it is a finite number above 0; NaN and booleans are not."""
    return isinstance(value, int | float) and value is not True and 0 < value < 1e300


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other  # 1 is not True, nor 0 False


def _broken(where: str, what: str) -> Corrupt:
    return Corrupt(f"{where} {what}", where=where, remedy="fetch the checkpoint again")
