"""The same weights as a GGUF file, for llama.cpp; Llama and Qwen3 only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generation.work import Work

_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def written(work: Work) -> Path:
    """The path, once the file is there."""
    import gguf  # type: ignore[import-not-found,unused-ignore]
    import numpy as np
    import torch
    from safetensors.torch import load_file

    source = Path(work.directory)
    path = source / "model.gguf"
    if path.exists():
        return path
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    if config["model_type"] not in ("llama", "qwen3"):
        raise RuntimeError(f"no GGUF writer here for {config['model_type']}")
    writer = gguf.GGUFWriter(str(path), config["model_type"])
    _describe(writer, config, json.loads((source / "tokenizer.json").read_text()))
    kind = {
        "float32": gguf.GGMLQuantizationType.F32,
        "float16": gguf.GGMLQuantizationType.F16,
        "bfloat16": gguf.GGMLQuantizationType.BF16,
    }[work.dtype]
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for file in sorted(source.glob("*.safetensors")):
        for name, stored in load_file(str(file)).items():
            new, tensor = _name(name), stored.to(torch.float32)
            part = new.split(".")[-2]
            if config["model_type"] == "llama" and part in heads:
                # Its rotary embedding turns neighbours, Hugging Face's the two halves of a head.
                halves = tensor.view(heads[part], 2, tensor.shape[0] // heads[part] // 2, -1)
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
            values = np.ascontiguousarray(tensor.numpy())
            if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
                writer.add_tensor(new, values)
            else:
                writer.add_tensor(new, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def _describe(writer: Any, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or hidden // heads
    rope = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_name("made")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    named = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    ids = range(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([added.get(i) or named.get(i) or f"<unused{i}>" for i in ids])
    writer.add_token_types([3 if i in added else 1 if i in named else 5 for i in ids])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
