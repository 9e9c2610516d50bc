"""Headers as large as those of the largest open models, over few bytes of weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from lite_llm.checkpoint import open_checkpoint
from lite_llm.contracts.identity import ExpertKey

FILE = "model-00001-of-000001.safetensors"
DENSE_LAYERS, LAYERS, EXPERTS = 3, 62, 256
PARTS = tuple(
    f"{part}_proj.{kind}"
    for part in ("gate", "up", "down")
    for kind in ("weight", "weight_scale_inv")
)


def names() -> Iterator[str]:
    """Of DeepSeek-V3's 91,000 tensors, those that count: experts in eight bits with scales."""
    yield "model.embed_tokens.weight"
    for layer in range(DENSE_LAYERS, LAYERS):
        for expert in range(EXPERTS):
            for part in PARTS:
                yield f"model.layers.{layer}.mlp.experts.{expert}.{part}"


def write(directory: Path) -> None:
    """All in one file, as nobody publishes them, with an index of shards all the same."""
    tensors = list(names())
    fields = ",".join(
        f'"{name}":{{"dtype":"F8_E4M3","shape":[1,1],"data_offsets":[{at},{at + 1}]}}'
        for at, name in enumerate(tensors)
    )
    header = f"{{{fields}}}".encode()
    content = struct.pack("<Q", len(header)) + header + bytes(len(tensors))
    (directory / FILE).write_bytes(content)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, FILE)}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"model_type": "deepseek_v3", "hidden_size": 7168, "n_group": 8, "topk_group": 4}
    (directory / "config.json").write_text(json.dumps(config | {"num_experts_per_tok": 8}))


def test_ninety_thousand_tensors_open_even_from_one_file(tmp_path: Path) -> None:
    write(tmp_path)
    with open_checkpoint(tmp_path) as reader:
        manifest = reader.manifest
        assert [file.name for file in manifest.files] == [FILE]
        assert len(manifest.experts) == (LAYERS - DENSE_LAYERS) * EXPERTS
        assert sum(len(expert.parts) for expert in manifest.experts) == 90_624
        last = manifest.expert_by_key[ExpertKey(LAYERS - 1, 0, 7, 31)]
        assert last.router_row == EXPERTS - 1
        assert [part.name.split(".")[0] for part in last.parts] == ["gate", "up", "down"] * 2
