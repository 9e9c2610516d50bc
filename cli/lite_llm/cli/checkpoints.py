"""What a person does with checkpoints: make keys, convert, verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lite_llm.checkpoint import (
    INDEX_NAME,
    ConvertOptions,
    ConvertOutcome,
    ConvertProgress,
    Finding,
    convert,
    open_checkpoint,
    verify,
)
from lite_llm.contracts import format_size
from lite_llm.contracts.errors import Conflict, Corrupt, ModelNotFound
from lite_llm.trust import PublicKey, SignaturePolicy, generate_key

_NO_CHECKSUMS = "all of it readable; it has no checksums to compare with, convert adds them"


@contextmanager
def byte_bar(what: str) -> Iterator[Progress]:
    """A bar of bytes and their rate on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        bar.add_task(what, total=None)
        yield bar


def check_directory(path: Path) -> None:
    """:class:`ModelNotFound` unless there is a directory to read."""
    if not path.is_dir():
        raise ModelNotFound(
            f"{str(path)!r} is not a directory",
            where=str(path),
            remedy="give the directory of a checkpoint",
        )


def keygen_command(path: Path) -> None:
    """Write a new key and, with ``.pub`` behind its name, what others need to check it."""
    public = path.with_name(f"{path.name}.pub")
    for existing in filter(Path.exists, (path, public)):
        raise Conflict(
            f"{existing} exists", where=str(existing), remedy="choose another name for the key"
        )
    key = generate_key()
    key.save(path)
    key.public.save(public)
    typer.echo(f"private key  {path}  (keep it secret, give it to convert --sign)")
    typer.echo(f"public key   {public}  (give it to whoever verifies)")
    typer.echo(f"fingerprint  {key.public.fingerprint}")


def convert_command(source: Path, target: Path, options: ConvertOptions) -> None:
    """Convert and say what came of it."""
    check_directory(source)
    started, last = monotonic(), ConvertProgress("", 0, 0)
    with byte_bar(f"converting {source.name}") as bar:
        (task,) = bar.task_ids
        for last in convert(source, target, options):
            comparing = last.file and last.found_bytes == last.done_bytes
            what = "comparing" if comparing else "converting"
            bar.update(
                task,
                description=f"{what} {source.name}",
                completed=last.done_bytes,
                total=last.total_bytes,
            )
    if last.outcome is ConvertOutcome.UNCHANGED:
        typer.echo(f"{target}: converted already, nothing to do")
        return
    if last.outcome is ConvertOutcome.SIGNED:
        typer.echo(f"{target}: converted already{_signed(options)}")
        return
    with open_checkpoint(target) as reader:
        manifest = reader.manifest
    size = format_size(manifest.num_bytes)
    seconds = f"{monotonic() - started:.1f} s"
    resumed = ""
    if last.outcome is ConvertOutcome.RESUMED:
        resumed = f", resumed: {format_size(last.found_bytes)} were there already"
    typer.echo(
        f"{target}: {len(manifest.files)} files, {size} in {seconds}{resumed}{_signed(options)}"
    )


def verify_command(path: Path, *, policy: SignaturePolicy, as_json: bool) -> None:
    """Name everything that is wrong; :class:`Corrupt` if anything is."""
    check_directory(path)
    findings: list[Finding] = []
    num_bytes, has_checksums = 0, (path / INDEX_NAME).exists()
    with byte_bar(f"verifying {path.name}") as bar:
        (task,) = bar.task_ids
        for seen in verify(path, policy=policy):
            if isinstance(seen, Finding):
                findings.append(seen)
                if not as_json:
                    line = f"{seen.file}: {seen.message}"
                    bar.console.print(line, soft_wrap=True, markup=False)
            else:
                num_bytes = seen.total_bytes
                bar.update(task, completed=seen.done_bytes, total=seen.total_bytes)
    if as_json:
        told = {
            "path": str(path),
            "bytes": num_bytes,
            "has_checksums": has_checksums,
            "findings": [asdict(finding) for finding in findings],
        }
        typer.echo(json.dumps(told, sort_keys=True))
    if findings:
        raise Corrupt(
            f"{path} has {len(findings)} fault{'s' if len(findings) > 1 else ''}",
            where=str(path),
            remedy="fetch or convert it again",
        )
    if not as_json:
        signed = ", signed by a trusted key" if policy.required else ""
        result = "every byte as it should be" if has_checksums else _NO_CHECKSUMS
        typer.echo(f"{path}: {format_size(num_bytes)}, {result}{signed}")


def signature_policy(keys: Sequence[PublicKey], *, allow_unsigned: bool) -> SignaturePolicy:
    """With keys a signature must be one of theirs, and there must be one unless that is waived."""
    return SignaturePolicy(trusted=tuple(keys), required=bool(keys) and not allow_unsigned)


def _signed(options: ConvertOptions) -> str:
    return f", signed with key {options.key.public.fingerprint}" if options.key else ""
