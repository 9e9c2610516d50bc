"""A run's state on disk: replaced as a whole, so that a kill leaves the last one or the next."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lite_llm.contracts.errors import Conflict, Corrupt
from lite_llm.training.recipe import Recipe

STATE_NAME: Final = "state.safetensors"


@dataclass(frozen=True)
class State:
    """Everything that the next step depends on, beside recipe and corpus."""

    step: int
    """Steps done."""
    groups: Mapping[str, Mapping[str, Tensor]]
    """Tensors by what they are, then by name."""


def save_state(directory: Path, state: State, run_id: str) -> None:
    """Flushed before it takes the place of the one before."""
    tensors = {
        f"{group}/{name}": tensor.detach()
        for group, named in state.groups.items()
        for name, tensor in named.items()
    }
    partial = directory / f".{STATE_NAME}.partial"
    # One entry: several are written in any order.
    save_file(tensors, partial, {"state": json.dumps({"step": state.step, "run": run_id})})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(directory / STATE_NAME)


def load_state(directory: Path, run_id: str) -> State | None:
    """What :func:`save_state` wrote last, or None.

    Raises :class:`Conflict` for another run's and :class:`Corrupt` for what is no state.
    """
    path = directory / STATE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["state"])
            groups: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
            step, run = int(metadata["step"]), metadata["run"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise Corrupt(
            f"{path} is no state of a training run", where=str(path), remedy="remove it"
        ) from error
    if run != run_id:
        raise Conflict(
            f"{directory} holds another run, of another recipe or corpus",
            where=str(path),
            remedy="choose another directory, or remove it to begin anew",
        )
    return State(step, groups)


def run_id(recipe: Recipe, corpus_digest: str) -> str:
    """What must be the same for a run to go on."""
    fields = {**asdict(recipe), "corpus": corpus_digest, "torch": torch.__version__}
    return json.dumps(fields, sort_keys=True)
