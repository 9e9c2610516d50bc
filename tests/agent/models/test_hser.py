"""HSER against a plain implementation, and growing by a tier without moving a bit."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from lite_llm.checkpoint import ConvertOptions, TierRule, TierRules, convert, open_checkpoint
from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.experts import TierMasks, TooFewExperts
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.models import Decoder, load_decoder, parse_config
from lite_llm.models.moe import check_masks, record_activity

DIM, HEADS, KV_HEADS, HEAD_DIM, INNER, LAYERS, VOCAB = 32, 4, 2, 8, 20, 3, 90
NEAR = {"groups": 2, "experts_per_group": 3, "top_k_groups": 1, "top_k_experts": 2}
FAR = {"groups": 3, "experts_per_group": 2, "top_k_groups": 2, "top_k_experts": 1}
NEW = {"groups": 1, "experts_per_group": 4, "top_k_groups": 1, "top_k_experts": 3}
TOKENS_T = torch.randint(0, VOCAB, (24,), generator=torch.Generator().manual_seed(5))
Tensors = dict[str, Tensor]


def fields(*tiers: dict[str, int], **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LiteLlmHserForCausalLM"],
        "model_type": "lite_llm_hser",
        "dtype": "float32",
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": 40,
        "moe_intermediate_size": INNER,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "first_k_dense_replace": 1,
        "top_k_tiers": 2,
        "tiers": list(tiers),
        **changes,
    }


def num_experts(tier: dict[str, int]) -> int:
    return tier["groups"] * tier["experts_per_group"]


def made(*tiers: dict[str, int]) -> Tensors:
    """Every tensor from a seed of its own name, so that a tier more changes no other."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, DIM),
        "model.norm.weight": (DIM,),
        "lm_head.weight": (VOCAB, DIM),
    }
    for layer in range(LAYERS):
        attention, ffn = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (DIM,)
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            shapes[f"{attention}.{part}_proj.weight"] = (heads * HEAD_DIM, DIM)
        shapes[f"{attention}.o_proj.weight"] = (DIM, HEADS * HEAD_DIM)
        blocks = {ffn: 40} if layer == 0 else {}
        if layer:
            for number, tier in enumerate(tiers):
                rows = 1 + tier["groups"] + num_experts(tier)
                shapes[f"{ffn}.tiers.{number}.router.weight"] = (rows, DIM)
            count = sum(map(num_experts, tiers))
            blocks = {f"{ffn}.experts.{number}": INNER for number in range(count)}
        for block, inner in blocks.items():
            shapes[f"{block}.gate_proj.weight"] = shapes[f"{block}.up_proj.weight"] = (inner, DIM)
            shapes[f"{block}.down_proj.weight"] = (DIM, inner)
    tensors = {}
    for name, shape in shapes.items():
        random = torch.Generator().manual_seed(crc32(name.encode()))
        tensors[name] = torch.randn(shape, generator=random) * 0.3
    return tensors


def load(directory: Path, config: dict[str, Any], tensors: Tensors) -> Decoder:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors")
    with open_checkpoint(directory) as reader:
        *_, decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
    assert isinstance(decoder, Decoder)
    return decoder


def run(decoder: Decoder, allowed_TE: Tensor | None = None, size: int = len(TOKENS_T)) -> Tensor:
    """Logits of the prompt, ``size`` tokens at a time; ``allowed_TE`` in all but layer 0."""
    layers = []
    for layer in decoder.kv_layout.layers:
        shape = (1, layer.kv_heads, len(TOKENS_T), layer.key_dim)
        layers.append(PagedKv(torch.zeros(shape), torch.zeros(shape)))
    parts = []
    for begin in range(0, len(TOKENS_T), size):
        position_T = torch.arange(begin, min(begin + size, len(TOKENS_T)))
        rows = Rows(torch.zeros_like(position_T).int(), position_T.int(), torch.zeros(1, 1).int())
        masks = None
        if allowed_TE is not None:
            masks = [None, *[allowed_TE[position_T]] * (LAYERS - 1)]
        pages = [LayerPages(layer, rows) for layer in layers]
        hidden_TD = decoder.hidden(TOKENS_T[position_T], position_T, pages, expert_masks=masks)
        parts.append(decoder.logits(hidden_TD))
    return torch.cat(parts)


