"""Checkpoints are loaded whole, or refused by the name of what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lite_llm.checkpoint import ConvertOptions, convert, open_checkpoint
from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.models import Llama, LlamaConfig, Progress, load_llama
from lite_llm.testing.checkpoints import Shape, Tensors, llama_tensors, tiny_llama

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def load(directory: Path) -> tuple[list[Progress], Llama]:
    with open_checkpoint(directory) as reader:
        config = LlamaConfig.parse(reader.manifest.architecture)
        *steps, model = load_llama(reader, config)
    assert isinstance(model, Llama)
    return [step for step in steps if isinstance(step, Progress)], model


@pytest.mark.parametrize("shards", [1, 4])
def test_progress_counts_every_byte(tmp_path: Path, shards: int) -> None:
    steps, model = load(tiny_llama(tmp_path, seed=1, shards=shards))
    total = sum(tensor.nbytes for tensor in llama_tensors(Shape(), 1).values())
    assert {step.total_bytes for step in steps} == {total}
    done = [step.done_bytes for step in steps]
    assert done == sorted(set(done))
    assert (done[0], done[-1], len(done)) == (0, total, 2 + Shape().layers)
    assert len(model.layers) == Shape().layers


def test_weights_do_not_depend_on_the_file_any_more(tmp_path: Path) -> None:
    _, model = load(tiny_llama(tmp_path, seed=1))
    before = model.head_VD.clone()
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\xff" * 4096)
    assert torch.equal(model.head_VD, before)


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_a_converted_checkpoint_is_the_same_model(tmp_path: Path, dtype: str) -> None:
    source = tiny_llama(tmp_path / "source", seed=1, shards=2)
    for _ in convert(source, tmp_path / "converted", ConvertOptions(dtype=dtype)):
        pass
    _, plain = load(source)
    _, model = load(tmp_path / "converted")
    assert model.config.dtype == (dtype or "float32")
    same_type = plain.layers[1].query_QD.to(model.head_VD.dtype)
    assert torch.equal(model.layers[1].query_QD, same_type)
    assert torch.equal(model.head_VD, plain.head_VD.to(model.head_VD.dtype))


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
    _, model = load(tiny_llama(tmp_path, seed=1, shape=Shape(dtype="float16")))
    assert model.layers[0].up_FD.dtype is torch.float16
    hidden_TD = model.hidden(torch.tensor([3, 4, 5]), model.new_cache())
    assert hidden_TD.dtype is torch.float16
    assert model.logits(hidden_TD).dtype is torch.float32


def test_a_tensor_of_another_float_type_is_converted(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1)
    tensors = llama_tensors(Shape(), 1)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    save_file(tensors, tmp_path / "model.safetensors")
    assert load(tmp_path)[1].norm_D.dtype is torch.float32


def test_leftovers_of_older_exporters_are_ignored(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1, shape=Shape(tied=True))
    tensors = llama_tensors(Shape(tied=True), 1)
    tensors["lm_head.weight"] = np.zeros((320, 64), np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    _, model = load(tmp_path)
    assert model.head_VD is model.embedding_VD


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


def test_a_layer_too_many_is_named(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1)
    fields = json.loads((tmp_path / "config.json").read_text())
    for layers, words in ((10**12, r"layers\.3.*missing"), (2, r"layers\.2.*no part")):
        (tmp_path / "config.json").write_text(json.dumps({**fields, "num_hidden_layers": layers}))
        with pytest.raises(Corrupt, match=words):
            load(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_a_cut_file_is_named(tmp_path: Path, size: int) -> None:
    path = tiny_llama(tmp_path, seed=1) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("blob", [b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}", b"\x00" * 8])
def test_a_file_of_rubbish_is_refused(tmp_path: Path, blob: bytes) -> None:
    (tiny_llama(tmp_path, seed=1) / "model.safetensors").write_bytes(blob)
    with pytest.raises(Corrupt):
        load(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tiny_llama(tmp_path, seed=1, shards=2) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(Corrupt, match=r"model-00002-of-00002\.safetensors"):
        load(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    tiny_llama(tmp_path, seed=1, shards=2)
    first, second = sorted(tmp_path.glob("model-*.safetensors"))
    shutil.copy(first, second)
    with pytest.raises(Corrupt, match=r"tensor .* is in model-00001-of-00002\.safetensors, too"):
        load(tmp_path)


@pytest.mark.parametrize(
    "weight_map", [None, {}, [], {"a": 1}, {"a": ["x"]}, {"a": "../x"}, {"a": "/etc/passwd"}]
)
def test_an_index_can_only_name_its_own_files(tmp_path: Path, weight_map: object) -> None:
    tiny_llama(tmp_path, seed=1)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(Corrupt, match=r"index\.json"):
        load(tmp_path)
