"""``make demo``: the whole product in a minute, shown and checked; exits 0 only if all of it held.

A fleet of three agents on a real etcd serves the demo model. An agent is killed in the middle of an
answer, the model goes to zero and comes back, and every TierSet is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from story.fleet import Answer, Fleet, running_fleet

from lite_llm.cli.bundled import bundled_model

PROMPT: Final = "def __init__(self, name"
TOKENS: Final = 160
KILLED_AFTER: Final = 12  # pieces of text
IDLE_SECONDS: Final = 2
MODES: Final = {"fast": 1, "balanced": 2, "deep": 3, "max": 4}
"""TierSets, and how many of the demo model's tiers belong to each."""

console = Console(highlight=False)


@dataclass
class Findings:
    """What was seen, and whether it was as it must be."""

    rows: list[tuple[str, str, bool]] = field(default_factory=list)

    def add(self, what: str, seen: str, *, held: bool) -> None:
        self.rows.append((what, seen, held))
        console.print(f"[{'green' if held else 'red'}]{escape(what)}[/]: {escape(seen)}\n")

    @property
    def all_held(self) -> bool:
        return all(held for _, _, held in self.rows)

    def table(self) -> Table:
        table = Table("what", "seen", "held", title="What this run saw")
        for what, seen, held in self.rows:
            table.add_row(escape(what), escape(seen), "[green]yes[/]" if held else "[red]NO[/]")
        return table


def streams(fleet: Fleet, findings: Findings) -> Answer:
    """The first answer ever: cold, and explained."""
    answer = fleet.ask(PROMPT, max_tokens=TOKENS)
    console.print(escape(PROMPT + answer.text), style="dim")
    table = Table(
        "agent", "score", "cache level", "prefix hits", "queue", "load, s", title="Why this agent"
    )
    for each in answer.told["candidates"]:
        table.add_row(
            each["agent"],
            f"{each['score']:.3f}",
            str(each["cache_level"]),
            f"{each['kv_hit_rate']:.2f}",
            str(each["queue_length"]),
            f"{each['load_seconds']:.3f}",
        )
    console.print(table)
    findings.add(
        "a completion streams from zero",
        f"{len(answer.token_ids)} tokens in {len(answer.seconds)} pieces from"
        f" {answer.told['agent']}, the first after {answer.seconds[0]:.2f} s",
        held=len(answer.token_ids) == TOKENS,
    )
    findings.add(
        "the score's terms are told",
        f"{len(answer.told['candidates'])} agents compared",
        held=len(answer.told["candidates"]) == len(fleet.agents),
    )
    return answer


def survives_a_kill(fleet: Fleet, findings: Findings, whole: Answer) -> None:
    """The agent that answers is killed, without a word, and the answer goes on."""
    killed: list[tuple[str, float]] = []

    def kill(piece: int) -> None:
        if piece == KILLED_AFTER:
            fleet.agents[fleet.node].process.kill()
            killed.append((fleet.node, time.monotonic()))
            console.print(f"killed {fleet.node} after {piece} pieces", style="bold")

    again = fleet.ask(PROMPT, max_tokens=TOKENS, on_piece=kill)
    (victim, _), gaps = killed[0], list(zip(again.seconds, again.seconds[1:], strict=False))
    longest = max(later - earlier for earlier, later in gaps)
    moved = fleet.door.output.count("stream moves on") > 0
    same = (again.text, again.token_ids) == (whole.text, whole.token_ids)
    findings.add(
        "an agent dies in the middle, the bytes are the same",
        f"{victim} was killed, another went on after {longest:.2f} s;"
        f" {'identical' if same else 'DIFFERENT'} text and tokens",
        held=moved and same,
    )


def comes_back_from_zero(fleet: Fleet, findings: Findings, whole: Answer, checkpoint: str) -> None:
    """Nobody asks, so it costs nothing; somebody asks, so it is there."""
    asyncio.run(fleet.declare(checkpoint, replicas=0, idle_seconds=IDLE_SECONDS))
    seconds = fleet.wait_serving(lambda nodes: not nodes, "going to zero")
    findings.add("the model goes to zero", f"on no agent after {seconds:.1f} s", held=True)
    answer = fleet.ask(PROMPT, max_tokens=TOKENS)
    start = answer.told.get("cold_start") or {"path": "none", "held": 0.0, "phases": {}}
    table = Table("phase", "ms", title=f"Back from zero ({start['path']})")
    for phase, took in start["phases"].items():
        table.add_row(phase, f"{took * 1000:.0f}")
    console.print(table)
    findings.add(
        "and back, with the same bytes",
        f"first piece after {answer.seconds[0]:.2f} s, held {start['held']:.2f} s",
        held=answer.text == whole.text and bool(start["phases"]),
    )


def asks_each_tier_set(fleet: Fleet, findings: Findings, whole: Answer) -> None:
    """The same question to a growing part of the model."""
    table = Table("TierSet", "tiers", "ms a token", "answer", title="TierSets")
    answers = {}
    for mode in MODES:
        answer = answers[mode] = fleet.ask(PROMPT, max_tokens=TOKENS, tier_set=mode)
        pace = (answer.seconds[-1] - answer.seconds[0]) / max(TOKENS - 1, 1) * 1000
        begins = " ".join(answer.text.split())[:48]
        table.add_row(mode, ", ".join(answer.told["tiers"]), f"{pace:.1f}", escape(begins))
    console.print(table)
    counts = {mode: len(answer.told["tiers"]) for mode, answer in answers.items()}
    findings.add(
        "each TierSet uses its tiers",
        ", ".join(f"{m} {n}" for m, n in counts.items()),
        held=counts == MODES,
    )
    different = len({answer.text for answer in answers.values()})
    as_before = answers["max"].text == whole.text
    findings.add(
        "less of the model answers otherwise, all of it as before",
        f"{different} different answers; max gives {'the' if as_before else 'NOT the'} answer"
        " without a TierSet",
        held=different > 1 and as_before,
    )


def main() -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--model", type=Path, help="an HSER checkpoint of four tiers")
    checkpoint = (parser.parse_args().model or bundled_model()).resolve().as_uri()
    findings, started = Findings(), time.monotonic()
    console.print("starting etcd, three agents and an orchestrator …")
    with running_fleet() as fleet:
        took = time.monotonic() - started
        findings.add("a fleet of three on a real etcd", f"up in {took:.1f} s", held=True)
        asyncio.run(fleet.declare(checkpoint, replicas=0, idle_seconds=600))
        whole = streams(fleet, findings)
        asyncio.run(fleet.declare(checkpoint, replicas=2, idle_seconds=600))
        fleet.wait_serving(lambda nodes: len(nodes) >= 2, "a second replica")
        survives_a_kill(fleet, findings, whole)
        asks_each_tier_set(fleet, findings, whole)
        comes_back_from_zero(fleet, findings, whole, checkpoint)
    console.print(findings.table())
    sys.exit(0 if findings.all_held else 1)


if __name__ == "__main__":
    main()
