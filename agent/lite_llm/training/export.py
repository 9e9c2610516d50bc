"""Trained weights as a checkpoint that is served: named, tiered and signed.

Legend: E experts, D hidden, F inner size of an expert.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from lite_llm.checkpoint import ConvertOptions, TierRule, TierRules, convert
from lite_llm.training.hser_model import Parameters
from lite_llm.training.recipe import Shape, tier_names
from lite_llm.training.vocabulary import write_tokenizer
from lite_llm.trust import PrivateKey

DEMO_KEY: Final = PrivateKey.load_raw(hashlib.sha256(b"Lite LLM, the demo's key").digest())
"""Known to everybody: shows what a signature does, and proves nothing."""


def named_tensors(shape: Shape, parameters: Parameters) -> dict[str, Tensor]:
    """Under the names of docs/hser.md; contiguous copies."""
    keys = shape.kv_heads * shape.head_dim
    scores = [tier.num_scores for tier in shape.gate.tiers]
    tensors = {
        "model.embed_tokens.weight": parameters["embedding"],
        "model.norm.weight": parameters["norm"],
        "lm_head.weight": parameters["head"],
    }
    for layer in range(shape.layers):
        prefix, own = f"model.layers.{layer}", f"{layer}."
        tensors |= {
            f"{prefix}.input_layernorm.weight": parameters[own + "norm_attention"],
            f"{prefix}.post_attention_layernorm.weight": parameters[own + "norm_experts"],
            f"{prefix}.self_attn.o_proj.weight": parameters[own + "output"],
        }
        qkv = torch.split(parameters[own + "qkv"], [shape.hidden, keys, keys])
        for part, weight in zip("qkv", qkv, strict=True):
            tensors[f"{prefix}.self_attn.{part}_proj.weight"] = weight
        for tier, weight in enumerate(torch.split(parameters[own + "router"], scores)):
            tensors[f"{prefix}.mlp.tiers.{tier}.router.weight"] = weight
        for number in range(shape.experts):
            gate_FD, up_FD = parameters[own + "inner"][number].chunk(2)
            expert = f"{prefix}.mlp.experts.{number}"
            tensors |= {
                f"{expert}.gate_proj.weight": gate_FD,
                f"{expert}.up_proj.weight": up_FD,
                f"{expert}.down_proj.weight": parameters[own + "down"][number],
            }
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def write_source(
    directory: Path, shape: Shape, parameters: Parameters, tokenizer: Tokenizer
) -> None:
    """In Hugging Face's layout."""
    directory.mkdir(parents=True, exist_ok=True)
    config = json.dumps(shape.architecture(), indent=2, sort_keys=True)
    (directory / "config.json").write_text(config + "\n")
    save_file(named_tensors(shape, parameters), directory / "model.safetensors")
    write_tokenizer(directory, tokenizer)


def tier_rules(shape: Shape) -> TierRules:
    """Experts by their numbers, each tier where its name says."""
    tiers = shape.gate.tiers
    borders = pairwise(accumulate((tier.experts for tier in tiers), initial=0))
    rules = [
        TierRule(
            name=name,
            placement=name,
            experts=f"{first}-{end - 1}",
            groups=tier.groups,
            top_k_groups=tier.top_k_groups,
            top_k_experts=tier.top_k_experts,
        )
        for name, tier, (first, end) in zip(tier_names(tiers), tiers, borders, strict=True)
    ]
    return TierRules(rules)


def write_checkpoint(
    target: Path,
    shape: Shape,
    parameters: Parameters,
    tokenizer: Tokenizer,
    *,
    name: str,
    version: str,
    key: PrivateKey = DEMO_KEY,
) -> None:
    """Replace ``target`` by the checkpoint, once all of it is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        source, made = Path(scratch) / "source", Path(scratch) / "made"
        write_source(source, shape, parameters, tokenizer)
        options = ConvertOptions(tiers=tier_rules(shape), model=name, version=version, key=key)
        for _ in convert(source, made, options):
            pass
        for note in made.glob(".writer*"):  # of interest to a conversion that goes on
            note.unlink()
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
