"""The same work for everyone: a model made here, and prompts as token ids."""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 128
NEW_TOKENS = 64
VOCABULARY = 32_000
_TEXT_BYTES = 3_000_000


@dataclass(frozen=True)
class Work:
    """One checkpoint and how it is run."""

    directory: str
    family: str
    """``llama``, ``qwen3`` or ``mixtral``."""
    dtype: str
    """By torch's name."""
    threads: int
    most: int = 32
    """Sequences at a time in the largest batch, for those who reserve memory at the start."""

    @property
    def parameters(self) -> int:
        """Of the model."""
        return int(json.loads((Path(self.directory) / "made.json").read_text())["parameters"])

    @property
    def read_parameters(self) -> int:
        """Of them, those that a decode step of one sequence reads: no embedding, chosen experts."""
        return int(json.loads((Path(self.directory) / "made.json").read_text())["read"])


def prompts(batch: int, tokens: int = PROMPT_TOKENS, *, seed: int = 1) -> list[list[int]]:
    """Random ids, the same for every peer."""
    draw = random.Random(seed + batch)
    return [[draw.randrange(3, VOCABULARY) for _ in range(tokens)] for _ in range(batch)]


def make(directory: Path, family: str, dtype: str) -> None:
    """About 50 M parameters, random, with a tokenizer trained on the standard library's source."""
    if (directory / "made.json").exists():
        return
    import torch
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    _make_tokenizer(directory)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 512, "intermediate_size": 1408,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    if family == "mixtral":
        sizes |= {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 448}
    if family == "qwen3":
        sizes |= {"head_dim": 64}
    auto: Any = transformers.AutoModelForCausalLM
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # spread the logits, so that greedy ids do not hang on near-ties
        model.lm_head.weight.mul_(8.0)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    parameters = sum(p.numel() for p in model.parameters())
    experts_all = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    read = parameters - VOCABULARY * sizes["hidden_size"] - experts_all * 3 // 4
    made = {"parameters": parameters, "read": read}
    (directory / "made.json").write_text(json.dumps(made))


def _make_tokenizer(directory: Path) -> None:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sources(), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
            "eos_token": "</s>", "pad_token": "<pad>", "model_max_length": 4096,
        })
    )  # fmt: skip


def _sources() -> Iterator[str]:
    seen = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if seen > _TEXT_BYTES:
            return
        if "site-packages" not in path.parts and "test" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="ignore")
            seen += len(text)
            yield text
