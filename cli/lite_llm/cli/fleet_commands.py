"""The commands that ask a running orchestrator, with their options; see :mod:`lite_llm.cli.app`."""

from __future__ import annotations

from typing import Annotated

import typer

_DOOR = "The orchestrator"

Url = Annotated[
    str,
    typer.Option("--url", envvar="LITE_LLM_URL", help="Of an orchestrator.", rich_help_panel=_DOOR),
]
Key = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="LITE_LLM_API_KEY",
        help="Better in the environment than on a command line that others can read. status, models"
        " and agents need an administrator's.",
        rich_help_panel=_DOOR,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
HERE = "http://127.0.0.1:8080"


def status(url: Url = HERE, api_key: Key = "", as_json: AsJson = False) -> None:
    """Draw the fleet: agents, what lies in their tiers, models with their state and the reason."""
    from lite_llm.cli.door import Door
    from lite_llm.cli.fleet import show

    show(Door(url, api_key), agents=True, models=True, as_json=as_json)


def models(url: Url = HERE, api_key: Key = "", as_json: AsJson = False) -> None:
    """List the models: where they are, how many agents have them, and why."""
    from lite_llm.cli.door import Door
    from lite_llm.cli.fleet import show

    show(Door(url, api_key), agents=False, models=True, as_json=as_json)


def agents(url: Url = HERE, api_key: Key = "", as_json: AsJson = False) -> None:
    """List the agents, with a bar for each tier."""
    from lite_llm.cli.door import Door
    from lite_llm.cli.fleet import show

    show(Door(url, api_key), agents=True, models=False, as_json=as_json)


def chat(
    model: Annotated[
        str | None, typer.Argument(help="Left out: the only one that is served.")
    ] = None,
    url: Url = HERE,
    api_key: Key = "",
    system: Annotated[str, typer.Option(help="Said to the model before everything.")] = "",
    tier_set: Annotated[str, typer.Option(help="fast, balanced, deep, max or tier names.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 512,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    seed: Annotated[int, typer.Option(help="The same seed and words give the same answer.")] = 0,
    complete: Annotated[
        bool,
        typer.Option("--complete", help="Continue texts, for models without a chat template."),
    ] = False,
) -> None:
    """Talk to a served model. Ctrl-C ends an answer, Ctrl-D the talk; each line is one turn."""
    from lite_llm.cli.chat import ChatSettings, talk
    from lite_llm.cli.door import Door

    settings = ChatSettings(
        model=model,
        system=system,
        tier_set=tier_set,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        complete=complete,
    )
    talk(Door(url, api_key), settings)
