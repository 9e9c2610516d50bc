"""``lite-llm bench load`` on a checkpoint of a second's work: rates are there, and add up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from lite_llm.checkpoint import convert
from lite_llm.cli.app import app
from lite_llm.cli.load_bench import lines_of
from lite_llm.contracts.errors import InvalidRequest, ModelNotFound


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["bench", "load", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    block = "model.layers.0.mlp.experts"
    tensors = {
        "model.embed_tokens.weight": np.ones((512, 1024), np.float32),
        f"{block}.0.gate_proj.weight": np.ones((256, 256), np.float32),
        f"{block}.1.gate_proj.weight": np.ones((256, 256), np.float32),
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


def test_both_formats_are_measured_beside_the_raw_rate(source: Path, tmp_path: Path) -> None:
    for _ in convert(source, tmp_path / "target"):
        pass
    for path in (source, tmp_path / "target"):
        told = json.loads(run(path, "--rounds", "2", "--json"))
        files = [*path.glob("*.bin"), *path.glob("*.safetensors")]
        assert told["bytes"] == sum(file.stat().st_size for file in files)
        assert (told["rounds"], told["threads"]) == (2, 4)
        assert told["cold_gb_per_s"] > 0
        assert told["warm_gb_per_s"] > 0
        for name in ("cold", "warm"):
            of_raw = told[f"{name}_of_raw"] * told["raw_gb_per_s"]
            assert of_raw == pytest.approx(told[f"{name}_gb_per_s"] if of_raw else 0)


def test_people_see_a_line_for_each(source: Path) -> None:
    first, *lines = run(source, "--rounds", "1", "--threads", "2").splitlines()
    assert first.endswith("2.5 MiB, rounds: 1, threads: 2")
    assert [line.split()[0] for line in lines[:3]] == ["raw", "cold", "warm"]
    assert all("GB/s" in line for line in lines[1:3])


def test_what_could_not_be_measured_is_said() -> None:
    result = {
        "raw_gb_per_s": 0.0, "cold_gb_per_s": 1.0, "warm_gb_per_s": 2.0, "cached_bytes": 4096
    }  # fmt: skip
    assert list(lines_of(result)) == [
        "raw O_DIRECT      not possible here",
        "cold page cache     1.00 GB/s",
        "warm page cache     2.00 GB/s",
        "not quite cold: 4.0 KiB stayed in the page cache",
    ]


def test_there_must_be_something_to_load(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="not a directory"):
        run(tmp_path / "nowhere")
    save_file({"a": np.ones(0, np.float32)}, source / "model.safetensors")
    with pytest.raises(InvalidRequest, match="no weights"):
        run(source)
