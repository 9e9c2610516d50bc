"""Where on this machine a model lies while it is ingested: one directory for each of its contents.

They hold as many bytes as the model; none may stay that nobody will go on with.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

from lite_llm.contracts import ModelRef

NAME_LENGTH: Final = 16
"""Of the name of a content: no model's name can make one directory look like another's."""

_CONTENT = re.compile(rf"(?<=\.)[0-9a-f]{{{NAME_LENGTH}}}$")


def scratch_of(scratch: Path, model: ModelRef, name: str) -> Path:
    """The directory for the content that ``name``, of :data:`NAME_LENGTH` letters, stands for."""
    return scratch / f"{model.namespace}.{model.name}.{name}"


def clear_scratch(scratch: Path, model: ModelRef, *, keep: str = "") -> None:
    """Remove what ingestions of ``model`` left, but for the content ``keep``."""
    for path in scratch.glob(scratch_of(scratch, model, "?" * NAME_LENGTH).name):
        if path.name != scratch_of(scratch, model, keep).name:
            shutil.rmtree(path, ignore_errors=True)


def collect_scratch(scratch: Path, models: Collection[ModelRef]) -> None:
    """Remove what ingestions left of models other than ``models``.

    They may have been deleted while another orchestrator ingested, or while this one was away.
    """
    known = {scratch_of(scratch, model, "").name for model in models}
    if not scratch.is_dir():
        return
    for path in scratch.iterdir():
        if _CONTENT.search(path.name) and _CONTENT.sub("", path.name) not in known:
            shutil.rmtree(path, ignore_errors=True)
