"""``lite-llm up``: a whole deployment in one process, for one machine and one person."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import typer

from lite_llm import agent, orchestrator
from lite_llm.cli.declarations import Declaration, declared
from lite_llm.cli.lifetime import state_directory
from lite_llm.cli.progress import Screen, open_screen
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1.orchestrator_pb2 import LoadModelRequest
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.wire import error_from, open_channel, ref_to_proto


@dataclass(frozen=True, kw_only=True)
class UpSettings:
    """Of one deployment."""

    models: tuple[Declaration, ...]
    listen: str
    """``host:port`` of OpenAI's API."""
    store: StoreSettings
    state_directory: Path | None = None
    """None: a new one, gone afterwards."""


async def up(settings: UpSettings) -> None:
    """Serve the models until cancelled; nothing is left behind."""
    async with AsyncExitStack() as house:
        state = house.enter_context(state_directory(settings.state_directory))
        store = await house.enter_async_context(open_store(settings.store))
        await house.enter_async_context(declared(store, settings.models))
        await house.enter_async_context(
            agent.running(agent.AgentSettings(state_directory=state), store)
        )
        door = await house.enter_async_context(
            orchestrator.running(
                orchestrator.OrchestratorSettings(listen_http=settings.listen), store
            )
        )
        if settings.models:
            await _load_all(settings.models, door.grpc_address)
            names = [declaration.model.name for declaration in settings.models]
            typer.echo(how_to_ask(door.http_address, names))
        else:
            typer.echo(f"listening on http://{door.http_address}/v1")
            typer.echo("no model yet: pass --model DIR", err=True)
        await asyncio.Event().wait()


async def _load_all(models: tuple[Declaration, ...], address: str) -> None:
    with open_screen() as screen:
        async with open_channel(address) as channel:
            await asyncio.gather(*(_load(model, channel, screen) for model in models))


async def _load(declaration: Declaration, channel: grpc.aio.Channel, screen: Screen) -> None:
    request = LoadModelRequest(model=ref_to_proto(declaration.model))
    try:
        async for progress in OrchestratorStub(channel).Load(request):
            screen.show(declaration.model.name, progress)
    except grpc.aio.AioRpcError as error:
        raise error_from(error, where=str(declaration.model)) from error
    screen.done(declaration.model.name)


def how_to_ask(address: str, models: Sequence[str]) -> str:
    """For a person: two ways to ask the first of ``models``, ready to paste."""
    model = models[0]
    url = f"http://{address}/v1"
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 16})
    return f"""\
serving {", ".join(models)} on {url} until Ctrl-C

  curl {url}/completions -H 'Content-Type: application/json' -d '{body}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key="none")
  print(client.completions.create(model="{model}", prompt="Hello").choices[0].text)
"""
