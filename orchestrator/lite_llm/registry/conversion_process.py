"""One conversion in a process of its own, so that it slows no stream: a JSON line per step.

``python -m lite_llm.registry.conversion_process SOURCE TARGET``; the last line holds either the
digest of the index or the error.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from lite_llm.checkpoint import INDEX_NAME, convert
from lite_llm.contracts import LiteLLMError

STEP_SECONDS = 0.5  # between two lines
WORDS_TOLD = (
    2000  # of an error: a line has to be read at once, and names in it can be of any length
)


def main(source: Path, target: Path) -> None:
    """Convert, and tell standard output."""
    os.nice(10)
    told = 0.0
    try:
        for step in convert(source, target):
            if time.monotonic() - told > STEP_SECONDS:
                told = time.monotonic()
                _tell(done=step.done_bytes, total=step.total_bytes)
    except LiteLLMError as error:
        _tell(kind=type(error).__name__, message=error.message[:WORDS_TOLD], remedy=error.remedy)
    else:
        _tell(digest=hashlib.sha256((target / INDEX_NAME).read_bytes()).hexdigest())


def _tell(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
