"""The oracle: transformers' model and ours over one checkpoint, and a paged cache to run ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.agent.models.tiered import EXPERTS, SIZES
from torch import Tensor
from transformers import AutoConfig

from lite_llm.checkpoint import convert, open_checkpoint
from lite_llm.kernels import LayerPages, PagedKv, Rows, set_threads
from lite_llm.kvcache import KvLayout
from lite_llm.models import Decoder, load_decoder, parse_config
from lite_llm.testing.checkpoints import write_tokenizer

PAGE_TOKENS = 8
VOCAB = 128


class Pages:
    """A cache whose pages lie anywhere, full of NaN where nothing was stored."""

    def __init__(self, layout: KvLayout, *, sequences: int, tokens: int) -> None:
        each = -(-tokens // PAGE_TOKENS)
        order = torch.randperm(sequences * each, generator=torch.Generator().manual_seed(7))
        self._pages_SN = order.view(sequences, each).to(torch.int32)
        self._kv = []
        for layer in layout.layers:
            shape = (sequences * each, layer.kv_heads, PAGE_TOKENS)
            keys = torch.full((*shape, layer.key_dim), torch.nan, dtype=layout.dtype)
            values = keys[..., : layer.value_dim]
            if not layer.shared:
                values = torch.full((*shape, layer.value_dim), torch.nan, dtype=layout.dtype)
            self._kv.append(PagedKv(keys, values))

    def step(self, rows: Sequence[tuple[int, int]]) -> tuple[LayerPages, ...]:
        """For rows of (sequence, position)."""
        sequence_T, position_T = torch.tensor(rows, dtype=torch.int32).T.contiguous()
        placed = Rows(sequence_T, position_T, self._pages_SN)
        return tuple(LayerPages(kv, placed) for kv in self._kv)


def run(
    decoder: Decoder, sequences: Sequence[Sequence[int]], chunks: Sequence[int] = (1 << 20,)
) -> list[Tensor]:
    """Hidden states of each sequence, all in one batch; each in chunks of its own size."""
    longest = max(map(len, sequences))
    pages = Pages(decoder.kv_layout, sequences=len(sequences), tokens=longest)
    done = [0] * len(sequences)
    parts: list[list[Tensor]] = [[] for _ in sequences]
    while any(done[number] < len(tokens) for number, tokens in enumerate(sequences)):
        rows, counts = [], []
        for number, tokens in enumerate(sequences):
            end = min(len(tokens), done[number] + chunks[number % len(chunks)])
            rows += [(number, position) for position in range(done[number], end)]
            counts.append(end - done[number])
            done[number] = end
        tokens_T = torch.tensor([sequences[number][position] for number, position in rows])
        positions_T = torch.tensor([position for _, position in rows])
        hidden_TD = decoder.hidden(tokens_T, positions_T, pages.step(rows))
        for number, part in enumerate(torch.split(hidden_TD, counts)):
            parts[number].append(part)
    return [torch.cat(part) for part in parts]


@dataclass
class Oracle:
    """One random checkpoint, run by both."""

    directory: Path
    reference: Any
    decoder: Decoder

    def check(self, *, prompt_tokens: int = 24, new_tokens: int = 64) -> None:
        """Logits, greedy tokens, and the same bits in any company."""
        random = torch.Generator().manual_seed(11)
        prompt = torch.randint(VOCAB, (prompt_tokens,), generator=random).tolist()
        answer = self._greedy(prompt, new_tokens)
        ours_TV = self.decoder.logits(run(self.decoder, [answer])[0])
        theirs_TV = self.expected(answer)
        assert (ours_TV - theirs_TV).abs().max() < 1e-4
        # Greedy decoding agrees if each next token does, given those before it.
        assert theirs_TV[prompt_tokens - 1 : -1].argmax(-1).tolist() == answer[prompt_tokens:]
        self.check_invariance(answer[:40])

    def expected(self, tokens: Sequence[int]) -> Tensor:
        """The reference's logits of a fresh prompt: ``[T, V]``."""
        with torch.no_grad():
            logits: Tensor = self.reference(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        return logits.float()

    def check_invariance(self, tokens: Sequence[int]) -> None:
        """Alone and at once, in chunks, and between others: hidden states and logits agree."""
        alone_TD = run(self.decoder, [tokens])[0]
        alone_TV = self.decoder.logits(alone_TD)
        for chunk in (1, 7):
            assert torch.equal(run(self.decoder, [tokens], [chunk])[0], alone_TD), chunk
        others = [tokens[5:30], tokens[::-1], tokens[1:20]]
        batch = run(self.decoder, [others[0], tokens, *others[1:]], [3, 16, 1, 64])
        assert torch.equal(batch[1], alone_TD)
        assert torch.equal(
            self.decoder.logits(torch.cat(batch))[len(others[0]) :][: len(tokens)], alone_TV
        )
        assert torch.equal(self.decoder.logits(alone_TD[-1:]), alone_TV[-1:])

    def _greedy(self, prompt: list[int], new_tokens: int) -> list[int]:
        tokens = list(prompt)
        pages = Pages(self.decoder.kv_layout, sequences=1, tokens=len(prompt) + new_tokens)
        fresh = prompt
        for _ in range(new_tokens):
            start = len(tokens) - len(fresh)
            positions = range(start, len(tokens))
            step = pages.step([(0, position) for position in positions])
            hidden_TD = self.decoder.hidden(torch.tensor(fresh), torch.tensor([*positions]), step)
            fresh = [int(self.decoder.logits(hidden_TD[-1:]).argmax())]
            tokens += fresh
        return tokens


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny products wait longer for a second thread than they take
    set_threads(1)


@pytest.fixture(scope="session", name="run")
def run_fixture() -> Callable[..., list[Tensor]]:
    return run


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Writes transformers' random model of a configuration; gives its directory and the model."""

    def save(config: Any, *, seed: int = 3, name: str = "model") -> tuple[Path, Any]:
        from transformers import AutoModelForCausalLM

        auto: Any = AutoModelForCausalLM  # which has no types
        model = auto.from_config(config, attn_implementation="eager").eval()
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                # Nothing stays at the zero or one that would hide a part that is left out.
                noise = torch.randn(parameter.shape, generator=random).to(parameter.dtype)
                if parameter.dim() == 1:
                    parameter.add_(noise, alpha=0.2)
                else:
                    parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return save


@pytest.fixture
def oracle(save_model: Callable[..., tuple[Path, Any]]) -> Callable[..., Oracle]:
    """Both models of a configuration; ``changes`` are made to the saved ``config.json``."""

    def make(
        config: Any,
        *,
        context_tokens: int | None = None,
        changes: dict[str, Any] | None = None,
    ) -> Oracle:
        directory, reference = save_model(config)
        fields = json.loads((directory / "config.json").read_text()) | (changes or {})
        with open_checkpoint(directory) as reader:
            ours = parse_config(fields, context_tokens=context_tokens)
            *_, decoder = load_decoder(reader, ours)
        assert isinstance(decoder, Decoder)
        return Oracle(directory, reference, decoder)

    return make


@pytest.fixture
def hugging_face(save_model: Callable[..., tuple[Path, Any]]) -> Path:
    sizes = {**SIZES, "num_experts": EXPERTS, "moe_intermediate_size": 20, "dtype": "bfloat16"}
    directory, _ = save_model(AutoConfig.for_model("qwen3_moe", **sizes))
    write_tokenizer(directory, vocab=128)
    return directory


@pytest.fixture
def checkpoint(hugging_face: Path, tmp_path: Path) -> Path:
    *_, _ = convert(hugging_face, tmp_path / "converted")
    return tmp_path / "converted"
