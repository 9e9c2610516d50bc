"""``lite-llm status``, ``models`` and ``agents``: the fleet in a terminal, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lite_llm.cli.door import Door
from lite_llm.contracts import DEFAULT_NAMESPACE, format_size

Fields = Mapping[str, Any]

BAR_WIDTH = 12
MEDIA = {
    "MEDIUM_GPU": "gpu",
    "MEDIUM_DRAM": "memory",
    "MEDIUM_NVME": "disk",
    "MEDIUM_SATA": "sata",
    "MEDIUM_OBJECT_STORE": "store",
}
NEAREST_FIRST = ("active", "expanding", "recovering", "frozen", "warm", "init")
_COLOURS = {"active": "green", "expanding": "green", "recovering": "red", "frozen": "yellow"}
_SERVING = ("active", "expanding")


def show(door: Door, *, agents: bool, models: bool, as_json: bool) -> None:
    """Print the wanted parts of the fleet."""
    fleet = door.get("/lite-llm/v1/fleet")
    wanted = {"agents": agents, "models": models}
    if as_json:
        told = {name: fleet.get(name, []) for name, is_wanted in wanted.items() if is_wanted}
        typer.echo(json.dumps({**told, "held_requests": fleet["held_requests"]}, sort_keys=True))
        return
    console = Console(highlight=False)
    if agents:
        console.print(agents_table(fleet.get("agents", ())))
    if models:
        console.print(models_table(fleet.get("models", ()), fleet["held_requests"]))


def agents_table(agents: Sequence[Fields]) -> RenderableType:
    """A row an agent, a bar a tier."""
    if not agents:
        return "no agent has registered: start one with `lite-llm agent --etcd URL`"
    table = Table("agent", box=None, padding=(0, 2, 0, 0))
    table.add_column("tiers", min_width=BAR_WIDTH + 30)
    table.add_column("requests", no_wrap=True)
    table.add_column("health")
    for agent in agents:
        place = " ".join(filter(None, (agent.get("zone"), agent.get("price_class"))))
        running, waiting = agent.get("running_requests", 0), agent.get("waiting_requests", 0)
        table.add_row(
            Text(agent["node"]) + Text(f"\n{place}", style="dim"),
            Group(*(_medium_bar(medium) for medium in agent.get("media", ()))),
            f"{running} running\n{waiting} waiting",
            _health(agent),
        )
    return table


def models_table(models: Sequence[Fields], held: Mapping[str, int]) -> RenderableType:
    """A row a model, with the reason of its state."""
    if not models:
        return "no model is declared: `lite-llm up --model DIR`, or kubectl apply a LiteLLMModel"
    table = Table("model", "state", "agents", "held", "why", box=None, padding=(0, 2, 0, 0))
    for model in models:
        state = state_of(model)
        reference = model["spec"]["ref"]
        full = f"{reference['namespace']}/{reference['name']}"
        name = reference["name"] if reference["namespace"] == DEFAULT_NAMESPACE else full
        desired = model.get("scaling", {}).get("desired", 0)
        serving = sum(_state(each) in _SERVING for each in model.get("residencies", ()))
        table.add_row(
            Text(name),
            Text(state, style=_COLOURS.get(state, "")),
            f"{serving} of {desired}" if serving < desired else str(serving),
            str(held.get(full, 0)),
            Text(why(model)),
        )
    return table


def state_of(model: Fields) -> str:
    """Of the agent where most is possible; cold if none holds anything."""
    states = {_state(residency) for residency in model.get("residencies", ())}
    return next((state for state in NEAREST_FIRST if state in states), "cold")


def why(model: Fields) -> str:
    """The most telling of the reasons that are known."""
    ingestion = model.get("ingestion", {})
    if ingestion.get("reason") and ingestion.get("state") != "INGESTION_STATE_DONE":
        return str(ingestion["reason"])
    reasons = [each["reason"] for each in model.get("residencies", ()) if each.get("reason")]
    scaling = model.get("scaling", {}).get("reason")
    return str(next(iter(reasons), scaling or "nobody has asked for it"))


def _state(residency: Fields) -> str:
    return str(residency.get("state", "")).removeprefix("MODEL_STATE_").lower()


def _medium_bar(medium: Fields) -> RenderableType:
    capacity = int(medium.get("capacity_bytes", 0))
    used = int(medium.get("used_bytes", 0))
    row = Table.grid(padding=(0, 1))
    row.add_column(width=6)
    row.add_column(width=BAR_WIDTH)
    row.add_column(no_wrap=True)
    row.add_row(
        MEDIA.get(str(medium.get("medium")), "unknown"),
        ProgressBar(total=max(capacity, 1), completed=used, width=BAR_WIDTH),
        f"{format_size(used)} of {format_size(capacity)}",
    )
    return row


def _health(agent: Fields) -> Text:
    health = agent.get("health", {})
    if not health.get("healthy"):
        return Text(str(health.get("reason") or "unhealthy"), style="red")
    return Text("draining", style="yellow") if agent.get("draining") else Text("healthy", "green")
