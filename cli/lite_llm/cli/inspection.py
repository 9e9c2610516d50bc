"""What ``lite-llm inspect`` tells of a checkpoint, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from lite_llm.checkpoint import Signature, open_checkpoint, signature_of
from lite_llm.cli.checkpoints import check_directory
from lite_llm.cli.fitting import Home, Need, Room, fit
from lite_llm.contracts import format_size
from lite_llm.contracts.manifest import Manifest, TensorRecord
from lite_llm.contracts.tiers import Placement
from lite_llm.trust import PublicKey


def inspect_command(
    path: Path, *, room: Room, keys: Sequence[PublicKey] = (), as_json: bool = False
) -> None:
    """Print what a checkpoint holds; no weights are read."""
    check_directory(path)
    with open_checkpoint(path, pickles=True) as reader:
        summary = summary_of(reader.manifest, room)
    summary["signature"] = signature_words(signature_of(path, keys), keys)
    if as_json:
        typer.echo(json.dumps(summary, sort_keys=True))
        return
    for line in lines_of(summary):
        typer.echo(line)


def summary_of(manifest: Manifest, room: Room) -> dict[str, Any]:
    """What is told; the JSON is this mapping.

    ``active_parameters`` bounds what one token touches (SPEC-001): all dense parameters, and per
    layer with experts the most that may run, each as large as the largest. ``active_bytes`` is the
    same in bytes, as stored.
    """
    experts = manifest.experts
    layers = len({expert.key.layer for expert in experts})
    running = layers * sum(tier.active_experts for tier in manifest.tiers)
    dense, dense_bytes = _amount(manifest.tensors)
    largest = max((expert.num_parameters for expert in experts), default=0)
    largest_bytes = max((expert.num_bytes for expert in experts), default=0)
    needs = [Need("dense", Placement.HOT, dense_bytes, must_be_hot=True)]
    tiers = []
    for tier in manifest.tiers:
        held = [expert for expert in experts if expert.key.tier == tier.id]
        num_bytes = sum(expert.num_bytes for expert in held)
        needs.append(Need(tier.name, tier.placement, num_bytes))
        tiers.append(
            {
                "name": tier.name,
                "placement": tier.placement.name.lower(),
                "experts": len(held),
                "parameters": sum(expert.num_parameters for expert in held),
                "budget": tier.parameter_budget,
                "bytes": num_bytes,
            }
        )
    return {
        "model": manifest.model,
        "version": manifest.version,
        "architecture": ", ".join(manifest.architecture.get("architectures") or ["unknown"]),
        "files": len(manifest.files),
        "total_bytes": manifest.num_bytes,
        "dense_parameters": dense,
        "expert_parameters": sum(expert.num_parameters for expert in experts),
        "active_parameters": dense + running * largest,
        "active_bytes": dense_bytes + running * largest_bytes,
        "tiers": tiers,
        "media": {"gpu": room.gpu, "dram": room.dram, "nvme": room.nvme},
        "fit": [_home(home) for home in fit(needs, room)],
    }


def signature_words(signature: Signature, keys: Sequence[PublicKey]) -> dict[str, str]:
    """``state`` is none, unchecked, valid or wrong; ``key`` the signer's fingerprint."""
    if not signature.present:
        return {"state": "none", "key": ""}
    if signature.signer:
        return {"state": "valid", "key": signature.signer.fingerprint}
    return {"state": "wrong" if keys else "unchecked", "key": ""}


def lines_of(summary: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = []
    for name, value in summary.items():
        match name:
            case "tiers":
                for tier in value:
                    words = [f"{key} {_told(key, of)}" for key, of in tier.items() if key != "name"]
                    lines.append(_line(f"tier {tier['name']}", ", ".join(words)))
            case "media":
                sizes = ", ".join(f"{medium} {format_size(size)}" for medium, size in value.items())
                lines.append(_line("fit in", sizes))
            case "fit":
                lines += [_line(f"  {home['name']}", _home_words(home)) for home in value]
            case "signature":
                lines.append(_line("signature", " by key ".join(filter(None, value.values()))))
            case _:
                lines.append(_line(name.replace("_", " "), _told(name, value)))
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:24} {text}".rstrip()


def _told(name: str, value: Any) -> str:
    return format_size(value) if name.endswith("bytes") else str(value)


def _home(home: Home) -> dict[str, Any]:
    return {
        "name": home.need.name,
        "bytes": home.need.num_bytes,
        "wanted": home.wanted.name.lower(),
        "medium": home.medium.name.lower() if home.medium is not None else None,
        "wanted_left_bytes": home.left,
    }


def _home_words(home: dict[str, Any]) -> str:
    words = f"{format_size(home['bytes'])} in {home['medium'] or 'no medium'}"
    if home["medium"] == home["wanted"]:
        return words.replace("_", " ")
    left = format_size(home["wanted_left_bytes"])
    return f"{words}: {home['wanted']} has only {left} left".replace("_", " ")


def _amount(tensors: Sequence[TensorRecord]) -> tuple[int, int]:
    """Elements and bytes."""
    return (
        sum(record.num_elements for record in tensors),
        sum(record.span.length for record in tensors),
    )
