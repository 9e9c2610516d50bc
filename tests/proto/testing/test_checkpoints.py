"""Tiny checkpoints are real files, and the same ones every time."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from lite_llm.testing.checkpoints import Shape, Tensors, llama_tensors, tiny_llama

MAKE = "import sys, pathlib; from lite_llm.testing.checkpoints import tiny_llama; "
MAKE += "tiny_llama(pathlib.Path(sys.argv[1]), seed=7, shards=2)"


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def test_the_same_arguments_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    here = tiny_llama(tmp_path / "here", seed=7, shards=2)
    subprocess.run([sys.executable, "-c", MAKE, str(tmp_path / "there")], check=True)
    assert digests(here) == digests(tmp_path / "there")
    assert sorted(digests(here)) == [
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, other = (tiny_llama(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    changed = {name for name, digest in digests(one).items() if digests(other)[name] != digest}
    assert changed == {"model.safetensors"}


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path, seed=3, shards=3)
    expected = llama_tensors(Shape(), 3)
    found: Tensors = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in expected.values())


def test_a_tied_model_has_no_head() -> None:
    assert "lm_head.weight" in llama_tensors(Shape(), 0)
    assert "lm_head.weight" not in llama_tensors(Shape(tied=True), 0)


def test_the_tokenizer_spells_any_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_llama(tmp_path, seed=0) / "tokenizer.json"))
    text = "the same tokens — 同じ 🦊\n\x00"
    ids = tokenizer.encode(text).ids
    assert ids[0] == 0
    assert tokenizer.decode(ids) == text
    assert len(ids) < 1 + len(text.encode())  # merges are used
    assert tokenizer.get_vocab_size() == Shape().vocab
