"""Checkpoints are loaded whole, or refused by the name of what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lite_llm.checkpoint import ConvertOptions, convert, open_checkpoint
from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.models import Decoder, Progress, load_decoder, parse_config
from lite_llm.testing.checkpoints import Shape, Tensors, llama_tensors, tiny_llama

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def load(directory: Path) -> tuple[list[Progress], Decoder]:
    with open_checkpoint(directory) as reader:
        config = parse_config(reader.manifest.architecture)
        *steps, decoder = load_decoder(reader, config)
    assert isinstance(decoder, Decoder)
    return [step for step in steps if isinstance(step, Progress)], decoder


def fingerprint(decoder: Decoder) -> torch.Tensor:
    """Of all weights: what they make of a few tokens."""
    from lite_llm.kernels import LayerPages, PagedKv, Rows

    positions = torch.arange(4)
    rows = Rows(torch.zeros(4, dtype=torch.int32), positions.int(), torch.zeros(1, 1).int())
    pages = []
    for layer in decoder.kv_layout.layers:
        keys, values = (
            torch.zeros(1, layer.kv_heads, 8, dim, dtype=decoder.config.dtype)
            for dim in (layer.key_dim, layer.value_dim)
        )
        pages.append(LayerPages(PagedKv(keys, values), rows))
    return decoder.logits(decoder.hidden(torch.tensor([5, 6, 7, 9]), positions, pages))


@pytest.mark.parametrize("shards", [1, 4])
def test_progress_counts_every_byte(tmp_path: Path, shards: int) -> None:
    steps, decoder = load(tiny_llama(tmp_path, seed=1, shards=shards))
    total = sum(tensor.nbytes for tensor in llama_tensors(Shape(), 1).values())
    assert {step.total_bytes for step in steps} == {total}
    done = [step.done_bytes for step in steps]
    assert done == sorted(set(done))
    assert (done[0], done[-1], len(done)) == (0, total, 3 + Shape().layers)
    assert len(decoder.config.layers) == Shape().layers


def test_weights_do_not_depend_on_the_file_any_more(tmp_path: Path) -> None:
    _, decoder = load(tiny_llama(tmp_path, seed=1))
    before = fingerprint(decoder)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\xff" * 4096)
    assert torch.equal(fingerprint(decoder), before)


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_a_converted_checkpoint_is_the_same_model(tmp_path: Path, dtype: str) -> None:
    shape = Shape(dtype="float32")
    source = tiny_llama(tmp_path / "source", seed=1, shape=shape, shards=2)
    for _ in convert(source, tmp_path / "converted", ConvertOptions(dtype=dtype)):
        pass
    _, plain = load(source)
    _, converted = load(tmp_path / "converted")
    if not dtype:
        assert torch.equal(fingerprint(converted), fingerprint(plain))
    assert converted.config.dtype is (torch.bfloat16 if dtype else torch.float32)
    head_VD = plain.weights.head().output_VD.to(converted.config.dtype)
    assert torch.equal(converted.weights.head().output_VD, head_VD)


def test_a_flipped_bit_of_a_converted_checkpoint_is_found_while_loading(tmp_path: Path) -> None:
    for _ in convert(tiny_llama(tmp_path / "source", seed=1), tmp_path / "converted"):
        pass
    (path, *_) = sorted((tmp_path / "converted").glob("*.bin"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="chunk 0 at offset 0 does not match"):
        load(tmp_path / "converted")


def test_half_precision(tmp_path: Path) -> None:
    _, decoder = load(tiny_llama(tmp_path, seed=1, shape=Shape(dtype="float16")))
    assert decoder.weights.head().output_VD.dtype is torch.float16
    logits = fingerprint(decoder)
    assert logits.dtype is torch.float32
    assert logits.isfinite().all()


def test_a_tensor_of_another_float_type_is_converted(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1)
    tensors = llama_tensors(Shape(), 1)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    save_file(tensors, tmp_path / "model.safetensors")
    assert load(tmp_path)[1].weights.head().norm_D.dtype is torch.float32


def test_leftovers_of_older_exporters_are_ignored(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1, shape=Shape(tied=True))
    tensors = llama_tensors(Shape(tied=True), 1)
    tensors["lm_head.weight"] = np.zeros((320, 64), np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    _, decoder = load(tmp_path)
    assert decoder.weights.head().output_VD is decoder.weights.embedding()


def test_fused_and_separate_tensors_of_phi_are_one_model(
    tmp_path: Path, save_model: Callable[..., tuple[Path, Any]]
) -> None:
    from transformers import Phi3Config

    no_tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = Phi3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **no_tokens,
    )
    directory, model = save_model(config)
    expected = fingerprint(load(directory)[1])
    tensors: Tensors = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        base, _, part = name.removesuffix(".weight").rpartition(".")
        if part == "qkv_proj" and "layers.1" in name:
            parts = dict(zip("qkv", np.split(array, [32, 48]), strict=True))
            tensors |= {f"{base}.{one}_proj.weight": rows for one, rows in parts.items()}
        elif part == "gate_up_proj":
            gate, up = np.split(array, 2)
            tensors |= {f"{base}.gate_proj.weight": gate, f"{base}.up_proj.weight": up}
        else:
            tensors[name] = array
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, directory / "model.safetensors")
    assert torch.equal(fingerprint(load(directory)[1]), expected)
    name = "model.layers.0.self_attn.qkv_proj.weight"
    tensors[name] = tensors[name][:-1]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(Corrupt, match=r"layers\.0\.self_attn\.qkv_proj.*\(63, 32\), not \(64, 32"):
        load(directory)


def remove(tensors: Tensors) -> None:
    del tensors[Q_PROJ]


def transpose(tensors: Tensors) -> None:
    tensors[Q_PROJ] = np.ascontiguousarray(tensors[Q_PROJ][:, :32])


def quantise(tensors: Tensors) -> None:
    tensors[Q_PROJ] = tensors[Q_PROJ].astype(np.int8)


def add_bias(tensors: Tensors) -> None:
    tensors[Q_PROJ.replace("weight", "bias")] = np.zeros(64, np.float32)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (remove, Corrupt, "is missing"),
        (transpose, Corrupt, r"has shape \(64, 32\), not \(64, 64\)"),
        (quantise, Unsupported, "has dtype I8"),
        (add_bias, Corrupt, "belongs to no part"),
    ],
)
def test_a_wrong_tensor_is_named(
    tmp_path: Path, change: Callable[[Tensors], None], error: type[LiteLLMError], words: str
) -> None:
    tiny_llama(tmp_path, seed=1)
    tensors = llama_tensors(Shape(), 1)
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(error, match=rf"model\.layers\.1\.self_attn\.q_proj\.\w+ .*{words}"):
        load(tmp_path)


def test_experts_of_a_dense_model_are_named(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1)
    tensors = llama_tensors(Shape(), 1)
    for part in ("gate", "up", "down"):
        tensors[f"model.layers.1.mlp.experts.0.{part}_proj.weight"] = np.zeros((4, 4), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(Corrupt, match="layer 1 is dense, but the checkpoint has 1 experts"):
        load(tmp_path)


def test_a_layer_too_many_is_named(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1)
    fields = json.loads((tmp_path / "config.json").read_text())
    refusals = {4096: r"layers\.3.*missing", 2: r"layers\.2.*no part", 10**12: "at most 4096"}
    for layers, words in refusals.items():
        (tmp_path / "config.json").write_text(json.dumps({**fields, "num_hidden_layers": layers}))
        with pytest.raises(Corrupt, match=words):
            load(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_a_cut_file_is_named(tmp_path: Path, size: int) -> None:
    path = tiny_llama(tmp_path, seed=1) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        load(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1, shards=2)
    first, second = sorted(tmp_path.glob("model-*.safetensors"))
    shutil.copy(first, second)
    with pytest.raises(Corrupt, match=r"tensor .* is in model-00001-of-00002\.safetensors, too"):
        load(tmp_path)
