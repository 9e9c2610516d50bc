"""Where on this machine a model lies while it is ingested: one directory for each of its contents.

They hold as many bytes as the model; none may stay that nobody will go on with.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from lite_llm.contracts import ModelRef

NAME_LENGTH: Final = 16
"""Of the name of a content: no model's name can make one directory look like another's."""


def scratch_of(scratch: Path, model: ModelRef, name: str) -> Path:
    """The directory for the content that ``name``, of :data:`NAME_LENGTH` letters, stands for."""
    return scratch / f"{model.namespace}.{model.name}.{name}"


def clear_scratch(scratch: Path, model: ModelRef, *, keep: str = "") -> None:
    """Remove what ingestions of ``model`` left, but for the content ``keep``."""
    for path in scratch.glob(scratch_of(scratch, model, "?" * NAME_LENGTH).name):
        if path.name != scratch_of(scratch, model, keep).name:
            shutil.rmtree(path, ignore_errors=True)
