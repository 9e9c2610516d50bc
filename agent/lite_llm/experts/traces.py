"""What a router chose, token by token: recorded once, replayed against any policy and budget.

A row is one token of one step: its sequence, whether it is a prompt's, and in every layer its
experts, ascending as they are summed, with their weights. The file is a line that names it, the
length of a header, the header (canonical JSON), the arrays one behind the other (little-endian),
and a checksum of all that: the same trace is the same bytes. What was fetched early is in it, too,
as no choice says it.

Legend: R rows, L layers that have experts, K experts a token at most; A accesses: experts that a
step's layer demands, each once; D demands, one for each step and layer; W wishes: experts that
were wanted early.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lite_llm.contracts.errors import Corrupt, VersionMismatch
from lite_llm.experts.policies import Floats, Ints

MAGIC: Final = b"lite-llm expert trace\n"
VERSION: Final = 2
MAX_HEADER_BYTES: Final = 1 << 20
NO_EXPERT: Final = (1 << 16) - 1

_DIGEST_BYTES: Final = 16
_LENGTH: Final = struct.Struct("<I")
_ARRAYS: Final = (
    ("step", "<u4"),
    ("sequence", "<u4"),
    ("is_prompt", "|u1"),
    ("experts", "<u2"),
    ("weights", "<f2"),
    ("wish_demand", "<u4"),
    ("wish_expert", "<u4"),
    ("wish_odds", "<f8"),
)


@dataclass(frozen=True, slots=True)
class Demands:
    """The experts that each layer of each step needs, numbered through all layers."""

    layer_D: Ints
    """Counting only layers that have experts."""
    start_D: Ints
    """``[D + 1]``: where each demand's accesses begin, and where the last one's end."""
    expert_A: Ints
    """Ascending within a demand."""
    is_prompts_A: NDArray[np.bool_]
    """Only rows of prompts chose it."""

    def __len__(self) -> int:
        return len(self.layer_D)

    @property
    def num_accesses(self) -> int:
        return len(self.expert_A)


@dataclass(frozen=True, eq=False)
class Trace:
    """Rows in the order of their steps."""

    experts_of_layer: dict[int, int]
    """How many each layer has that has any, by the layer's number in the model, ascending."""
    step_R: NDArray[np.uint32]
    """Never descending."""
    sequence_R: NDArray[np.uint32]
    is_prompt_R: NDArray[np.uint8]
    experts_RLK: NDArray[np.uint16]
    """As the router numbers them within their layer; 65535, behind the others, for none."""
    weights_RLK: NDArray[np.float16]
    """0 where there is no expert."""
    wish_demand_W: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    """How many demands there had been; never descending."""
    wish_expert_W: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    """Numbered through all layers, as demands number them."""
    wish_odds_W: Floats = field(default_factory=lambda: np.empty(0, np.float64))
    """Its probability, as far as was known."""

    @property
    def num_rows(self) -> int:
        return len(self.step_R)

    @property
    def num_experts(self) -> int:
        """Of all layers."""
        return sum(self.experts_of_layer.values())

    @cached_property
    def demands(self) -> Demands:
        """What the layers need, in the order in which they run; layers that need nothing don't."""
        counts = np.array([*self.experts_of_layer.values()], np.int64)
        first_L = np.cumsum(counts) - counts
        num_layers = len(counts)
        is_chosen_RLK = self.experts_RLK != NO_EXPERT
        numbers_RLK = self.experts_RLK + first_L[:, None]
        steps = np.unique(self.step_R, return_inverse=True)[1].astype(np.int64)
        # One number for (step, expert) and, as the last digit, whether a prompt chose it.
        code_RLK = (steps[:, None, None] * self.num_experts + numbers_RLK) * 2
        code_RLK += self.is_prompt_R[:, None, None]
        code = np.unique(code_RLK[is_chosen_RLK])
        access, is_prompts = code >> 1, (code & 1).astype(np.bool_)
        is_first = np.ones(len(code), np.bool_)
        is_first[1:] = access[1:] != access[:-1]  # decoding's choice sorts before a prompt's
        access, is_prompts = access[is_first], is_prompts[is_first]
        step_A, expert_A = np.divmod(access, self.num_experts)
        layer_A = np.searchsorted(first_L, expert_A, side="right") - 1
        visit, start_D = np.unique(step_A * num_layers + layer_A, return_index=True)
        return Demands(
            layer_D=visit % num_layers,
            start_D=np.append(start_D, len(expert_A)),
            expert_A=expert_A,
            is_prompts_A=is_prompts,
        )

    def activity(self) -> dict[int, list[int]]:
        """Of each layer, how many rows chose each of its experts: what tiers are drawn from."""
        return {
            layer: np.bincount(
                self.experts_RLK[:, index][self.experts_RLK[:, index] != NO_EXPERT],
                minlength=count,
            ).tolist()
            for index, (layer, count) in enumerate(self.experts_of_layer.items())
        }

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        header = {
            "experts_of_layer": [[layer, count] for layer, count in self.experts_of_layer.items()],
            "rows": self.num_rows,
            "wishes": len(self.wish_demand_W),
            "top_k": self.experts_RLK.shape[2],
            "version": VERSION,
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        columns = (
            self.step_R,
            self.sequence_R,
            self.is_prompt_R,
            self.experts_RLK,
            self.weights_RLK,
            self.wish_demand_W,
            self.wish_expert_W,
            self.wish_odds_W,
        )
        parts = [MAGIC, _LENGTH.pack(len(text)), text]
        for column, (_, dtype) in zip(columns, _ARRAYS, strict=True):
            parts.append(np.ascontiguousarray(column, dtype).tobytes())
        body = b"".join(parts)
        return body + blake2b(body, digest_size=_DIGEST_BYTES).digest()

    def write(self, path: Path) -> None:
        """One file, over whatever was there."""
        path.write_bytes(self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Raises :class:`Corrupt` or :class:`VersionMismatch`, naming the file."""
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, data: bytes, name: str) -> Trace:
        """From a file's bytes; ``name`` is what errors call it. Raises as :meth:`read`."""
        header, at = _header(data, name)
        layers: dict[int, int] = dict(header["experts_of_layer"])
        rows, top_k = header["rows"], header["top_k"]
        shapes = (
            *((rows,),) * 3,
            *((rows, len(layers), top_k),) * 2,
            *((header["wishes"],),) * 3,
        )
        sizes = [
            np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object))
            for shape, (_, dtype) in zip(shapes, _ARRAYS, strict=True)
        ]
        if len(data) != at + sum(sizes) + _DIGEST_BYTES:
            raise _corrupt(name, f"it has {len(data)} bytes, which {rows} rows don't have")
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
            raise _corrupt(name, "its checksum is wrong")
        columns = []
        for shape, size, (_, dtype) in zip(shapes, sizes, _ARRAYS, strict=True):
            columns.append(np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at))
            columns[-1] = columns[-1].reshape(shape)
            at += size
        trace = cls(layers, *columns)
        if fault := trace.fault():
            raise _corrupt(name, fault)
        return trace

    def fault(self) -> str:
        """What is wrong with the arrays; empty if nothing is."""
        if (self.step_R[1:] < self.step_R[:-1]).any():
            return "its steps descend"
        if (self.is_prompt_R > 1).any():
            return "a row is neither a prompt's nor not"
        experts_RLK = self.experts_RLK.astype(np.int64)
        is_chosen_RLK = experts_RLK != NO_EXPERT
        counts_L1 = np.array([*self.experts_of_layer.values()])[:, None]
        if (is_chosen_RLK & (experts_RLK >= counts_L1)).any():
            return "an expert is out of its layer's range"
        later, earlier = experts_RLK[..., 1:], experts_RLK[..., :-1]
        if ((later <= earlier) & (later != NO_EXPERT)).any():
            return "a row's experts don't ascend"
        if (self.wish_demand_W[1:] < self.wish_demand_W[:-1]).any():
            return "its wishes descend"
        if (self.wish_expert_W >= self.num_experts).any():
            return "a wish is for no expert"
        if not ((self.wish_odds_W >= 0) & (self.wish_odds_W <= 1)).all():
            return "a wish has no probability"
        if not np.isfinite(self.weights_RLK).all() or self.weights_RLK[~is_chosen_RLK].any():
            return "a weight is not a number, or belongs to no expert"
        return ""


