"""Runs the conversion process and follows what it tells."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lite_llm.contracts import errors
from lite_llm.contracts.errors import Internal, LiteLLMError

WORDS_KEPT = 4000  # of what a process that died said last


async def convert(source: Path, target: Path, progress: Callable[[int, int], None]) -> str:
    """The digest of the checkpoint in ``target``, made of the one in ``source``.

    A conversion that was killed goes on where it stopped. Raises what
    :func:`lite_llm.checkpoint.convert` does. Cancelled, it takes its process along.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lite_llm.registry.conversion_process", str(source), str(target),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stderr
    words = asyncio.create_task(process.stderr.read())
    told: dict[str, Any] = {}
    try:
        async for line in process.stdout:
            told = json.loads(line)
            if "done" in told:
                progress(told["done"], told["total"])
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        said = (await words).decode(errors="replace")
    if "digest" in told and process.returncode == 0:
        return str(told["digest"])
    if "message" in told:
        raise _rebuilt(told)
    raise Internal(
        f"the conversion ended with {process.returncode}: {said[-WORDS_KEPT:].strip()}",
        where=str(source),
        remedy="see the log; it goes on where it stopped",
    )


def _rebuilt(told: dict[str, Any]) -> LiteLLMError:
    kind = getattr(errors, told["kind"], Internal)
    error: LiteLLMError = kind(told["message"], where="conversion", remedy=told["remedy"])
    return error
