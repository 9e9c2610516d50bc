"""A whole model by Triton's kernels in their interpreter, beside the CPU's kernels."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lite_llm.engine import Model, load_model
from lite_llm.kvcache import KvCache
from lite_llm.models import Decoder
from lite_llm.testing.checkpoints import Shape, tiny_llama

FILES = ("activation", "attention", "linear", "norm", "paging", "probability", "rotation")
TOKENS = [5, 80, 33, 7, 12, 256, 99]


def logits_of(decoder: Decoder, *chunks: int) -> Tensor:
    """Of the last token of each chunk."""
    told, begin = [], 0
    with KvCache(decoder.kv_layout, device_bytes=1 << 20, page_tokens=4) as kv:
        sequence = kv.sequence([], salt=b"")
        for count in chunks:
            assert sequence.reserve(count)
            tokens = TOKENS[begin : begin + count]
            positions_T = torch.arange(begin, begin + count)
            pages = kv.batch([(sequence, count)])
            hidden_TD = decoder.hidden(torch.tensor(tokens), positions_T, pages)
            told.append(decoder.logits(hidden_TD[-1:]))
            sequence.commit(tokens)
            begin += count
        sequence.release()
    return torch.cat(told)


@pytest.mark.filterwarnings("ignore:(invalid|overflow|divide|All-NaN).*:RuntimeWarning")
def test_it_computes_the_same_model_in_any_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Shape(layers=1, hidden=32, ffn=48, heads=2, kv_heads=1)
    loading = load_model(tiny_llama(tmp_path, seed=3, shape=shape))
    (model,) = (each for each in loading if isinstance(each, Model))
    expected = logits_of(model.decoder, 5, 1, 1)
    for name in FILES:
        monkeypatch.setattr(import_module(f"lite_llm.kernels.{name}"), "on_gpu", lambda *_: True)
    chunked = logits_of(model.decoder, 5, 1, 1)
    assert torch.allclose(chunked, expected, atol=1e-4)
    assert not torch.equal(chunked, expected), "they would hardly agree to the bit"
    assert torch.equal(logits_of(model.decoder, 7), chunked[-1:])