def _header(data: bytes, name: str) -> tuple[dict[str, Any], int]:
    """The checked header, and where the arrays begin."""
    at = len(MAGIC) + _LENGTH.size
    if data[: len(MAGIC)] != MAGIC or len(data) < at:
        raise _corrupt(name, "it does not begin as one")
    (length,) = _LENGTH.unpack_from(data, len(MAGIC))
    if length > min(MAX_HEADER_BYTES, len(data) - at):
        raise _corrupt(name, f"its header of {length} bytes is too long")
    try:
        header = json.loads(data[at : at + length])
    except ValueError:
        raise _corrupt(name, "its header is not JSON") from None
    if not isinstance(header, dict) or not _is_count(header.get("version")):
        raise _corrupt(name, "its header has no version")
    if header["version"] != VERSION:
        raise VersionMismatch(
            f"{name} is an expert trace of version {header['version']}, not {VERSION}",
            where=name,
            remedy="record it again",
        )
    layers, canonical = header.get("experts_of_layer"), None
    names = {"experts_of_layer", "rows", "top_k", "version", "wishes"}
    if header.keys() == names and _are_layers(layers):
        canonical = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    is_sized = all(_is_count(header.get(name)) for name in ("rows", "top_k", "wishes"))
    if canonical != data[at : at + length] or not is_sized:
        raise _corrupt(name, "its header is not as this version writes it")
    return header, at + length


