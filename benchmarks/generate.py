"""Tokens a second: ours beside other engines, on one model and the same prompts, in one run.

    python benchmarks/generate.py [--family mixtral] [--dtype bfloat16] [--rounds 5]
        [--python llama_cpp=OTHER/bin/python] [--engines ours,transformers_generate]

Every engine is a process of its own, made ready before the rounds begin and stopped by a signal
while it is not its turn. The rounds are interleaved, and medians are printed:

    prefill = batch * prompt / t(1 new token)
    decode  = batch * (new - 1) / (t(new tokens) - t(1 new token))

``agree`` is the share of greedy ids equal to transformers' before the first difference. Engines
that are not installed are left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from generation.work import NEW_TOKENS, PROMPT_TOKENS, Work, make

ENGINES = (
    "transformers_generate", "transformers_batching", "llama_cpp", "vllm", "ours_fast", "ours",
)  # fmt: skip
REFERENCE = "transformers_generate"
WORKER = Path(__file__).with_name("generation") / "worker.py"
Key = tuple[int, int]
"""Batch and new tokens."""


@dataclass
class Engine:
    """A child process and what it answered."""

    name: str
    process: subprocess.Popen[str]
    seconds: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    ids: dict[Key, list[list[int]]] = field(default_factory=dict)

    def ask(self, order: Any) -> dict[str, Any]:
        """One order, while all others are stopped."""
        assert self.process.stdin is not None
        os.killpg(self.process.pid, signal.SIGCONT)
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = self.answer()
        os.killpg(self.process.pid, signal.SIGSTOP)
        return answer  # type: ignore[no-any-return]

    def answer(self) -> Any:
        """The next line; :class:`RuntimeError` if the process has ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """With all that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def started(name: str, work: Work, python: str, log: Path) -> Engine | None:
    """Ready to be asked; None if it can't be had, with the reason printed."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(work.threads), HF_HUB_OFFLINE="1")
    if name.startswith("ours"):  # as the agent starts a worker
        environment.setdefault("GOMP_SPINCOUNT", "50000")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [python, str(WORKER), name, json.dumps(asdict(work))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True, env=environment,
        )  # fmt: skip
    engine = Engine(name, process)
    try:
        engine.answer()
    except RuntimeError:
        why = log.read_text(errors="replace").strip().splitlines()
        print(f"{name} is left out: {why[-1] if why else 'no reason given'}", file=sys.stderr)
        return None
    os.killpg(process.pid, signal.SIGSTOP)
    return engine


def agreement(engine: Engine, reference: Engine) -> float:
    """Share of ids equal to the reference's before the first difference."""
    same = total = 0
    for key, ids in engine.ids.items():
        for mine, theirs in zip(ids, reference.ids[key], strict=True):
            total += len(theirs)
            for one, other in zip(mine, theirs, strict=False):
                if one != other:
                    break
                same += 1
    return same / total if total else 0.0


def rates(engine: Engine, batch: int) -> tuple[float, float]:
    """Prefill and decode, tokens a second."""
    first = statistics.median(engine.seconds[batch, 1])
    whole = statistics.median(engine.seconds[batch, NEW_TOKENS])
    return batch * PROMPT_TOKENS / first, batch * (NEW_TOKENS - 1) / max(1e-9, whole - first)


def table(engines: list[Engine], batches: list[int], work: Work, read: float, gemm: float) -> str:
    """Markdown, with the ratios to the ceilings and to transformers."""
    by_name = {engine.name: engine for engine in engines}
    reference = by_name.get(REFERENCE)
    size = 4 if work.dtype == "float32" else 2
    lines = [
        f"{work.family}, {work.parameters / 1e6:.0f} M parameters, {work.dtype}, "
        f"{work.threads} threads; reads {read / 1e9:.1f} GB/s, multiplies {gemm / 1e9:.0f} GFLOP/s",
        "",
        "| engine | " + " | ".join(f"prefill {b} | decode {b}" for b in batches)
        + " | decode 1 of read | prefill of product | agree |",
        "|---" * (2 * len(batches) + 4) + "|",
    ]  # fmt: skip
    for engine in engines:
        both = [rates(engine, batch) for batch in batches]
        of_read = both[0][1] * work.read_parameters * size / read
        of_gemm = max(prefill for prefill, _ in both) * 2 * work.read_parameters / gemm
        agree = agreement(engine, reference) if reference else float("nan")
        cells = " | ".join(f"{prefill:.0f} | {decode:.0f}" for prefill, decode in both)
        lines.append(f"| {engine.name} | {cells} | {of_read:.2f} | {of_gemm:.2f} | {agree:.2f} |")
    if "ours" in by_name:
        for engine in engines:
            ratios = [f"{rates(by_name['ours'], b)[1] / rates(engine, b)[1]:.2f}" for b in batches]
            lines.append(f"decode, ours / {engine.name}: {', '.join(ratios)}")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=("llama", "qwen3", "mixtral"), default="llama")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--python", action="append", default=[], help="ENGINE=INTERPRETER")
    parser.add_argument("--directory", type=Path, help="kept, and used again")
    parser.add_argument("--json", type=Path, help="all times go here")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the children
    batches = [int(batch) for batch in given.batches.split(",")]
    pythons = dict(pair.split("=", 1) for pair in given.python)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.directory or Path(temporary)) / f"{given.family}-{given.dtype}"
        make(folder, given.family, given.dtype)
        work = Work(str(folder), given.family, given.dtype, given.threads, max(batches))
        names = ["machine", *given.engines.split(",")]
        running = [
            engine
            for name in names
            if (engine := started(name, work, pythons.get(name, sys.executable), folder / name))
        ]
        try:
            machine, *engines = running
            keys = [(batch, new) for batch in batches for new in (1, NEW_TOKENS)]
            ceilings = defaultdict(list)
            for round_number in range(given.rounds + 1):  # the first one warms up
                for what in ("read", "gemm"):
                    ceilings[what].append(machine.ask(what)["result"])
                for key in keys:
                    for engine in engines:
                        answer = engine.ask(key)
                        engine.ids[key] = answer["result"]
                        if round_number:
                            engine.seconds[key].append(answer["seconds"])
                print(f"round {round_number} of {given.rounds}", file=sys.stderr)
        finally:
            for engine in running:
                engine.end()
        best = {what: max(values) for what, values in ceilings.items()}
        print(table(engines, batches, work, best["read"], best["gemm"]))
        if given.json:
            times = {
                engine.name: {f"{batch}x{new}": s for (batch, new), s in engine.seconds.items()}
                for engine in engines
            }
            given.json.write_text(json.dumps({"ceilings": ceilings, "seconds": times}))


if __name__ == "__main__":
    main()
