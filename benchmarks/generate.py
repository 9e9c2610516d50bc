"""Tokens a second: ours beside other engines, on one model and the same prompts, in one run.

    python benchmarks/generate.py [--rows llama-float32,mixtral-bfloat16,turns,host] [--rounds 5]
        [--python llama_cpp=OTHER/bin/python] [--engines ours,transformers_generate] [--quick]

A row is a model's family and dtype, or one of what a server adds: ``turns``, the first token of a
conversation's second turn, ``host``, work outside the model in a step of 64 sequences, and
``profile``, the kernels of a step. All of them run unless told otherwise.

Every engine is a process of its own, made ready before the rounds begin and stopped by a signal
while it is not its turn. The rounds are interleaved, and medians are printed:

    prefill = batch * prompt / t(1 new token)
    decode  = batch * (new - 1) / (t(new tokens) - t(1 new token))

``--quick`` fits all rows into some six minutes of two quiet cores: one round, no profile, our
``fast`` mode on one model alone, and bfloat16 in smaller batches, since peers take long for it.

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from generation.work import NEW_TOKENS, PROMPT_TOKENS, Work, make

ENGINES = (
    "transformers_generate", "transformers_batching", "llama_cpp", "vllm", "ours_fast", "ours",
)  # fmt: skip
MODELS = (
    "llama-float32", "llama-bfloat16", "mixtral-float32", "mixtral-bfloat16", "qwen3-float32",
)  # fmt: skip
ROWS = (*MODELS[:4], "turns", "host", "profile")
REFERENCE = "transformers_generate"
QUICK_BATCH = 8
"""The largest of bfloat16 with ``--quick``."""
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
        answer: dict[str, Any] = self.answer()
        os.killpg(self.process.pid, signal.SIGSTOP)
        return answer

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
    if name in ("ours", "ours_fast", "turns", "host", "profile"):  # as the agent starts a worker
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
            pairs = [(rates(by_name["ours"], b), rates(engine, b)) for b in batches]
            for place, what in enumerate(("prefill", "decode")):
                ratios = [f"{ours[place] / theirs[place]:.2f}" for ours, theirs in pairs]
                lines.append(f"{what}, ours / {engine.name}: {', '.join(ratios)}  ")
    return "\n".join(lines)


def race(row: str, given: argparse.Namespace) -> str:
    """All engines on one model: a table, and the ratios to ours."""
    family, dtype = row.split("-")
    batches = [int(batch) for batch in given.batches.split(",")]
    names, rounds = given.engines.split(","), range(given.rounds + 1)  # the first one warms up
    if given.quick:
        batches = [batch for batch in batches if dtype == "float32" or batch <= QUICK_BATCH]
        names = [name for name in names if name != "ours_fast" or row == MODELS[0]]
        rounds = range(1, 2)
    with work_of(family, dtype, given, max(batches)) as work:
        with running(["machine", *names], work, given.python) as all_of_them:
            machine, *engines = all_of_them
            ceilings = defaultdict(list)
            for number in rounds:
                for what in ("read", "gemm"):
                    ceilings[what].append(machine.ask(what)["result"])
                for batch in batches:
                    for new in (1, NEW_TOKENS):
                        for engine in engines:
                            answer = engine.ask((batch, new))
                            engine.ids[batch, new] = answer["result"]
                            if number:
                                engine.seconds[batch, new].append(answer["seconds"])
                print(f"{row}: round {number} of {rounds[-1]}", file=sys.stderr)
        best = {what: max(values) for what, values in ceilings.items()}
        return table(engines, batches, work, best["read"], best["gemm"])


def serving(row: str, given: argparse.Namespace) -> str:
    """Ours alone: seconds of the two turns, or of a step and of the host's part in it."""
    labels = {
        "turns": ("first turn", "second turn", "second / first"),
        "host": ("step", "outside the model", "share"),
    }[row]
    with work_of("llama", "float32", given, 1) as work, running([row], work, []) as (engine,):
        rounds = 1 if given.quick else given.rounds
        pairs = [engine.ask(number)["result"] for number in range(rounds + 1)][1:]
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(after / before for before, after in pairs)
    return "\n".join([
        f"| | {labels[0]}, ms | {labels[1]}, ms | {labels[2]} |",
        "|---|---|---|---|",
        f"| {row} | {1e3 * first:.1f} | {1e3 * second:.1f} | {ratio:.3f} |",
    ])  # fmt: skip


def profile(given: argparse.Namespace) -> str:
    """Where a decode step's time goes, by kind of kernel."""
    with (
        work_of("llama", "float32", given, 1) as work,
        running(["profile"], work, []) as (engine,),
    ):
        rounds = [engine.ask(number)["result"] for number in range(given.rounds + 3)][3:]
    lines = ["| kernel | launches | ms |", "|---|---|---|"]
    for name in sorted(rounds[0], key=lambda name: -rounds[0][name][0]):
        seconds = statistics.median(found[name][0] for found in rounds)
        lines.append(f"| {name} | {rounds[0][name][1]} | {1e3 * seconds:.3f} |")
    return "\n".join(lines)


@contextmanager
def work_of(family: str, dtype: str, given: argparse.Namespace, most: int) -> Iterator[Work]:
    """A model, made if it is not there, and kept where a directory is given."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.directory or Path(temporary)) / f"{family}-{dtype}"
        make(folder, family, dtype)
        yield Work(str(folder), family, dtype, given.threads, most)


@contextmanager
def running(names: list[str], work: Work, pythons: list[str]) -> Iterator[list[Engine]]:
    """The engines that can be had, ready to be asked; ended when the block ends."""
    interpreters, engines = dict(pair.split("=", 1) for pair in pythons), list[Engine]()
    try:
        for name in names:
            log = Path(work.directory) / f"{name}.log"
            engine = started(name, work, interpreters.get(name, sys.executable), log)
            if engine is not None:
                engines.append(engine)
        yield engines
    finally:
        for engine in engines:
            engine.end()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", default=",".join(ROWS), help=f"of {', '.join((*MODELS, *ROWS[4:]))}"
    )
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--python", action="append", default=[], help="ENGINE=INTERPRETER")
    parser.add_argument("--quick", action="store_true", help="every row, in some six minutes")
    parser.add_argument("--directory", type=Path, help="models are kept there, and used again")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the children
    for row in given.rows.split(","):
        if row == "profile" and given.quick:
            continue
        if row == "profile":
            result = profile(given)
        else:
            result = (race if row in MODELS else serving)(row, given)
        print(f"## {row}\n\n{result}\n", flush=True)


if __name__ == "__main__":
    main()
