"""HSER's forward pass with gradients, in plain torch: what ``models.hser`` serves.

Legend: B sequences, L tokens of one, T = B * L rows, D hidden, H heads, G key heads, C head size,
V vocabulary, I tiers, E experts of a layer, F inner size of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.models.rope import RopeConfig, frequencies
from lite_llm.training.gates import choose
from lite_llm.training.grouped import run_experts
from lite_llm.training.recipe import RMS_EPSILON, ROPE_THETA, Shape

Parameters = dict[str, Tensor]
"""By name: the embedding, the head, the last norm, and ``layer.NAME`` of each layer."""


def new_parameters(shape: Shape, seed: int) -> Parameters:
    """Random ones, the same for the same seed; float32, with gradients.

    What writes into the residual stream begins at zero and embeddings are large beside it, so that
    a token's own identity is what the first steps learn from.
    """
    random = torch.Generator().manual_seed(seed)
    hidden, inner, experts = shape.hidden, shape.inner, shape.experts
    keys = shape.kv_heads * shape.head_dim
    scores = sum(tier.num_scores for tier in shape.gate.tiers)
    made: Parameters = {}

    def matrix(name: str, *sizes: int, deviation: float) -> None:
        made[name] = torch.randn(sizes, generator=random) * deviation

    matrix("embedding", shape.vocab, hidden, deviation=0.5)
    matrix("head", shape.vocab, hidden, deviation=0.02)
    for layer in range(shape.layers):
        matrix(f"{layer}.qkv", hidden + 2 * keys, hidden, deviation=hidden**-0.5)
        matrix(f"{layer}.router", scores, hidden, deviation=0.02)
        matrix(f"{layer}.inner", experts, 2 * inner, hidden, deviation=hidden**-0.5)
        made[f"{layer}.output"] = torch.zeros(hidden, hidden)
        made[f"{layer}.down"] = torch.zeros(experts, hidden, inner)
        made[f"{layer}.norm_attention"] = torch.ones(hidden)
        made[f"{layer}.norm_experts"] = torch.ones(hidden)
    made["norm"] = torch.ones(hidden)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


@dataclass(frozen=True)
class Output:
    """Of one forward pass."""

    logits_TV: Tensor
    balance: Tensor
    """Mean over the layers of the gates' unevenness."""


def forward(shape: Shape, parameters: Parameters, tokens_BL: Tensor, allowed_BI: Tensor) -> Output:
    """Each sequence under its own TierSet: ``allowed_BI``, bool, says which tiers it may use."""
    length = tokens_BL.shape[1]
    cosines_LC, sines_LC = _rotation(shape, length)
    allowed_TI = allowed_BI.repeat_interleave(length, 0)
    x_TD = functional.embedding(tokens_BL.flatten(), parameters["embedding"])
    balance = x_TD.new_zeros(())

    def turned(x_BHLC: Tensor) -> Tensor:
        first, second = x_BHLC.chunk(2, dim=-1)
        return x_BHLC * cosines_LC + torch.cat((-second, first), dim=-1) * sines_LC

    def norm(x_TD: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x_TD, (shape.hidden,), parameters[name], RMS_EPSILON)

    def attention(x_TD: Tensor, layer: int) -> Tensor:
        qkv_TX = x_TD @ parameters[f"{layer}.qkv"].T
        qkv_BXLC = qkv_TX.view(len(tokens_BL), length, -1, shape.head_dim).transpose(1, 2)
        sizes = [shape.heads, shape.kv_heads, shape.kv_heads]
        q_BHLC, k_BGLC, v_BGLC = torch.split(qkv_BXLC, sizes, dim=1)
        shared = shape.heads // shape.kv_heads
        k_BHLC = turned(k_BGLC).repeat_interleave(shared, 1)
        v_BHLC = v_BGLC.repeat_interleave(shared, 1)
        out_BHLC = functional.scaled_dot_product_attention(
            turned(q_BHLC), k_BHLC, v_BHLC, is_causal=True
        )
        return out_BHLC.transpose(1, 2).reshape(x_TD.shape) @ parameters[f"{layer}.output"].T

    for layer in range(shape.layers):
        x_TD = x_TD + attention(norm(x_TD, f"{layer}.norm_attention"), layer)
        normed_TD = norm(x_TD, f"{layer}.norm_experts")
        gated = choose(normed_TD @ parameters[f"{layer}.router"].T, shape.gate, allowed_TI)
        balance = balance + gated.balance / shape.layers
        x_TD = x_TD + run_experts(
            normed_TD,
            gated.experts_TK,
            gated.weights_TK,
            parameters[f"{layer}.inner"],
            parameters[f"{layer}.down"],
        )
    return Output(norm(x_TD, "norm") @ parameters["head"].T, balance)


def _rotation(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    frequencies_P = frequencies(RopeConfig(dim=shape.head_dim, theta=ROPE_THETA))
    angles_LP = torch.arange(length, dtype=torch.float32)[:, None] * frequencies_P
    angles_LC = torch.cat((angles_LP, angles_LP), dim=-1)
    return angles_LC.cos(), angles_LC.sin()
