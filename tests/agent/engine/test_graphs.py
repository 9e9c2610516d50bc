"""Graphs of decoding steps: which are made, what they are given, and, on a GPU, that they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, MixtralConfig

from lite_llm.engine import Model, load_model
from lite_llm.engine.graphs import (
    LEAST_PAGES,
    SIZES,
    Captured,
    CudaCapturer,
    DecodeGraphs,
    decode_graphs,
    is_capturable,
)
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.kvcache import KvCache
from lite_llm.models import Decoder, Weights, parse_config
from lite_llm.testing.checkpoints import tiny_llama


@dataclass
class Seen:
    """A decoder's arguments in one step."""

    tokens: list[int]
    positions: list[int]
    pages: list[tuple[list[int], list[int], list[list[int]]]]


@dataclass
class FakeDecoder:
    """Two layers; logits tell the tokens."""

    seen: list[Seen] = field(default_factory=list)

    def hidden(self, tokens_T: Tensor, positions_T: Tensor, pages: Sequence[LayerPages]) -> Tensor:
        rows = [each.rows for each in pages]
        at = [(r.sequence_T.tolist(), r.position_T.tolist(), r.pages_SN.tolist()) for r in rows]
        self.seen.append(Seen(tokens_T.tolist(), positions_T.tolist(), at))
        return tokens_T[:, None].float()

    def logits(self, hidden_RD: Tensor) -> Tensor:
        return 10 * hidden_RD


@dataclass
class FakeCapture:
    """Replays by computing again into the same memory."""

    compute: Callable[[], Tensor]
    result: Tensor
    num_bytes: int
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.compute())


@dataclass
class FakeCapturer:
    num_bytes: int = 100
    fails: bool = False
    captures: list[FakeCapture] = field(default_factory=list)

    def capture(self, compute: Callable[[], Tensor]) -> tuple[Captured, Tensor]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = compute()
        self.captures.append(FakeCapture(compute, result, self.num_bytes))
        return self.captures[-1], result


KV = PagedKv(torch.zeros(4, 1, 2, 8), torch.zeros(4, 1, 2, 8))


def step(*rows: tuple[int, int, list[int]]) -> tuple[Tensor, list[LayerPages]]:
    """Each sequence's token, position and pages; the second layer's pages are one further on."""
    tokens, positions, tables = zip(*rows, strict=True)
    width = max(map(len, tables))
    table_SN = torch.tensor([table + [0] * (width - len(table)) for table in tables]).int()
    sequence_T, position_T = torch.arange(len(rows)).int(), torch.tensor(positions).int()
    pages = [LayerPages(KV, Rows(sequence_T, position_T, table_SN + more)) for more in (0, 1)]
    return torch.tensor([tokens, positions]), pages


def test_a_step_gets_what_it_would_get_without_a_graph() -> None:
    decoder, capturer = FakeDecoder(), FakeCapturer()
    graphs = DecodeGraphs(decoder, capturer)
    logits_RV = graphs.logits(*step((7, 3, [5]), (8, 40, [1, 2, 3]), (9, 0, [4])))
    assert logits_RV is not None
    assert logits_RV.tolist() == [[70.0], [80.0], [90.0]]
    last = decoder.seen[-1]
    assert last.tokens == [7, 8, 9, 0]
    assert last.positions == [3, 40, 0, 0]
    for more, (sequences, positions, table) in enumerate(last.pages):
        assert sequences == [0, 1, 2, 3]
        assert positions == [3, 40, 0, -1], "padding is nowhere"
        assert [row[:3] for row in table[:2]] == [
            [5 + more, more, more],
            [1 + more, 2 + more, 3 + more],
        ]
        assert {len(row) for row in table} == {LEAST_PAGES}


def test_what_a_step_leaves_behind_does_not_reach_the_next() -> None:
    decoder, capturer = FakeDecoder(), FakeCapturer()
    graphs = DecodeGraphs(decoder, capturer)
    graphs.logits(*step((1, 10, [1]), (2, 20, [2]), (3, 30, [3]), (4, 40, [4])))
    logits_RV = graphs.logits(*step((5, 50, [5]), (6, 60, [6]), (7, 70, [7])))
    assert logits_RV is not None
    assert logits_RV.tolist() == [[50.0], [60.0], [70.0]]
    assert decoder.seen[-1].tokens == [5, 6, 7, 0]
    assert decoder.seen[-1].pages[0][1] == [50, 60, 70, -1]
    assert len(capturer.captures) == 1
    assert capturer.captures[0].replays == 2


