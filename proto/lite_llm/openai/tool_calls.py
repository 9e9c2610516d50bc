"""Reads calls of tools out of a model's text, while it comes.

Two forms are known: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>`` within a text, as Qwen
and Hermes models write it, and a text that is nothing but such an object, with ``parameters`` for
``arguments``, as Llama models do. What looks like a call and is none stays text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import NamedTuple

BEGIN, END = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"  # Llama 3.1 says so before a call
MAX_CHARACTERS = 1 << 20  # of what may be a call: beyond that it is text, whatever it is


class Call(NamedTuple):
    """Of one tool."""

    name: str
    arguments: str
    """JSON."""


class Reader:
    """Of one answer's text."""

    def __init__(self, tools: Collection[str]) -> None:
        """``tools`` are the names that can be called."""
        self._tools = tools
        self._held = ""
        self._may_be_bare = True
        self.num_calls = 0

    def feed(self, text: str) -> Iterator[str | Call]:
        """What is certain by now, in order; the rest is held back."""
        self._held += text
        if len(self._held) > MAX_CHARACTERS:
            held, self._held, self._may_be_bare = self._held, "", False
            yield held
            return
        if self._may_be_bare:
            start = self._held.lstrip()
            if not start or start[0] == "{" or PYTHON_TAG.startswith(start[: len(PYTHON_TAG)]):
                return
            self._may_be_bare = False
        yield from self._tagged()

    def end(self) -> Iterator[str | Call]:
        """No more text comes."""
        held, self._held = self._held, ""
        if self._may_be_bare and (calls := self._bare(held)):
            self.num_calls += len(calls)
            yield from calls
        elif held.startswith(BEGIN) and (call := self._call(held.removeprefix(BEGIN))):
            self.num_calls += 1
            yield call  # the end of the tag was the stop string, or a special token
        elif held.strip() or (held and not self.num_calls):
            yield held

    def _tagged(self) -> Iterator[str | Call]:
        while True:
            before, tag, rest = self._held.partition(BEGIN)
            if not tag:
                certain = len(before) - _overlap(before, BEGIN)
                if self.num_calls and not before[:certain].strip():
                    return
                self._held = before[certain:]
                if certain:
                    yield before[:certain]
                return
            if before:
                self._held = tag + rest
                if before.strip() or not self.num_calls:  # else it only parts two calls
                    yield before
            inner, tag, rest = rest.partition(END)
            if not tag:
                return
            self._held = rest
            call = self._call(inner)
            self.num_calls += call is not None
            yield call or f"{BEGIN}{inner}{END}"

    def _bare(self, text: str) -> list[Call]:
        parts = text.strip().removeprefix(PYTHON_TAG).split(";\n")
        calls = [self._call(part) for part in parts]
        return [call for call in calls if call] if all(calls) else []

    def _call(self, text: str) -> Call | None:
        try:
            said = json.loads(text)
            name, arguments = said["name"], said.get("arguments", said.get("parameters", {}))
            if isinstance(arguments, dict):
                arguments = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            arguments.encode()  # half a surrogate pair has no place in an answer
            return Call(name, arguments) if name in self._tools else None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None  # some other JSON, or none


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``tag``."""
    return next(
        (
            size
            for size in range(min(len(text), len(tag) - 1), 0, -1)
            if tag.startswith(text[-size:])
        ),
        0,
    )
