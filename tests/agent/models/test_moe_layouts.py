"""One model, stored in every way there is, has the same bits; masks leave the allowed experts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GptOssConfig, OlmoeConfig, PreTrainedConfig

from lite_llm.checkpoint import ConvertOptions, TierRule, TierRules, convert, open_checkpoint
from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.experts import ScoresNotFinite, TierMasks, TooFewExperts, mxfp4
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.models import Decoder, load_decoder, parse_config, take_inventory

LAYERS, EXPERTS = 2, 6
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "dtype": "float32",
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}
OLMOE = OlmoeConfig(**SIZES, num_experts=EXPERTS)
GPT_OSS = GptOssConfig(**SIZES, num_local_experts=EXPERTS, num_key_value_heads=1, head_dim=32)
TOKENS_T = torch.arange(20) * 7 % 64
Save = Callable[[PreTrainedConfig], tuple[Path, Any]]


def load(directory: Path) -> Decoder:
    with open_checkpoint(directory) as reader:
        *_, decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
    assert isinstance(decoder, Decoder)
    return decoder


def run(decoder: Decoder, masks: list[Tensor | None] | None = None) -> Tensor:
    """Logits of the prompt."""
    position_T = torch.arange(len(TOKENS_T), dtype=torch.int32)
    rows = Rows(torch.zeros_like(position_T), position_T, torch.zeros(1, 1, dtype=torch.int32))
    pages = []
    for layer in decoder.kv_layout.layers:
        keys, values = (torch.zeros(1, layer.kv_heads, 20, layer.key_dim) for _ in range(2))
        pages.append(LayerPages(PagedKv(keys, values), rows))
    return decoder.logits(decoder.hidden(TOKENS_T, position_T.long(), pages, expert_masks=masks))


def test_routers_get_the_seed_of_the_checkpoint(save_model: Save) -> None:
    directory, _ = save_model(OLMOE)
    with open_checkpoint(directory) as reader:
        manifest = replace(reader.manifest, routing_seed=5)
        found = take_inventory(manifest, parse_config(manifest.architecture))
    assert [getattr(layer.ffn, "routing_seed", None) for layer in found.config.layers] == [5, 5]


def test_fused_experts_are_single_ones(save_model: Save, tmp_path: Path) -> None:
    directory, _ = save_model(OLMOE)
    tensors = load_file(directory / "model.safetensors")
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.mlp.experts"
        single = {
            part: [tensors.pop(f"{name}.{row}.{part}_proj.weight") for row in range(EXPERTS)]
            for part in ("gate", "up", "down")
        }
        if layer:  # one checkpoint may hold both
            both = zip(single["gate"], single["up"], strict=True)
            tensors[f"{name}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in both])
            tensors[f"{name}.down_proj"] = torch.stack(single["down"])
        else:
            for part, weights in single.items():
                tensors |= {f"{name}.{n}.{part}_proj.weight": w for n, w in enumerate(weights)}
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused/config.json").write_bytes((directory / "config.json").read_bytes())
    save_file(tensors, tmp_path / "fused/model.safetensors")
    assert torch.equal(run(load(tmp_path / "fused")), run(load(directory)))


def test_mxfp4_is_what_it_stands_for(save_model: Save, tmp_path: Path) -> None:
    directory, _ = save_model(GPT_OSS)
    plain = load_file(directory / "model.safetensors")
    packed, random = dict(plain), torch.Generator().manual_seed(1)
    for layer in range(LAYERS):
        for part in ("gate_up_proj", "down_proj"):
            name = f"model.layers.{layer}.mlp.experts.{part}"
            experts, inputs, outputs = packed.pop(name).shape
            size = (experts, outputs, inputs // 32)
            blocks = torch.randint(0, 256, (*size, 16), generator=random, dtype=torch.uint8)
            scales = torch.randint(121, 125, size, generator=random, dtype=torch.uint8)
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            plain[name] = torch.stack(
                [mxfp4(*one, torch.float32).T for one in zip(blocks, scales, strict=True)]
            ).contiguous()
    save_file(plain, directory / "model.safetensors")
    fields = json.loads((directory / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/config.json").write_text(json.dumps(fields))
    save_file(packed, tmp_path / "packed/model.safetensors")
    assert torch.equal(run(load(tmp_path / "packed")), run(load(directory)))


def test_tiers_that_are_drawn_change_no_bit(save_model: Save, tmp_path: Path) -> None:
    directory, _ = save_model(OLMOE)
    rules = TierRules(
        [TierRule(name="near", experts="1,4,5"), TierRule(name="far", experts="rest")]
    )
    for _ in convert(directory, tmp_path / "tiers", ConvertOptions(tiers=rules)):
        pass
    before, after = load(directory), load(tmp_path / "tiers")
    assert torch.equal(run(after), run(before))
    with open_checkpoint(tmp_path / "tiers") as reader:
        masks = TierMasks(reader.manifest.experts, LAYERS)
    near = torch.tensor([False, True, False, False, True, True]).expand(20, -1)
    assert torch.equal(run(after, masks.of([{0}] * 20)), run(before, [near, near]))
    assert torch.equal(run(after, masks.of([{0, 1}] * 20)), run(before))


def test_a_mask_leaves_a_model_of_the_experts_that_are_allowed(
    save_model: Save, tmp_path: Path
) -> None:
    directory, _ = save_model(OLMOE)
    kept = [0, 2, 3]
    tensors = load_file(directory / "model.safetensors")
    smaller = {name: part for name, part in tensors.items() if ".experts." not in name}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.mlp"
        smaller[f"{name}.gate.weight"] = tensors[f"{name}.gate.weight"][kept].contiguous()
        for number, row in enumerate(kept):
            for part in ("gate", "up", "down"):
                weight = tensors[f"{name}.experts.{row}.{part}_proj.weight"]
                smaller[f"{name}.experts.{number}.{part}_proj.weight"] = weight
    fields = json.loads((directory / "config.json").read_text())
    (tmp_path / "smaller").mkdir()
    (tmp_path / "smaller/config.json").write_text(json.dumps({**fields, "num_experts": 3}))
    save_file(smaller, tmp_path / "smaller/model.safetensors")
    mask = torch.tensor([number in kept for number in range(EXPERTS)]).expand(20, -1)
    masked_TV = run(load(directory), [mask, mask])
    torch.testing.assert_close(masked_TV, run(load(tmp_path / "smaller")), atol=1e-4, rtol=0.0)


def test_rows_that_can_not_be_routed_are_named(save_model: Save) -> None:
    directory, _ = save_model(OLMOE)
    decoder = load(directory)
    mask = torch.ones(20, EXPERTS, dtype=torch.bool)
    mask[7, 1:] = False
    with pytest.raises(TooFewExperts, match="layer 1 needs 2 experts for row 7") as few:
        run(decoder, [None, mask])
    assert few.value.rows == (7,)
    embedding_VD = decoder.weights.embedding()
    embedding_VD[TOKENS_T[3], 0] = torch.nan
    with pytest.raises(ScoresNotFinite, match="layer 0 scored row 3") as odd:
        run(decoder)
    assert 3 in odd.value.rows


def drop(tensors: dict[str, Tensor]) -> None:
    for part in ("gate", "up", "down"):
        del tensors[f"model.layers.1.mlp.experts.4.{part}_proj.weight"]


def narrow(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.1.mlp.experts.4.up_proj.weight"
    tensors[name] = tensors[name][:16].clone()


def scale(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.1.mlp.experts.4.up_proj.weight_scale_inv"] = torch.ones(1, 1)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (drop, Corrupt, "layer 1 has .* expert"),
        (narrow, Corrupt, r"up\.weight of expert 1\.0\.0\.4 has shape \(16, 64\)"),
        (scale, Unsupported, r"expert 1\.0\.0\.4 has a part up\.weight_scale_inv"),
    ],
)
def test_an_expert_that_is_not_as_it_must_be_is_named(
    save_model: Save,
    change: Callable[[dict[str, Tensor]], None],
    error: type[LiteLLMError],
    words: str,
) -> None:
    directory, _ = save_model(OLMOE)
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(error, match=words):
        load(directory)
