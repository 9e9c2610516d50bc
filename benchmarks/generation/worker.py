"""A process of its own for each engine: ``python worker.py ENGINE WORK`` with orders on stdin.

An order is a line of JSON, ``[batch, new tokens]``; the answer is one too, with seconds and ids.
Only the standard library and what the engine needs is imported: its interpreter may be another.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from generation.work import Work, prompts


def main() -> None:
    """Until stdin ends."""
    name, work = sys.argv[1], Work(**json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print; the answers' line is ours alone
    obey = _obedient(name, work)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        began = perf_counter()
        result = obey(order)
        answer = {"seconds": perf_counter() - began, "result": result}
        print(json.dumps(answer), file=answers, flush=True)
    answers.close()
    os._exit(0)  # some engines leave threads behind that never end


def _obedient(name: str, work: Work) -> Callable[[Any], object]:
    if name == "machine":
        from generation import machine

        return lambda order: machine.run(work, order)
    if name in ("turns", "host", "profile"):
        from generation import serving

        return getattr(serving, name)(work)  # type: ignore[no-any-return]
    from generation import ours, peers

    run: peers.Run = (getattr(peers, name, None) or getattr(ours, name))(work)
    run(prompts(1), 1)
    return lambda order: run(prompts(order[0]), order[1])


if __name__ == "__main__":
    main()
