"""What a person does with checkpoints: convert one, look into it, verify it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

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
    ConvertOptions,
    Finding,
    VerifyProgress,
    convert,
    load_rules,
    open_checkpoint,
    verify,
)
from lite_llm.contracts import format_size
from lite_llm.contracts.errors import Corrupt, ModelNotFound
from lite_llm.contracts.manifest import Manifest
from lite_llm.trust import ACCEPT_UNSIGNED, PrivateKey, PublicKey, SignaturePolicy


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


def convert_command(
    source: Path, target: Path, *, tiers: Path | None, dtype: str, sign: Path | None
) -> None:
    """Convert and say what came of it."""
    check_directory(source)
    options = ConvertOptions(
        dtype=dtype,
        tiers=load_rules(tiers) if tiers else None,
        key=PrivateKey.load(sign) if sign else None,
    )
    started, wrote = monotonic(), False
    with byte_bar(f"converting {source.name}") as bar:
        for step in convert(source, target, options):
            wrote = wrote or bool(step.file)
            (task,) = bar.task_ids
            bar.update(task, completed=step.done_bytes, total=step.total_bytes)
    if not wrote:
        typer.echo(f"{target}: converted already, nothing to do")
        return
    with open_checkpoint(target) as reader:
        manifest = reader.manifest
    size = format_size(manifest.num_bytes)
    typer.echo(f"{target}: {len(manifest.files)} files, {size} in {monotonic() - started:.1f} s")


def verify_command(path: Path, *, public_key: Path | None) -> None:
    """Name everything that is wrong; :class:`Corrupt` if anything is."""
    check_directory(path)
    policy = ACCEPT_UNSIGNED
    if public_key:
        policy = SignaturePolicy(trusted=(PublicKey.load(public_key),), required=True)
    findings, num_bytes = 0, 0
    with byte_bar(f"verifying {path.name}") as bar:
        for seen in verify(path, policy=policy):
            match seen:
                case Finding():
                    findings += 1
                    bar.console.print(f"{seen.file}: {seen.message}", soft_wrap=True, markup=False)
                case VerifyProgress():
                    num_bytes = seen.total_bytes
                    (task,) = bar.task_ids
                    bar.update(task, completed=seen.done_bytes, total=seen.total_bytes)
    if findings:
        raise Corrupt(
            f"{path} has {findings} fault{'s' if findings > 1 else ''}",
            where=str(path),
            remedy="fetch or convert it again",
        )
    typer.echo(f"{path}: {format_size(num_bytes)}, every byte as it should be")


def inspect_command(path: Path, *, as_json: bool) -> None:
    """Print what a checkpoint holds; no weights are read."""
    check_directory(path)
    with open_checkpoint(path, pickles=True) as reader:
        summary = summary_of(reader.manifest)
    if as_json:
        typer.echo(json.dumps(summary, sort_keys=True))
        return
    for name, value in summary.items():
        if name == "tiers":
            for tier in summary["tiers"]:
                typer.echo("tier  " + ", ".join(f"{key} {told}" for key, told in tier.items()))
        elif name.endswith("bytes"):
            typer.echo(f"{name.replace('_', ' '):24} {format_size(value)}")
        else:
            typer.echo(f"{name.replace('_', ' '):24} {value}")


def summary_of(manifest: Manifest) -> dict[str, Any]:
    """What ``inspect`` tells; its JSON is this mapping.

    ``active_parameters`` bounds what one token touches (SPEC-001): all dense parameters, and per
    layer with experts the most that may run, each as large as the largest.
    """
    dense = sum(record.num_elements for record in manifest.tensors)
    layers = len({expert.key.layer for expert in manifest.experts})
    largest = max((expert.num_parameters for expert in manifest.experts), default=0)
    running = sum(tier.active_experts for tier in manifest.tiers)
    tiers = []
    for tier in manifest.tiers:
        held = [expert for expert in manifest.experts if expert.key.tier == tier.id]
        tiers.append(
            {
                "name": tier.name,
                "placement": tier.placement.name.lower(),
                "experts": len(held),
                "parameters": sum(expert.num_parameters for expert in held),
                "budget": tier.parameter_budget,
                "bytes": sum(expert.num_bytes for expert in held),
            }
        )
    return {
        "model": manifest.model,
        "version": manifest.version,
        "architecture": ", ".join(manifest.architecture.get("architectures") or ["unknown"]),
        "files": len(manifest.files),
        "total_bytes": manifest.num_bytes,
        "dense_parameters": dense,
        "expert_parameters": sum(expert.num_parameters for expert in manifest.experts),
        "active_parameters": dense + layers * running * largest,
        "tiers": tiers,
    }