def reference(config: dict[str, Any], tensors: Tensors, allowed: list[int]) -> Tensor:
    """The architecture as docs/hser.md has it, one token and one expert after the other."""

    def weight(name: str) -> Tensor:
        return tensors[f"{name}.weight"]

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (DIM,), weight(name), config["rms_norm_eps"])

    def ffn(x: Tensor, name: str) -> Tensor:
        gate, up = weight(f"{name}.gate_proj") @ x, weight(f"{name}.up_proj") @ x
        return weight(f"{name}.down_proj") @ (functional.silu(gate) * up)

    def turned(x: Tensor) -> Tensor:
        frequencies = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.arange(len(x))[:, None, None] * frequencies
        first, second = x.chunk(2, dim=-1)
        turned = (
            first * angles.cos() - second * angles.sin(),
            second * angles.cos() + first * angles.sin(),
        )
        return torch.cat(turned, dim=-1)

    def attention(x: Tensor, name: str) -> Tensor:
        query, key, value = (
            (x @ weight(f"{name}.{part}_proj").T).view(len(x), -1, HEAD_DIM) for part in "qkv"
        )
        query, key = turned(query), turned(key)
        key, value = (part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (key, value))
        scores = torch.einsum("thc,lhc->htl", query, key) * HEAD_DIM**-0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
        out = torch.einsum("htl,lhc->thc", scores.softmax(-1), value).flatten(1)
        return out @ weight(f"{name}.o_proj").T

    def tiered(x: Tensor, name: str) -> Tensor:
        tiers = config["tiers"]
        scores = [weight(f"{name}.tiers.{number}.router") @ x for number in range(len(tiers))]
        shares = torch.stack([scores[number][0] for number in allowed]).softmax(0)
        weights: dict[int, Tensor] = {}
        for place in shares.topk(min(config["top_k_tiers"], len(allowed))).indices.tolist():
            tier, own = tiers[allowed[place]], scores[allowed[place]]
            first_tier = sum(map(num_experts, tiers[: allowed[place]]))
            groups = own[1 : 1 + tier["groups"]].softmax(0)
            experts = own[1 + tier["groups"] :].view(tier["groups"], -1).softmax(1)
            for group in groups.topk(tier["top_k_groups"]).indices.tolist():
                for expert in experts[group].topk(tier["top_k_experts"]).indices.tolist():
                    number = first_tier + group * tier["experts_per_group"] + expert
                    weights[number] = shares[place] * groups[group] * experts[group, expert]
        if config.get("norm_topk_prob"):
            total = sum(weights.values())
            weights = {number: share / total for number, share in weights.items()}
        parts = [share * ffn(x, f"{name}.experts.{number}") for number, share in weights.items()]
        return torch.stack(parts).sum(0)

    x = weight("model.embed_tokens")[TOKENS_T]
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        x = x + attention(norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
        block = tiered if layer else ffn
        normed = norm(x, f"{name}.post_attention_layernorm")
        x = x + torch.stack([block(row, f"{name}.mlp") for row in normed])
    return norm(x, "model.norm") @ weight("lm_head").T


def only(*tiers: dict[str, int], of: tuple[dict[str, int], ...]) -> Tensor:
    """The mask of a TierSet, for every row."""
    parts = [torch.full((num_experts(tier),), tier in tiers) for tier in of]
    return torch.cat(parts).expand(len(TOKENS_T), -1)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("top_k_tiers", [1, 2])
def test_against_a_plain_implementation(tmp_path: Path, top_k_tiers: int, normalized: bool) -> None:
    tiers = (NEAR, FAR, NEW)
    config = fields(*tiers, top_k_tiers=top_k_tiers, norm_topk_prob=normalized)
    tensors = made(*tiers)
    decoder = load(tmp_path, config, tensors)
    torch.testing.assert_close(
        run(decoder), reference(config, tensors, [0, 1, 2]), atol=1e-4, rtol=0.0
    )
    for allowed in ([0], [1, 2]):
        mask_TE = only(*(tiers[number] for number in allowed), of=tiers)
        ours_TV, theirs_TV = run(decoder, mask_TE), reference(config, tensors, allowed)
        torch.testing.assert_close(ours_TV, theirs_TV, atol=1e-4, rtol=0.0)


def test_a_new_tier_leaves_answers_under_the_old_tier_set_alone(tmp_path: Path) -> None:
    before = load(tmp_path / "before", fields(NEAR, FAR), made(NEAR, FAR))
    after = load(tmp_path / "after", fields(NEAR, FAR, NEW), made(NEAR, FAR, NEW))
    old_TE = only(NEAR, FAR, of=(NEAR, FAR, NEW))
    assert torch.equal(run(after, old_TE), run(before))
    assert not torch.equal(run(after), run(before))
    # Others in the batch may use what these may not.
    mixed_TE = old_TE.clone()
    mixed_TE[-6:] = True
    assert torch.equal(run(after, mixed_TE)[:-6], run(before)[:-6])
    only_near_TE = only(NEAR, of=(NEAR, FAR, NEW))
    assert torch.equal(run(after, only_near_TE), run(before, only(NEAR, of=(NEAR, FAR))))


def test_converted_with_its_tiers_it_is_the_same_model(tmp_path: Path) -> None:
    before = load(tmp_path / "source", fields(NEAR, FAR), made(NEAR, FAR))
    near = TierRule(name="near", experts="0-5", groups=2, top_k_experts=2)
    far = TierRule(name="far", experts="rest", groups=3, top_k_groups=2)
    options = ConvertOptions(tiers=TierRules([near, far]))
    for _ in convert(tmp_path / "source", tmp_path / "converted", options):
        pass
    with open_checkpoint(tmp_path / "converted") as reader:
        *_, after = load_decoder(reader, parse_config(reader.manifest.architecture))
        masks = TierMasks(reader.manifest.experts, LAYERS).of([{1}] * len(TOKENS_T))
    assert isinstance(after, Decoder)
    assert torch.equal(run(after), run(before))
    assert masks is not None
    assert masks[1] is not None
    assert torch.equal(run(after, masks[1]), run(before, only(FAR, of=(NEAR, FAR))))


def test_chunks_change_no_bit(tmp_path: Path) -> None:
    decoder = load(tmp_path, fields(NEAR, FAR), made(NEAR, FAR))
    whole_TV = run(decoder)
    for size in (1, 5, 23):
        assert torch.equal(run(decoder, size=size), whole_TV)


def test_activity_is_that_of_the_tier_set(tmp_path: Path) -> None:
    decoder = load(tmp_path, fields(NEAR, FAR), made(NEAR, FAR))
    activity = record_activity(decoder.weights.get(layer).ffn for layer in range(LAYERS))
    run(decoder, only(FAR, of=(NEAR, FAR)))
    assert activity.counts.keys() == {1, 2}
    for counts in activity.counts.values():
        assert sum(counts[:6]) == 0
        assert sum(counts[6:]) == 2 * len(TOKENS_T)


def test_a_tier_set_without_a_tier_is_refused(tmp_path: Path) -> None:
    decoder = load(tmp_path, fields(NEAR, top_k_tiers=1), made(NEAR))
    with pytest.raises(TooFewExperts, match="choose more tiers"):
        run(decoder, only(of=(NEAR,)))
    with pytest.raises(TooFewExperts, match="layer 1 needs a tier"):
        check_masks(decoder.config, [None, *[only(of=(NEAR,))[:1]] * 2])
    check_masks(decoder.config, [None, *[only(NEAR, of=(NEAR,))[:1]] * 2])


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"tiers": []}, Corrupt, "tiers"),
        ({"tiers": [7]}, Corrupt, "tiers"),
        ({"tiers": [{**NEAR, "top_k_groups": 3}]}, Corrupt, "top_k_groups"),
        ({"tiers": [{**NEAR, "top_k_experts": 4}]}, Corrupt, "top_k_experts"),
        ({"tiers": [{**NEAR, "groups": 1 << 40}]}, Corrupt, "tiers"),
        ({"tiers": [{**NEAR, "temperature": 2}]}, Unsupported, "temperature"),
        ({"top_k_tiers": 2}, Corrupt, "top_k_tiers"),
        ({"attention_bias": True}, Unsupported, "attention_bias"),
    ],
)
def test_fields_are_refused_by_name(
    changes: dict[str, Any], error: type[LiteLLMError], named: str
) -> None:
    with pytest.raises(error) as refusal:
        parse_config({**fields(NEAR, top_k_tiers=1), **changes})
    assert refusal.value.where == named
