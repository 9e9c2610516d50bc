"""The standard library as a corpus: the same files everywhere, and some of them held out."""

from pathlib import Path

import pytest

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.training import SourceFile, standard_library, tokens_of, trained_tokenizer
from lite_llm.training.vocabulary import END_OF_FILE_ID


def test_the_running_interpreters_library_is_found() -> None:
    corpus = standard_library()
    names = [file.name for file in corpus.files]
    assert names == sorted(names)
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert not [name for name in names if "site-packages" in name or "/test" in name]
    held_out, training = list(corpus.held_out()), list(corpus.training())
    assert len(held_out) + len(training) == len(names)
    assert 0 < len(held_out) < len(names) / 10
    assert standard_library().digest == corpus.digest


def test_the_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "b.py").write_text("y = 1\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    before = standard_library(tmp_path)
    assert [file.name for file in before.files] == ["a.py"]
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = standard_library(tmp_path).digest
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert len({before.digest, changed, standard_library(tmp_path).digest}) == 3


def test_a_directory_without_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no Python source"):
        standard_library(tmp_path)


def test_the_tokenizer_spells_everything_and_is_the_same_twice() -> None:
    files = [SourceFile(f"{n}.py", f"def f{n}(self):\n    return {n}\n".encode()) for n in "abc"]
    one, two = (trained_tokenizer(files, 300) for _ in range(2))
    assert one.to_str() == two.to_str()
    text = "class Ω:\n\tdef x(self): return \"é\" + b'\\0'  # 你好\n"
    assert one.decode(one.encode(text).ids) == text
    tokens_N = tokens_of(files, one)
    assert tokens_N.tolist().count(END_OF_FILE_ID) == len(files)
    assert tokens_N[0] == END_OF_FILE_ID
