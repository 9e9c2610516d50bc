"""Real models of many families, saved by transformers: every expert is found, in both formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from lite_llm.checkpoint import convert, open_checkpoint

SIZES = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
}  # fmt: skip
EXPERTS = 4

FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": EXPERTS},
    "Qwen2Moe": {"num_experts": EXPERTS, "moe_intermediate_size": 24, "num_experts_per_tok": 2},
    "Qwen3Moe": {"num_experts": EXPERTS, "moe_intermediate_size": 24, "head_dim": 8},
    "Olmoe": {"num_experts": EXPERTS, "num_experts_per_tok": 2},
    "GraniteMoe": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    "GptOss": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "head_dim": 8},
    "DeepseekV3": {
        "n_routed_experts": EXPERTS, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": 24, "first_k_dense_replace": 0, "num_key_value_heads": 4,
        "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_expert_of_a_saved_model_is_found(family: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{family}Config")(**(SIZES | FAMILIES[family]))
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.save_pretrained(tmp_path / "saved")
    for _ in convert(tmp_path / "saved", tmp_path / "converted"):
        pass
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    fused = {
        int(name.split(".")[2]): value
        for name, value in weights.items()
        if name.endswith(("gate_up_proj", "input_linear.weight"))
    }
    assert fused.keys() == {0, 1}
    for directory in ("saved", "converted"):
        with open_checkpoint(tmp_path / directory) as reader:
            assert len(reader.manifest.experts) == 2 * EXPERTS
            assert not [r for r in reader.manifest.tensors if ".experts." in r.name]
            for record in reader.manifest.experts:
                parts = reader.expert(record.key)
                if family == "GptOss":
                    found = parts["gate_up_interleaved.weight_transposed"]
                    assert list(parts)[2:] == ["gate_up_interleaved.bias", "down.bias"]
                else:
                    found = np.concatenate([parts["gate.weight"], parts["up.weight"]])
                assert np.array_equal(found, fused[record.key.layer][record.router_row])