def test_there_is_one_graph_for_each_size_and_width() -> None:
    capturer = FakeCapturer()
    graphs = DecodeGraphs(FakeDecoder(), capturer)
    one, wide = (1, 1, [1]), (1, 900, list(range(LEAST_PAGES + 1)))
    for rows in ([one], [one] * 2, [one] * 3, [one] * 4, [wide], [one], [wide, one]):
        assert graphs.logits(*step(*rows)) is not None
    assert [capture.replays for capture in capturer.captures] == [2, 1, 2, 1, 1]
    assert graphs.logits(*step(*[one] * (SIZES[-1] + 1))) is None


def test_no_more_graphs_than_there_is_memory_for() -> None:
    capturer = FakeCapturer(num_bytes=60)
    graphs = DecodeGraphs(FakeDecoder(), capturer, max_bytes=100)
    one = (1, 1, [1])
    assert graphs.logits(*step(one)) is not None
    assert graphs.logits(*step(one, one)) is not None
    assert graphs.logits(*step(one, one, one)) is None
    assert graphs.logits(*step(one)) is not None, "those that are there stay"
    assert len(capturer.captures) == 2


def test_a_model_that_cannot_be_captured_runs_without() -> None:
    decoder, capturer = FakeDecoder(), FakeCapturer(fails=True)
    graphs = DecodeGraphs(decoder, capturer)
    assert graphs.logits(*step((1, 1, [1]))) is None
    capturer.fails = False
    assert graphs.logits(*step((1, 1, [1]))) is None, "it isn't tried again"
    assert decoder.seen == []


def test_processors_and_routers_have_no_graphs() -> None:
    dense, routed = (
        parse_config(config.to_dict() | {"architectures": [name], "dtype": "bfloat16"})
        for config, name in (
            (LlamaConfig(num_hidden_layers=2), "LlamaForCausalLM"),
            (MixtralConfig(num_hidden_layers=2), "MixtralForCausalLM"),
        )
    )
    assert is_capturable(dense)
    assert not is_capturable(routed)
    decoder = Decoder(dense, Weights(len(dense.layers)))
    assert decode_graphs(decoder, torch.device("cpu")) is None


@pytest.mark.gpu
def test_on_a_gpu_a_replayed_step_has_the_bits_of_one_that_is_not(tmp_path: Path) -> None:
    (model,) = (
        each for each in load_model(tiny_llama(tmp_path, seed=1)) if isinstance(each, Model)
    )
    decoder, answers = on_cuda(model.decoder), []
    for with_graphs in (False, True):
        with KvCache(decoder.kv_layout, device_bytes=1 << 24, device="cuda") as kv:
            graphs = DecodeGraphs(decoder, CudaCapturer())
            decoder.prepare(kv.device)
            sequences = [kv.sequence([], salt=b"") for _ in range(3)]
            tokens, logits = [1, 2, 3], []
            for position in range(40):
                for sequence in sequences:
                    assert sequence.reserve(1)
                pages = kv.batch([(sequence, 1) for sequence in sequences])
                inputs_2T = torch.tensor([tokens, [position] * 3], device="cuda")
                if with_graphs:
                    logits_RV = graphs.logits(inputs_2T, pages)
                    assert logits_RV is not None
                else:
                    tokens_T, positions_T = inputs_2T
                    logits_RV = decoder.logits(decoder.hidden(tokens_T, positions_T, pages))
                logits.append(logits_RV.clone())
                for sequence, token in zip(sequences, tokens, strict=True):
                    sequence.commit([token])
                tokens = logits_RV.argmax(-1).tolist()
            answers.append(torch.stack(logits))
            for sequence in sequences:
                sequence.release()
    assert torch.equal(*answers)


def on_cuda(decoder: Decoder) -> Decoder:
    """The same weights, on the device."""

    def moved(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.cuda()
        if isinstance(part, tuple | list):
            return type(part)(map(moved, part))
        if hasattr(part, "__dict__") and type(part).__module__.startswith("lite_llm"):
            for name, value in vars(part).items():
                object.__setattr__(part, name, moved(value))
        return part

    weights = Weights(len(decoder.config.layers))
    weights.put_embedding(decoder.weights.embedding().cuda())
    for index in range(len(decoder.config.layers)):
        weights.put(index, moved(decoder.weights.get(index)))
    weights.put_head(moved(decoder.weights.head()))
    return Decoder(decoder.config, weights)
