"""Decoding steps that are captured once and replayed: one launch in place of some hundreds.

A step has a graph if each of its sequences has one token to compute, all of them may use all
experts, and no layer needs the host on the way. Graphs come in few sizes; rows that are left over
are padding, which stores nothing and disturbs nobody. A row's bits don't depend on the batch, so
it doesn't matter to any answer which steps are replayed.

Legend: R rows of a step, B rows and N pages of a graph, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import torch
from torch import Tensor

from lite_llm.kernels import LayerPages, Rows
from lite_llm.models import Decoder, DecoderConfig
from lite_llm.models.ffn import FfnConfig

SIZES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
"""Rows of a graph: padding costs little where weights are what is read."""
LEAST_PAGES = 16
"""Of a sequence; then by powers of two, as programs for absent pages cost next to nothing."""
GRAPH_BYTES = 2 << 30
"""Of all graphs together. When they have as much, other steps run without."""

log = structlog.get_logger(__name__)


class Captured(Protocol):
    """What a capture gives."""

    num_bytes: int
    """Of the device's memory, held while this lives."""

    def replay(self) -> None:
        """Compute anew, from and to the memory that it was captured with."""


class Capturer(Protocol):
    """Who can turn a computation into one launch."""

    def capture(self, compute: Callable[[], Tensor]) -> tuple[Captured, Tensor]:
        """``compute`` with all its launches, and where it puts its result. It is called more than
        once and has to do the same each time. Raises RuntimeError if it can't be captured."""


class Computing(Protocol):
    """What graphs need of a decoder."""

    def hidden(
        self, tokens_T: Tensor, positions_T: Tensor, pages: Sequence[LayerPages]
    ) -> Tensor: ...

    def logits(self, hidden_RD: Tensor) -> Tensor: ...


class DecodeGraphs:
    """All graphs of one decoder over one cache; for one thread."""

    def __init__(
        self, decoder: Computing, capturer: Capturer, *, max_bytes: int = GRAPH_BYTES
    ) -> None:
        self._decoder = decoder
        self._capturer = capturer
        self._left_bytes = max_bytes
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def logits(self, inputs_2R: Tensor, pages: Sequence[LayerPages]) -> Tensor | None:
        """The logits ``[R, V]`` after one token of each sequence, valid until the next call.

        ``inputs_2R`` are tokens and positions, int64. None: no graph fits, and nothing was done.
        """
        size = next((size for size in SIZES if size >= inputs_2R.shape[1]), None)
        if size is None:
            return None
        width = LEAST_PAGES
        while width < max(layer.rows.pages_SN.shape[1] for layer in pages):
            width *= 2
        graph = self._graphs.get((size, width))
        if graph is None:
            if self._left_bytes <= 0:
                return None
            graph = _Graph(size, width, pages)
            try:
                graph.capture(self._decoder, self._capturer, inputs_2R, pages)
            except RuntimeError as error:
                log.warning("a decoding step can't be captured", count=size, error=str(error))
                self._left_bytes = 0  # whatever it is, the next attempt would meet it too
                return None
            self._left_bytes -= graph.num_bytes
            self._graphs[size, width] = graph
        return graph.logits(inputs_2R, pages)


class _Graph:
    """One size: the memory that inputs are put into, and the computation captured over it."""

    def __init__(self, size: int, width: int, pages: Sequence[LayerPages]) -> None:
        groups = _groups(pages)
        device = groups[0].position_T.device

        def int32(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        sequence_B = torch.arange(size, dtype=torch.int32, device=device)
        self._inputs_2B = torch.zeros((2, size), dtype=torch.int64, device=device)
        self._rows = [Rows(sequence_B, int32(size), int32(size, width)) for _ in groups]
        place = {id(rows): index for index, rows in enumerate(groups)}
        self._pages = [LayerPages(layer.kv, self._rows[place[id(layer.rows)]]) for layer in pages]

    @property
    def num_bytes(self) -> int:
        """Of the device, that the capture holds."""
        return self._captured.num_bytes

    def capture(
        self,
        decoder: Computing,
        capturer: Capturer,
        inputs_2R: Tensor,
        pages: Sequence[LayerPages],
    ) -> None:
        """With a step's inputs, so that what runs meanwhile is that step."""
        self._fill(inputs_2R, pages)
        tokens_B, positions_B = self._inputs_2B

        def compute() -> Tensor:
            return decoder.logits(decoder.hidden(tokens_B, positions_B, self._pages))

        self._captured, self._logits_BV = capturer.capture(compute)

    def logits(self, inputs_2R: Tensor, pages: Sequence[LayerPages]) -> Tensor:
        """Compute a step."""
        self._fill(inputs_2R, pages)
        self._captured.replay()
        return self._logits_BV[: inputs_2R.shape[1]]

    def _fill(self, inputs_2R: Tensor, pages: Sequence[LayerPages]) -> None:
        num_rows = inputs_2R.shape[1]
        self._inputs_2B[:, num_rows:] = 0
        self._inputs_2B[:, :num_rows] = inputs_2R
        for mine, given in zip(self._rows, _groups(pages), strict=True):
            mine.position_T[num_rows:] = -1
            mine.position_T[:num_rows] = given.position_T
            mine.pages_SN[:num_rows, : given.pages_SN.shape[1]] = given.pages_SN


class CudaCapturer:
    """CUDA's graphs. They share memory, as one is replayed at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, compute: Callable[[], Tensor]) -> tuple[Captured, Tensor]:
        """Once without and once with the recorder on: kernels are compiled and tables made."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch doesn't annotate it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        # Other threads move pages meanwhile; only this one's calls are of the graph.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = compute()
        return _CudaGraph(graph, torch.cuda.memory_reserved() - before), result


class _CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, num_bytes: int) -> None:
        self._graph = graph
        self.num_bytes = num_bytes

    def replay(self) -> None:
        self._graph.replay()


def decode_graphs(decoder: Decoder, device: torch.device) -> DecodeGraphs | None:
    """What a runner uses: None where there are no graphs, or a layer asks the host for experts."""
    if device.type != "cuda":
        return None
    decoder.prepare(device)  # without a graph, too: no step then waits for a look at positions
    return DecodeGraphs(decoder, CudaCapturer()) if is_capturable(decoder.config) else None


def is_capturable(config: DecoderConfig) -> bool:
    """Whether no layer needs to know on the host what the device has computed."""
    return all(isinstance(layer.ffn, FfnConfig) for layer in config.layers)


def _groups(pages: Sequence[LayerPages]) -> list[Rows]:
    """The rows of each group of layers, in the order of their first layers."""
    return list({id(layer.rows): layer.rows for layer in pages}.values())
