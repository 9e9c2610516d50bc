"""Directories that answer otherwise have other digests."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from lite_llm.checkpoint import INDEX_NAME, convert
from lite_llm.contracts.errors import StorageFailed
from lite_llm.stores import digest_of_directory
from lite_llm.testing.checkpoints import tiny_llama


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "hf", seed=1, shards=2)


def test_a_copy_has_the_same_digest(directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(directory, tmp_path / "elsewhere")
    os.utime(copy / "config.json", ns=(1, 1))
    (copy / "README.md").write_text("other words")
    assert digest_of_directory(copy) == digest_of_directory(directory)


def test_another_model_of_the_same_shape_has_another(directory: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", seed=2, shards=2)
    assert digest_of_directory(other) != digest_of_directory(directory)


@pytest.mark.parametrize("change", ["config.json", "tokenizer.json"])
def test_a_changed_file_shows(directory: Path, change: str) -> None:
    before = digest_of_directory(directory)
    (directory / change).write_text("{}")
    assert digest_of_directory(directory) != before


def test_of_a_large_file_its_length_ends_and_what_is_between_count(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    size = 3 << 20

    def digest(**bytes_at: int) -> str:
        with path.open("wb") as file:
            file.truncate(size)
            for offset in bytes_at.values():
                file.seek(offset)
                file.write(b"x" * (256 << 10))
        return digest_of_directory(tmp_path)

    digests = {digest(), digest(first=0), digest(last=size - (256 << 10)), digest(middle=size // 2)}
    assert len(digests) == 4
    with path.open("ab") as file:
        file.write(b"x")
    assert digest_of_directory(tmp_path) not in digests


def test_of_our_own_format_it_is_the_index(directory: Path, tmp_path: Path) -> None:
    for _ in convert(directory, tmp_path / "ours"):
        pass
    index = (tmp_path / "ours" / INDEX_NAME).read_bytes()
    assert digest_of_directory(tmp_path / "ours") == hashlib.sha256(index).hexdigest()


def test_no_directory_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="can't be read"):
        digest_of_directory(tmp_path / "absent")
