"""``lite-llm keygen | convert | verify`` on tiny checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lite_llm.checkpoint import convert, open_checkpoint
from lite_llm.cli.app import app
from lite_llm.contracts.errors import Conflict, Corrupt, InvalidSettings
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.trust import PrivateKey, PublicKey


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "dense", seed=1)


def test_convert_then_verify_and_once_more(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert " files, " in run("convert", dense, target).output
    assert "every byte as it should be" in run("verify", target).output
    assert "converted already, nothing to do" in run("convert", dense, target).output


def test_nothing_is_claimed_of_bytes_that_have_no_checksums(dense: Path) -> None:
    told = run("verify", dense).output
    assert "no checksums to compare with" in told
    assert "as it should be" not in told
    assert json.loads(run("verify", dense, "--json").output)["has_checksums"] is False


def test_a_target_that_holds_something_else_is_left_alone(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run("convert", dense, target)
    before = (target / "checkpoint.idx").read_bytes()
    with pytest.raises(Conflict, match="target"):
        run("convert", tiny_llama(tmp_path / "other", seed=2), target)
    assert (target / "checkpoint.idx").read_bytes() == before


def test_a_flipped_bit_is_named(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run("convert", dense, target)
    (first, *_) = sorted(target.glob("*.bin"))
    data = bytearray(first.read_bytes())
    data[5] ^= 4
    first.write_bytes(data)
    runner = CliRunner().invoke(app, ["verify", str(target)])
    assert isinstance(runner.exception, Corrupt)
    assert f"{first.name}: chunk 0 at offset 0 does not match its checksum" in runner.output


def test_verify_in_json_names_each_bad_chunk(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run("convert", dense, target)
    assert json.loads(run("verify", target, "--json").output)["findings"] == []
    path = max(target.glob("*.bin"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = CliRunner().invoke(app, ["verify", str(target), "--json"])
    assert isinstance(result.exception, Corrupt)
    chunk, whole = json.loads(result.stdout)["findings"]
    assert (chunk["file"], chunk["chunk"], chunk["reason"]) == (path.name, 0, "Corrupt")
    assert (chunk["offset"], chunk["length"]) == (0, len(data))
    assert (whole["file"], whole["chunk"]) == (path.name, -1)


def test_a_conversion_says_whether_it_wrote_resumed_signed_or_did_nothing(
    dense: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    run("keygen", tmp_path / "key")
    steps = convert(dense, target)
    while next(steps).file != "dense-00001-000.bin":
        pass
    steps.close()
    told = run("convert", dense, target).output
    assert ", resumed: " in told
    assert " were there already" in told
    told = run("convert", dense, target, "--sign", tmp_path / "key").output
    assert "converted already, signed with key " in told
    told = run("convert", dense, target, "--sign", tmp_path / "key").output
    assert "converted already, nothing to do" in told
    told = run("convert", dense, tmp_path / "other", "--sign", tmp_path / "key").output
    assert " files, " in told
    assert "resumed" not in told
    assert "signed with key " in told


def test_a_terminal_sees_a_bar(dense: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "lite_llm.cli", "convert", str(dense), str(tmp_path / "t")]
    shown = b""
    with (
        os.fdopen(ours, "rb", buffering=0) as screen,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process,
    ):
        os.close(theirs)
        with suppress(OSError):  # how Linux says that nobody holds the other end
            while piece := screen.read(4096):
                shown += piece
    assert process.returncode == 0
    assert b"converting dense" in shown
    assert "━".encode() in shown


def test_model_version_and_the_size_of_files_can_be_chosen(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    options = ["--model", "mine", "--version", "mine-v1.2.3", "--max-file", "96KiB"]
    run("convert", dense, target, *options)
    with open_checkpoint(target) as reader:
        assert (reader.manifest.model, reader.manifest.version) == ("mine", "mine-v1.2.3")
        assert max(file.num_bytes for file in reader.manifest.files) <= 96 << 10
    with pytest.raises(InvalidSettings, match="not a size"):
        run("convert", dense, target, "--max-file", "many")


def test_keys_are_made_once_and_the_private_one_is_the_owners_alone(tmp_path: Path) -> None:
    private, public = tmp_path / "key", tmp_path / "key.pub"
    told = run("keygen", private).output
    assert private.stat().st_mode & 0o777 == 0o600
    assert PrivateKey.load(private).public == PublicKey.load(public)
    assert PublicKey.load(public).fingerprint in told
    assert "PRIVATE" not in told
    before = private.read_bytes()
    with pytest.raises(Conflict, match="key exists"):
        run("keygen", private)
    private.unlink()
    with pytest.raises(Conflict, match=r"key\.pub exists"):
        run("keygen", private)
    assert not private.exists()
    private.write_bytes(before)
    public.unlink()
    with pytest.raises(Conflict, match="key exists"):
        run("keygen", private)
    assert not public.exists()
    with pytest.raises(InvalidSettings, match="can't be written"):
        run("keygen", tmp_path / "nowhere" / "key")


def test_a_signature_is_checked_with_the_public_half_of_its_key(
    dense: Path, tmp_path: Path
) -> None:
    ours, theirs, target = tmp_path / "ours", tmp_path / "theirs", tmp_path / "target"
    for key in (ours, theirs):
        run("keygen", key)
    run("convert", dense, target, "--sign", ours)
    told = run("verify", target, "--key", f"{theirs}.pub", "--key", f"{ours}.pub").output
    assert "every byte as it should be, signed by a trusted key" in told
    result = CliRunner().invoke(app, ["verify", str(target), "--key", f"{theirs}.pub"])
    assert isinstance(result.exception, Corrupt)
    assert "was made by no trusted key" in result.output
    (target / "checkpoint.idx.sig").unlink()
    result = CliRunner().invoke(app, ["verify", str(target), "--key", f"{ours}.pub"])
    assert isinstance(result.exception, Corrupt)
    assert "not signed" in result.output
    run("verify", target, "--key", f"{ours}.pub", "--allow-unsigned")
