"""The commands for checkpoints, with their options; see :mod:`lite_llm.cli.app`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lite_llm.trust import PublicKey

Checkpoint = Annotated[Path, typer.Argument(help="Directory of a checkpoint.")]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
Keys = Annotated[
    list[Path] | None,
    typer.Option("--key", help="Ed25519 public key to trust. May be repeated."),
]


def keygen(
    path: Annotated[Path, typer.Argument(help="File for the private key; .pub is put beside it.")],
) -> None:
    """Make a pair of Ed25519 keys to sign checkpoints with. Nothing is written over."""
    from lite_llm.cli.checkpoints import keygen_command

    keygen_command(path)


def convert(
    source: Checkpoint,
    target: Annotated[Path, typer.Argument(help="Directory to make.")],
    tiers: Annotated[
        Path | None, typer.Option(help="YAML or JSON file that assigns experts to tiers.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, float16 or bfloat16; left out: as it is.")
    ] = "",
    model: Annotated[str, typer.Option(help="The model's name; left out: the source's.")] = "",
    version: Annotated[str, typer.Option(help="As name-v1.2.3; left out: the source's.")] = "",
    max_file: Annotated[
        str, typer.Option(metavar="SIZE", help="Of each .bin file, such as 512MiB.")
    ] = "4GiB",
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Ed25519 private key to sign with.")
    ] = None,
) -> None:
    """Write a checkpoint in our own format. Run again after an interruption, it goes on."""
    from lite_llm.checkpoint import ConvertOptions, load_rules
    from lite_llm.cli.checkpoints import convert_command
    from lite_llm.contracts import parse_size
    from lite_llm.trust import PrivateKey

    options = ConvertOptions(
        dtype=dtype,
        tiers=load_rules(tiers) if tiers else None,
        model=model,
        version=version,
        max_file_bytes=parse_size(max_file),
        key=PrivateKey.load(sign) if sign else None,
    )
    convert_command(source, target, options)


def inspect(
    path: Checkpoint,
    gpu: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory of GPUs; left out: this machine's.")
    ] = "",
    dram: Annotated[
        str, typer.Option(metavar="SIZE", help="Ordinary memory; left out: this machine's.")
    ] = "",
    nvme: Annotated[
        str, typer.Option(metavar="SIZE", help="Room on disk; left out: what is free there now.")
    ] = "",
    key: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds and where its weights would fit, without reading them."""
    from lite_llm.cli.checkpoints import check_directory
    from lite_llm.cli.fitting import Room
    from lite_llm.cli.inspection import inspect_command
    from lite_llm.cli.machine import device_bytes, disk_bytes, memory_bytes
    from lite_llm.contracts import parse_size

    check_directory(path)
    room = Room(
        gpu=parse_size(gpu) if gpu else device_bytes(),
        dram=parse_size(dram) if dram else memory_bytes(),
        nvme=parse_size(nvme) if nvme else disk_bytes(path),
    )
    inspect_command(path, room=room, keys=_loaded(key), as_json=as_json)


def verify(
    path: Checkpoint,
    key: Keys = None,
    allow_unsigned: Annotated[
        bool, typer.Option(help="With --key: no signature is fine, a wrong one is not.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a checkpoint and name each that is wrong."""
    from lite_llm.cli.checkpoints import signature_policy, verify_command

    policy = signature_policy(_loaded(key), allow_unsigned=allow_unsigned)
    verify_command(path, policy=policy, as_json=as_json)


def _loaded(paths: list[Path] | None) -> list[PublicKey]:
    from lite_llm.trust import PublicKey

    return [PublicKey.load(path) for path in paths or ()]
