"""A pickle machine that can make tuples, dicts, lists and what its caller allows, nothing else.

Python's own unpickler calls what the stream names and trusts its numbers; this one knows thirty
opcodes, keeps its memory bounded, and asks its caller about every name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

MAX_OPCODES: Final = 4 << 20  # a hundred thousand tensors have fewer
MAX_STACK: Final = 1 << 16  # pickles of dicts set 1000 items at a time

_MARK: Final = object()
_CONSTANTS: Final = {ord("N"): None, 0x88: True, 0x89: False}
_NUMBERS: Final = {ord("J"): "<i", ord("K"): "<B", ord("M"): "<H", ord("G"): ">d"}
_TEXTS: Final = {ord("X"): "<I", 0x8C: "<B"}
_PUTS: Final = {ord("q"): "<B", ord("r"): "<I"}
_GETS: Final = {ord("h"): "<B", ord("j"): "<I"}
_TUPLES: Final = {0x85: 1, 0x86: 2, 0x87: 3}


class RefusedPickle(ValueError):
    """The stream is not a pickle, or wants what this machine does not do."""


class PickleMachine:
    """Runs one pickle; ``find`` turns a global's name into a function, ``load`` an id into a value.

    Both raise :class:`RefusedPickle` for what they do not know.
    """

    def __init__(
        self,
        data: bytes,
        find: Callable[[str], Callable[..., Any]],
        load: Callable[[Any], Any],
    ) -> None:
        self._data = data
        self._position = 0
        self._find = find
        self._load = load
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The pickled value."""
        try:
            for _ in range(MAX_OPCODES):
                opcode = self._take(1)[0]
                if opcode == ord("."):
                    return self._stack.pop()
                self._step(opcode)
                if len(self._stack) > MAX_STACK:
                    raise RefusedPickle(f"more than {MAX_STACK} values at once")
        except RefusedPickle:
            raise
        except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise RefusedPickle(f"malformed at byte {self._position}: {error!r}") from error
        raise RefusedPickle(f"more than {MAX_OPCODES} opcodes")

    def _step(self, opcode: int) -> None:
        stack = self._stack
        if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _NUMBERS:
            stack.append(self._number(_NUMBERS[opcode]))
        elif opcode in _TEXTS:
            stack.append(self._take(self._number(_TEXTS[opcode])).decode())
        elif opcode in _PUTS:
            self._memo[self._number(_PUTS[opcode])] = stack[-1]
        elif opcode in _GETS:
            stack.append(self._memo[self._number(_GETS[opcode])])
        elif opcode in _TUPLES:
            self._push_tuple(stack[-_TUPLES[opcode] :], _TUPLES[opcode])
        elif chr(opcode) in "]})(":
            stack.append({"]": [], "}": {}, ")": (), "(": _MARK}[chr(opcode)])
        elif opcode == ord("t"):
            stack.append(tuple(self._to_mark()))
        elif opcode == 0x8A:
            stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))
        elif opcode == 0x80:
            self._take(1)  # the protocol's version: its opcodes are what counts
        else:
            self._act(opcode)

    def _act(self, opcode: int) -> None:
        stack = self._stack
        match chr(opcode):
            case "c":
                stack.append(self._find(f"{self._line()}.{self._line()}"))
            case "Q":
                stack.append(self._load(stack.pop()))
            case "R":
                arguments, function = stack.pop(), stack.pop()
                if not callable(function) or not isinstance(arguments, tuple):
                    raise RefusedPickle("a call of what is no function")
                stack.append(function(*arguments))
            case "s":
                value, key = stack.pop(), stack.pop()
                self._of_kind(dict)[key] = value
            case "u":
                items = self._to_mark()
                self._of_kind(dict).update(zip(items[::2], items[1::2], strict=True))
            case "a":
                value = stack.pop()
                self._of_kind(list).append(value)
            case "e":
                values = self._to_mark()
                self._of_kind(list).extend(values)
            case "b":
                stack.pop()  # attributes, such as a state dict's versions: of no use here
            case _:
                raise RefusedPickle(f"opcode {opcode:#04x} at byte {self._position - 1}")

    def _push_tuple(self, values: list[Any], count: int) -> None:
        if len(values) < count:
            raise RefusedPickle("a tuple of more values than there are")
        del self._stack[-count:]
        self._stack.append(tuple(values))

    def _of_kind(self, kind: type[Any]) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise RefusedPickle(f"items for what is no {kind.__name__}")
        return self._stack[-1]

    def _to_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _take(self, count: int) -> bytes:
        piece = self._data[self._position : self._position + count]
        if len(piece) < count:
            raise RefusedPickle("ends in the middle")
        self._position += count
        return piece

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self._data.index(b"\n", self._position, self._position + 256)
        return self._take(end + 1 - self._position)[:-1].decode()
