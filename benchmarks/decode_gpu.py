"""Decoding on a GPU beside its memory's bandwidth, and beside transformers' ``generate``.

    python benchmarks/decode_gpu.py [--shapes 1B,8B] [--batches 1,64] [--rounds 3] [--json FILE]
    python benchmarks/decode_gpu.py --tiny --device cpu

Random weights of a Llama's shape, bfloat16, greedy. Ours is the engine's step without its text:
pages, the captured graph, the choice of tokens, one wait for them a step. Transformers runs with
its dynamic and with its static cache, compiled as it pleases. Rounds are interleaved; rates are
medians of (time of all tokens less time of the first) a step. The share of the bandwidth counts
each weight that a step needs once, and the keys and values it reads; the bandwidth is the best of
ten large copies, counted as read and written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lite_llm.engine.graphs import decode_graphs
from lite_llm.experts import ResidentBank
from lite_llm.kvcache import CachedSequence, KvCache
from lite_llm.models import Decoder, Weights, parse_config
from lite_llm.models.weights import Head, Layer

PROMPT_TOKENS, NEW_TOKENS = 128, 129
GOALS = {("8B", 1): 0.65, ("1B", 1): 0.5}
"""Shares of the measured bandwidth."""
SHAPES: dict[str, dict[str, Any]] = {
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One line of the report; rates are tokens a second of all sequences together."""

    shape: str
    batch: int
    ours: float
    dynamic: float
    static: float
    of_bandwidth: float
    of_transformers: float
    goal: float | None


def llama(shape: str) -> LlamaConfig:
    return LlamaConfig(**SHAPES[shape], max_position_embeddings=4096)


class Ours:
    """A decoder with random weights, and sequences that it continues."""

    def __init__(self, config: LlamaConfig, device: torch.device, batch: int) -> None:
        described = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
        self._config, self._device = parse_config(described), device
        weights = Weights(len(self._config.layers))
        embedding_VD = self._random(config.vocab_size, config.hidden_size)
        weights.put_embedding(embedding_VD)
        for index, layer in enumerate(self._config.layers):
            ones_D = torch.ones(config.hidden_size, dtype=torch.bfloat16, device=device)
            attention, ffn = (
                {name: self._random(*weight.shape) for name, weight in block.weights().items()}
                for block in (layer.attention, layer.ffn)
            )
            built = layer.attention.build(attention), layer.ffn.build(ffn, ResidentBank([]))
            weights.put(index, Layer(*built, ones_D, None, ones_D, None))
            self.layer_bytes = sum(each.nbytes for each in (*attention.values(), *ffn.values()))
        tied = config.tie_word_embeddings
        output_VD = embedding_VD if tied else self._random(*embedding_VD.shape)
        weights.put_head(Head(ones_D, output_VD))
        self.decoder = Decoder(self._config, weights)
        self.step_bytes = len(self._config.layers) * self.layer_bytes + output_VD.nbytes
        kept = self.decoder.kv_layout
        self.token_bytes = sum(layer.elements for layer in kept.layers) * kept.dtype.itemsize
        room = batch * (PROMPT_TOKENS + NEW_TOKENS + 32)
        self.kv = KvCache(kept, device_bytes=room * self.token_bytes, device=device)
        self._graphs = decode_graphs(self.decoder, device)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device, dtype=torch.bfloat16) * 0.02

    def generate(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """Greedy, no prefix found again."""
        sequences = [self.kv.sequence([], salt=b"") for _ in prompts]
        for sequence, prompt in zip(sequences, prompts, strict=True):
            assert sequence.reserve(len(prompt) + new), "the cache was made large enough"
        said = [[self._first(each)] for each in zip(sequences, prompts, strict=True)]
        for _ in range(new - 1):
            tokens = [answer[-1] for answer in said]
            inputs = [tokens, [sequence.num_computed for sequence in sequences]]
            inputs_2R = torch.tensor(inputs, device=self._device)
            pages = self.kv.batch([(sequence, 1) for sequence in sequences])
            logits_RV = None if self._graphs is None else self._graphs.logits(inputs_2R, pages)
            if logits_RV is None:
                tokens_R, positions_R = inputs_2R
                logits_RV = self.decoder.logits(self.decoder.hidden(tokens_R, positions_R, pages))
            chosen = logits_RV.argmax(-1).tolist()
            for sequence, answer, token in zip(sequences, said, chosen, strict=True):
                sequence.commit([answer[-1]])
                answer.append(token)
        for sequence in sequences:
            sequence.release()
        return said

    def _first(self, part: tuple[CachedSequence, list[int]]) -> int:
        sequence, prompt = part
        tokens_T, positions_T = torch.tensor([prompt, range(len(prompt))], device=self._device)
        pages = self.kv.batch([(sequence, len(prompt))])
        hidden_TD = self.decoder.hidden(tokens_T, positions_T, pages)
        sequence.commit(prompt)
        return int(self.decoder.logits(hidden_TD[-1:]).argmax())


def peer(config: LlamaConfig, device: torch.device) -> Callable[[list[list[int]], int, str], Any]:
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def generate(prompts: list[list[int]], new: int, cache: str) -> Any:
        ids = torch.tensor(prompts, device=device)
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            cache_implementation=cache,
        )

    return generate


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - begin


def bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written."""
    source = torch.empty((2 << 30) if device.type == "cuda" else 64 << 20, dtype=torch.uint8)
    source = source.to(device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(10))


def measure(shape: str, batch: int, rounds: int, device: torch.device, new: int) -> Result:
    config = llama(shape)
    ours, theirs = Ours(config, device, batch), peer(config, device)
    draw = torch.Generator().manual_seed(0)
    size = (batch, PROMPT_TOKENS)
    prompts = torch.randint(1, config.vocab_size, size, generator=draw).tolist()
    calls: dict[str, Callable[[int], object]] = {
        "ours": lambda count: ours.generate(prompts, count),
        "dynamic": lambda count: theirs(prompts, count, "dynamic"),
        "static": lambda count: theirs(prompts, count, "static"),
    }
    steps: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 1):  # the first one compiles and captures
        for name, call in calls.items():
            whole = seconds(lambda call=call: call(new), device)  # type: ignore[misc]  # its default
            first = seconds(lambda call=call: call(1), device)  # type: ignore[misc]  # its default
            if round_number:
                steps[name].append(max(1e-9, whole - first) / (new - 1))
    ours.kv.close()
    step = {name: statistics.median(times) for name, times in steps.items()}
    read = ours.step_bytes + batch * (PROMPT_TOKENS + new // 2) * ours.token_bytes
    rate = {name: batch / each for name, each in step.items()}
    return Result(
        shape, batch, rate["ours"], rate["dynamic"], rate["static"],
        of_bandwidth=read / step["ours"] / bandwidth(device),
        of_transformers=rate["ours"] / max(rate["dynamic"], rate["static"]),
        goal=GOALS.get((shape, batch)),
    )  # fmt: skip


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="1B,8B")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="checks this program, measures nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here, so there is nothing to measure", file=sys.stderr)
        return
    device = torch.device(given.device)
    shapes, batches, new = given.shapes.split(","), given.batches, NEW_TOKENS
    if given.tiny:
        shapes, batches, new = ["tiny"], "1,3", 5
    print("| shape | batch | ours | dynamic | static | of bandwidth | of transformers | goal |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for shape in shapes:
        for batch in map(int, batches.split(",")):
            line = measure(shape, batch, given.rounds, device, new)
            results.append(line)
            print(
                f"| {shape} | {batch} | {line.ours:.0f} | {line.dynamic:.0f} | {line.static:.0f} |"
                f" {line.of_bandwidth:.2f} | {line.of_transformers:.2f} | {line.goal or ''} |",
                flush=True,
            )
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if given.json:
        given.json.write_text(json.dumps([asdict(line) for line in results]))


if __name__ == "__main__":
    main()
