"""Latent attention in its absorbed form against the form in which it was published."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.models.latent_attention import LatentAttention, LatentAttentionConfig
from lite_llm.models.rope import RopeConfig, RopeTable

DIM, HEADS, RANK, PLAIN, TURNED, VALUE, TOKENS = 40, 3, 24, 12, 8, 14, 9


def config(query_rank: int | None, *, interleaved: bool, bias: bool) -> LatentAttentionConfig:
    return LatentAttentionConfig(
        hidden_size=DIM,
        heads=HEADS,
        query_rank=query_rank,
        rank=RANK,
        plain_dim=PLAIN,
        rope=RopeConfig(dim=TURNED),
        value_dim=VALUE,
        scale=0.3,
        interleaved=interleaved,
        bias=bias,
    )


def made(config: LatentAttentionConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(2)
    shapes = {name: weight.shape for name, weight in config.weights().items()}
    return {name: torch.randn(shapes[name], generator=random).to(dtype) / 5 for name in shapes}


def run(
    config: LatentAttentionConfig, tensors: dict[str, Tensor], x_TD: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """The output, ``size`` tokens at a time, and what the pages hold of them."""
    block, table = LatentAttention(config, tensors), RopeTable(config.rope)
    kv = config.kv
    keys = torch.zeros(1, kv.kv_heads, TOKENS, kv.key_dim, dtype=x_TD.dtype)
    parts = []
    for begin in range(0, TOKENS, size):
        position_T = torch.arange(begin, min(begin + size, TOKENS))
        rows = Rows(torch.zeros_like(position_T).int(), position_T.int(), torch.zeros(1, 1).int())
        pages = LayerPages(PagedKv(keys, keys[..., : kv.value_dim]), rows)
        parts.append(block(x_TD[position_T], table(position_T), pages))
    return torch.cat(parts), keys[0, 0]


def published(
    config: LatentAttentionConfig, tensors: dict[str, Tensor], x_TD: Tensor
) -> tuple[Tensor, Tensor]:
    """DeepSeek-AI (2024), section 2.1: keys and values of every head, made from the latent."""

    def product(x: Tensor, part: str) -> Tensor:
        weight, bias = (tensors.get(f"self_attn.{part}.{kind}") for kind in ("weight", "bias"))
        assert weight is not None
        return functional.linear(x, weight, bias)

    def norm(x: Tensor, part: str) -> Tensor:
        weight = tensors[f"self_attn.{part}.weight"]
        return functional.rms_norm(x, weight.shape, weight, 1e-6)

    def turned(x_THR: Tensor) -> Tensor:
        pairs = x_THR.view(*x_THR.shape[:-1], -1, 2) if config.interleaved else None
        first, second = x_THR.chunk(2, -1) if pairs is None else pairs.unbind(-1)
        angles = torch.arange(TOKENS)[:, None, None] * 10000.0 ** (
            -torch.arange(0, TURNED, 2) / TURNED
        )
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    queries = x_TD
    if config.query_rank is not None:
        queries = norm(product(x_TD, "q_a_proj"), "q_a_layernorm")
    queries = product(queries, "q_proj" if config.query_rank is None else "q_b_proj")
    plain, rotated = queries.view(TOKENS, HEADS, -1).tensor_split([PLAIN], -1)
    latent, key = product(x_TD, "kv_a_proj_with_mqa").tensor_split([RANK], -1)
    latent, key = norm(latent, "kv_a_layernorm"), turned(key[:, None])
    keys, values = product(latent, "kv_b_proj").view(TOKENS, HEADS, -1).tensor_split([PLAIN], -1)
    keys = torch.cat((keys, key.expand(-1, HEADS, -1)), -1)
    scores = torch.einsum("thc,lhc->htl", torch.cat((plain, turned(rotated)), -1), keys)
    scores = (scores * config.scale).masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -9e9)
    out = torch.einsum("htl,lhv->thv", scores.softmax(-1), values)
    return product(out.flatten(1), "o_proj"), torch.cat((latent, key[:, 0]), -1)


@pytest.mark.parametrize("query_rank", [None, 20])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_against_the_published_form(query_rank: int | None, interleaved: bool, bias: bool) -> None:
    layer = config(query_rank, interleaved=interleaved, bias=bias)
    tensors = made(layer, torch.float32)
    x_TD = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3))
    for ours, theirs in zip(
        run(layer, tensors, x_TD, TOKENS), published(layer, tensors, x_TD), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_change_no_bit(dtype: torch.dtype) -> None:
    layer = config(20, interleaved=True, bias=True)
    tensors = made(layer, dtype)
    x_TD = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3)).to(dtype)
    whole_TD, kept = run(layer, tensors, x_TD, TOKENS)
    assert whole_TD.dtype is dtype
    for size in (1, 2, 7):
        assert torch.equal(run(layer, tensors, x_TD, size)[0], whole_TD)
        assert torch.equal(run(layer, tensors, x_TD, size)[1], kept)


def test_half_precision_is_near() -> None:
    layer = config(20, interleaved=True, bias=False)
    half = made(layer, torch.bfloat16)
    x_TD = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(3)).bfloat16()
    ours_TD, _ = run(layer, half, x_TD, TOKENS)
    exact = {name: tensor.float() for name, tensor in half.items()}
    exact_TD, _ = published(layer, exact, x_TD.float())
    torch.testing.assert_close(ours_TD.float(), exact_TD, atol=0.02, rtol=0.02)


def test_what_is_remembered_of_a_token() -> None:
    kv = config(None, interleaved=True, bias=False).kv
    assert (kv.kv_heads, kv.key_dim, kv.value_dim, kv.shared) == (1, RANK + TURNED, RANK, True)
    assert kv.elements == RANK + TURNED
