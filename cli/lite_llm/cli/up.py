"""``lite-llm up``: a whole deployment in one process, for one machine and one person."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import typer

from lite_llm import agent, orchestrator
from lite_llm.agent.settings import host_node
from lite_llm.cli.declarations import Declaration, declared
from lite_llm.cli.dtypes import converted
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
    agents: int = 1
    """A small fleet on one machine, each with a node name of its own."""
    dtype: str = ""
    """That models of this machine are converted to; empty: as they are."""
    hot_bytes: int | None = None
    """Where experts run; None: all of them are held."""
    warm_bytes: int = 0
    """Memory behind that, for experts that others pushed out."""
    cold_directory: Path | None = None
    """Disk cache of what comes from stores; None: below the state's directory."""
    prompt: str = "Hello"
    """Of the examples that are printed."""


async def up(settings: UpSettings) -> None:
    """Serve the models until cancelled; nothing is left behind."""
    async with AsyncExitStack() as house:
        state = house.enter_context(state_directory(settings.state_directory))
        # Workers' torch makes this folder in any case, and by default it would outlive us.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(state / "inductor"))
        models = await asyncio.to_thread(
            converted, settings.models, settings.dtype, state / "converted"
        )
        store = await house.enter_async_context(open_store(settings.store))
        await house.enter_async_context(declared(store, models))
        for fleet_member in _fleet(settings, state):
            await house.enter_async_context(agent.running(fleet_member, store))
        door = await house.enter_async_context(
            orchestrator.running(
                orchestrator.OrchestratorSettings(listen_http=settings.listen), store
            )
        )
        await _load_all(models, door.grpc_address)
        names = [declaration.model.name for declaration in models]
        typer.echo(how_to_ask(door.http_address, names, settings.prompt))
        await asyncio.Event().wait()


def _fleet(settings: UpSettings, state: Path) -> Iterator[agent.AgentSettings]:
    """One agent is the whole machine's; of several, each has its own name, state and cache."""
    cache = settings.cold_directory
    for number in range(1, settings.agents + 1):
        alone = settings.agents == 1
        yield agent.AgentSettings(
            node=host_node() if alone else f"{host_node()[:40]}-{number}",
            state_directory=state if alone else state / f"agent-{number}",
            cache_directory=cache if alone or cache is None else cache / f"agent-{number}",
            expert_hot_bytes=settings.hot_bytes,
            expert_warm_bytes=settings.warm_bytes,
        )


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


def how_to_ask(address: str, models: Sequence[str], prompt: str = "Hello") -> str:
    """For a person: two ways to ask the first of ``models``, ready to paste."""
    model, url = models[0], f"http://{address}/v1"
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": 32, "temperature": 0})
    asking = f"model={model!r}, prompt={prompt!r}, max_tokens=32, temperature=0"
    return f"""\
console: http://{address}/console
serving {", ".join(models)} on {url} until Ctrl-C

  curl {url}/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}

  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key="none")
  print(client.completions.create({asking}).choices[0].text)
"""
