"""Tiny random models in Hugging Face's layout: real files in every respect but their size.

The same arguments give the same bytes, in every process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

BOS, EOS = "<s>", "</s>"
CORPUS = (
    "the quick brown fox jumps over the lazy dog, and the dog thinks nothing of it",
    "a model costs nothing while nobody asks for it, and answers when somebody does",
    "the same request gives the same tokens, the same tokens give the same text",
)

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a tiny Llama; two query heads share a key head unless told otherwise."""

    vocab: int = 320
    hidden: int = 64
    ffn: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    context: int = 512
    tied: bool = False
    dtype: str = "float32"
    rope: Mapping[str, Any] = field(
        default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0}
    )


def tiny_llama(directory: Path, *, seed: int, shape: Shape | None = None, shards: int = 1) -> Path:
    """Write a Llama with random weights into ``directory``, in ``shards`` files; returns it."""
    shape = shape or Shape()
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", llama_config(shape))
    _write_json(directory / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    write_tokenizer(directory, vocab=shape.vocab)
    write_shards(directory, llama_tensors(shape, seed), shards=shards)
    return directory


def llama_config(shape: Shape) -> dict[str, Any]:
    """The fields of ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": 0,
        "dtype": shape.dtype,
        "eos_token_id": 1,
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_parameters": dict(shape.rope),
        "tie_word_embeddings": shape.tied,
        "vocab_size": shape.vocab,
    }


def llama_tensors(shape: Shape, seed: int) -> Tensors:
    """Random weights under Hugging Face's names, in the order of a forward pass."""
    random = np.random.Generator(np.random.PCG64(seed))
    queries = shape.hidden
    keys = shape.hidden // shape.heads * shape.kv_heads

    def matrix(rows: int, columns: int, gain: float = 1.0) -> NDArray[Any]:
        # Variance 1/columns keeps the scale of what passes through, so that no token dominates.
        values: NDArray[Any] = random.standard_normal((rows, columns)) * gain / np.sqrt(columns)
        return values.astype(shape.dtype)

    def norm() -> NDArray[Any]:
        return random.uniform(0.5, 1.5, shape.hidden).astype(shape.dtype)

    tensors = {"model.embed_tokens.weight": matrix(shape.vocab, shape.hidden, gain=4.0)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": norm(),
            f"{prefix}.self_attn.q_proj.weight": matrix(queries, shape.hidden, gain=2.0),
            f"{prefix}.self_attn.k_proj.weight": matrix(keys, shape.hidden, gain=2.0),
            f"{prefix}.self_attn.v_proj.weight": matrix(keys, shape.hidden, gain=2.0),
            f"{prefix}.self_attn.o_proj.weight": matrix(shape.hidden, queries, gain=2.0),
            f"{prefix}.post_attention_layernorm.weight": norm(),
            f"{prefix}.mlp.gate_proj.weight": matrix(shape.ffn, shape.hidden),
            f"{prefix}.mlp.up_proj.weight": matrix(shape.ffn, shape.hidden, gain=2.0),
            f"{prefix}.mlp.down_proj.weight": matrix(shape.hidden, shape.ffn, gain=2.0),
        }
    tensors["model.norm.weight"] = norm()
    if not shape.tied:
        tensors["lm_head.weight"] = matrix(shape.vocab, shape.hidden, gain=2.0)
    return tensors


def write_shards(directory: Path, tensors: Tensors, *, shards: int = 1) -> None:
    """``model.safetensors``, or several files and their index, tensors dealt out in turn."""
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata)
        return
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, directory / name, metadata)
        weight_map |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(directory / "model.safetensors.index.json", index)


def write_tokenizer(directory: Path, *, vocab: int) -> None:
    """Byte-level BPE of at most ``vocab`` tokens that can spell any text; 0 begins, 1 ends."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    specials = [AddedToken(text, special=True, normalized=False) for text in (BOS, EOS)]
    trainer = BpeTrainer(
        vocab_size=vocab,
        special_tokens=specials,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS},
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
