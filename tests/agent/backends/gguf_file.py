"""A tiny Llama as a GGUF file: the same weights and tokens as a checkpoint of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-untyped,unused-ignore]  # it has no stubs
import numpy as np

from lite_llm.testing.checkpoints import Shape, llama_config, llama_tensors

CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(checkpoint: Path, path: Path, *, seed: int, shape: Shape) -> Path:
    """The weights that ``tiny_llama(checkpoint, seed=seed, shape=shape)`` has; returns ``path``."""
    config = llama_config(shape)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(shape.rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(shape.vocab)
    _add_tokenizer(writer, json.loads((checkpoint / "tokenizer.json").read_text()), shape.vocab)
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}
    for name, tensor in llama_tensors(shape, seed).items():
        part = name.split(".")[-2]
        if part in heads:
            # Its rotary embedding turns neighbours, Hugging Face's the two halves of a head.
            halves = tensor.reshape(heads[part], 2, -1, shape.hidden)
            tensor = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))  # noqa: PLW2901 - the same one
        writer.add_tensor(_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: dict[str, Any], vocab: int) -> None:
    named = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    kinds = gguf.TokenType
    tokens, types = [], []
    for number in range(vocab):
        tokens.append(added.get(number) or named.get(number) or f"<unused{number}>")
        is_text = kinds.NORMAL if number in named else kinds.UNUSED
        types.append(kinds.CONTROL if number in added else is_text)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHATML)


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
