"""``lite-llm chat``: a talk in the terminal, streamed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import typer

from lite_llm.cli.door import Door
from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.errors import InvalidRequest, ModelNotFound


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """Of one talk."""

    model: str | None = None
    """None: the only one that is served."""
    system: str = ""
    tier_set: str = ""
    max_tokens: int = 512
    temperature: float | None = None
    """None: the model's own."""
    seed: int = 0
    complete: bool = False
    """Continue texts instead of answering messages."""


def talk(door: Door, settings: ChatSettings) -> None:
    """Read lines until the end of input; an error of one answer does not end the talk of a person,
    but that of a script."""
    model = settings.model or only_model(door)
    asks = sys.stdin.isatty()
    if asks:
        typer.secho(f"{model} on {door.url}; Ctrl-C ends an answer, Ctrl-D the talk", dim=True)
    said: list[dict[str, str]] = []
    if settings.system:
        said.append({"role": "system", "content": settings.system})
    for line in lines(asks=asks):
        turn = [*said, {"role": "user", "content": line}]
        try:
            answer = "".join(written(answered(door, settings, model, turn)))
        except LiteLLMError as error:
            if not asks:
                raise
            typer.secho(f"\n{error}", fg="red", err=True)
            continue
        said = [*turn, {"role": "assistant", "content": answer}]


def only_model(door: Door) -> str:
    """The one that the key may see; raises if there are none or several."""
    models = door.get("/v1/models")["data"]
    own = [each["id"] for each in models if "root" not in each]
    names = own or [each["id"] for each in models]  # a key may see no more than further names
    if not names:
        raise ModelNotFound(
            f"no model is served at {door.url}", where="MODEL", remedy="lite-llm up --model DIR"
        )
    if len(names) > 1:
        raise InvalidRequest(
            "several models are served", where="MODEL", remedy=f"name one of {', '.join(names)}"
        )
    return str(names[0])


def lines(*, asks: bool) -> Iterator[str]:
    """What is typed, or comes through a pipe; empty lines are no turns."""
    while True:
        try:
            line = input("> " if asks else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            typer.echo()
            continue
        if line.strip():
            yield line


def answered(
    door: Door, settings: ChatSettings, model: str, turn: list[dict[str, str]]
) -> Iterator[str]:
    """The pieces of one answer."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
    }
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.tier_set:
        body["lite_llm"] = {"tier_set": settings.tier_set}
    if settings.complete:
        body["prompt"] = turn[-1]["content"]
        chunks = door.stream("/v1/completions", body)
    else:
        body["messages"] = turn
        chunks = door.stream("/v1/chat/completions", body)
    for chunk in chunks:
        for choice in chunk.get("choices", ()):
            text = choice.get("text") or choice.get("delta", {}).get("content")
            if text:
                yield text


def written(pieces: Iterator[str]) -> Iterator[str]:
    """Passed on as they are shown; Ctrl-C ends them, and withdraws the request."""
    with closing(pieces):  # type: ignore[type-var]  # generators have a close
        try:
            for piece in pieces:
                typer.echo(piece, nl=False)
                yield piece
        except KeyboardInterrupt:
            pass
    typer.echo()