def _are_layers(layers: object) -> bool:
    if not isinstance(layers, list):
        return False
    for pair in layers:
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_count, pair)):
            return False
        if pair[1] >= NO_EXPERT:
            return False
    numbers = [pair[0] for pair in layers]
    return numbers == sorted(set(numbers))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


def _corrupt(name: str, fault: str) -> Corrupt:
    return Corrupt(
        f"{name} is not a trace of experts: {fault}", where=name, remedy="record it again"
    )


class TraceRecorder:
    """Gathers rows while a model runs: for one thread."""

    def __init__(self, experts_of_layer: dict[int, int], top_k: int) -> None:
        """``experts_of_layer``: of the layers that have any; ``top_k``: K at most."""
        self._layers = dict(sorted(experts_of_layer.items()))
        self._index = {layer: index for index, layer in enumerate(self._layers)}
        self._top_k = top_k
        self._rows: list[tuple[NDArray[np.uint32], NDArray[np.uint8]]] = []
        self._experts: list[NDArray[np.uint16]] = []
        self._weights: list[NDArray[np.float16]] = []
        self._demands = 0
        self._wishes: list[tuple[int, int, float]] = []

    def begin_step(self, sequences: Sequence[int], is_prompt: Sequence[bool]) -> None:
        """The rows of the next step, in their order in every layer's arrays."""
        count = len(sequences)
        self._rows.append((np.array(sequences, np.uint32), np.array(is_prompt, np.uint8)))
        shape = (count, len(self._layers), self._top_k)
        self._experts.append(np.full(shape, NO_EXPERT, np.uint16))
        self._weights.append(np.zeros(shape, np.float16))

    def record(self, layer: int, experts_TK: NDArray[Any], weights_TK: NDArray[Any]) -> None:
        """What the layer's router chose for the rows of the step: int with -1 for none, float."""
        index, width = self._index[layer], experts_TK.shape[1]
        is_chosen_TK = experts_TK >= 0
        self._demands += bool(is_chosen_TK.any())
        self._experts[-1][:, index, :width] = np.where(is_chosen_TK, experts_TK, NO_EXPERT)
        self._weights[-1][:, index, :width] = np.where(is_chosen_TK, weights_TK, 0.0)

    def wish(self, expert: int, odds: float) -> None:
        """It is wanted before its layer demands it, with this probability."""
        self._wishes.append((self._demands, expert, odds))

    def trace(self) -> Trace:
        """Of all steps so far."""
        num_layers = len(self._layers)
        steps = [np.full(len(rows[0]), step, np.uint32) for step, rows in enumerate(self._rows)]
        empty = np.empty((0, num_layers, self._top_k))
        return Trace(
            self._layers,
            np.concatenate([*steps, np.empty(0, np.uint32)]),
            np.concatenate([*(rows[0] for rows in self._rows), np.empty(0, np.uint32)]),
            np.concatenate([*(rows[1] for rows in self._rows), np.empty(0, np.uint8)]),
            np.concatenate([*self._experts, empty.astype(np.uint16)]),
            np.concatenate([*self._weights, empty.astype(np.float16)]),
            np.array([demand for demand, _, _ in self._wishes], np.uint32),
            np.array([expert for _, expert, _ in self._wishes], np.uint32),
            np.array([odds for _, _, odds in self._wishes], np.float64),
        )
