"""The commands. Programs are imported when a command runs: help must not wait for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_llm.cli import (
    agent_options,
    checkpoint_commands,
    fleet_commands,
    operator_command,
    options,
)
from lite_llm.cli.bench_commands import bench

app = typer.Typer(
    help="Serve many language models from one machine or one cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        envvar="LITE_LLM_STATE_DIR",
        help="Logs and sockets of workers. Left out: a temporary one, removed at the end.",
    ),
]


@app.command()
def up(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]DIR|ADDRESS",
            help="Directory of a checkpoint, Hugging Face's or a converted one, or hf://OWNER/NAME,"
            " s3://, gs://, az://, https://; the name is made of it if none is given. May be"
            " repeated. Left out: the demo model that comes along.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8080,
    agents: Annotated[
        int, typer.Option(min=1, max=16, help="So many on this machine, as a small fleet.")
    ] = 1,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16: convert models to it first.")
    ] = "",
    hot_bytes: options.HotBytes = None,
    warm_bytes: options.WarmBytes = None,
    cold_dir: options.ColdDir = None,
    state_dir: StateDir = None,
    etcd: options.Etcd = "",
    etcd_ca: options.EtcdCa = None,
    etcd_cert: options.EtcdCert = None,
    etcd_key: options.EtcdKey = None,
    etcd_user: options.EtcdUser = "",
    log_level: options.LogLevel = "warning",
    log_format: options.LogFormat = "auto",
) -> None:
    """Run everything on this machine: serve models over OpenAI's API until Ctrl-C.

    Without --model it serves the demo model; without --etcd the cluster's shared memory lives in
    this process.
    """
    from lite_llm.cli.bundled import NAME, PROMPT, bundled_model
    from lite_llm.cli.declarations import parsed
    from lite_llm.cli.lifetime import run
    from lite_llm.cli.up import UpSettings
    from lite_llm.cli.up import up as serve
    from lite_llm.telemetry import logs

    settings = UpSettings(
        models=parsed(model or [f"{NAME}={bundled_model()}"]),
        listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        store=options.store_settings(
            etcd, ca=etcd_ca, cert=etcd_cert, key=etcd_key, user=etcd_user
        ),
        state_directory=state_dir,
        agents=agents,
        dtype=dtype,
        **options.expert_budgets(hot_bytes, warm_bytes),
        cold_directory=cold_dir,
        prompt="Hello" if model else PROMPT,
    )
    logs.configure(log_level, format=log_format)
    run(serve(settings))


@app.command()
def orchestrator(
    etcd: options.Etcd,
    etcd_ca: options.EtcdCa = None,
    etcd_cert: options.EtcdCert = None,
    etcd_key: options.EtcdKey = None,
    etcd_user: options.EtcdUser = "",
    listen: Annotated[
        str, typer.Option(envvar="LITE_LLM_LISTEN", help="host:port of OpenAI's API.")
    ] = "127.0.0.1:8080",
    listen_grpc: Annotated[
        str, typer.Option(envvar="LITE_LLM_LISTEN_GRPC", help="host:port of the gRPC service.")
    ] = "127.0.0.1:8081",
    keys: Annotated[
        Path | None,
        typer.Option(
            envvar="LITE_LLM_KEYS",
            help="YAML file of tenants and hashes of their API keys; left out: anybody may ask.",
        ),
    ] = None,
    registry_store: options.RegistryStores = None,
    registry_scratch: options.RegistryScratch = None,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_server_name: options.TlsServerName = "",
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = "auto",
) -> None:
    """Run the door to a cluster: any number may run beside each other."""
    from lite_llm.cli.lifetime import run
    from lite_llm.cli.programs import serve
    from lite_llm.orchestrator import OrchestratorSettings, running
    from lite_llm.telemetry import logs

    tls = options.tls_files(tls_ca, tls_cert, tls_key, tls_server_name)
    settings = OrchestratorSettings(
        listen_http=listen,
        listen_grpc=listen_grpc,
        grpc_tls=tls,
        agent_tls=tls,
        keys=keys,
        registry=options.registry_settings(registry_store, registry_scratch),
    )
    store = options.store_settings(etcd, ca=etcd_ca, cert=etcd_cert, key=etcd_key, user=etcd_user)
    logs.configure(log_level, format=log_format)
    run(serve(running, settings, store))


@app.command()
def agent(
    etcd: options.Etcd,
    etcd_ca: options.EtcdCa = None,
    etcd_cert: options.EtcdCert = None,
    etcd_key: options.EtcdKey = None,
    etcd_user: options.EtcdUser = "",
    node: Annotated[
        str, typer.Option(envvar="LITE_LLM_NODE", help="Its name; left out: this host's.")
    ] = "",
    listen: Annotated[
        str, typer.Option(envvar="LITE_LLM_LISTEN", help="host:port of the gRPC service.")
    ] = "127.0.0.1:0",
    advertise_host: Annotated[
        str,
        typer.Option(
            envvar="LITE_LLM_ADVERTISE_HOST",
            help="Where others find it, if not at --listen.",
        ),
    ] = "",
    listen_http: Annotated[
        str,
        typer.Option(envvar="LITE_LLM_LISTEN_HTTP", help="host:port of health and metrics."),
    ] = "127.0.0.1:0",
    state_dir: StateDir = None,
    cache_dir: options.CacheDir = None,
    cache: options.CacheSize = None,
    sata_dir: agent_options.SataDir = None,
    sata: agent_options.SataSize = None,
    memory: options.MemorySize = None,
    warm: options.WarmSize = None,
    kv_memory: options.KvSize = None,
    device: agent_options.Device = "auto",
    prefork: options.Prefork = True,
    openai_api: agent_options.OpenAiApi = None,
    trust_key: agent_options.TrustKeys = None,
    require_signatures: agent_options.RequireSignatures = False,
    zone: options.Zone = "",
    price_class: options.PriceClass = "",
    label: options.Labels = None,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_server_name: options.TlsServerName = "",
    traces: agent_options.Traces = "",
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = "auto",
) -> None:
    """Run the daemon that owns this machine and serves models on it: one per machine."""
    from lite_llm.agent import AgentSettings, running
    from lite_llm.agent.settings import host_node
    from lite_llm.cli.lifetime import run, state_directory
    from lite_llm.cli.programs import serve
    from lite_llm.telemetry import logs

    store = options.store_settings(etcd, ca=etcd_ca, cert=etcd_cert, key=etcd_key, user=etcd_user)
    with state_directory(state_dir) as directory:
        settings = AgentSettings(
            state_directory=directory,
            node=node or host_node(),
            listen=listen,
            advertise_host=advertise_host,
            listen_http=listen_http,
            cache_directory=cache_dir,
            cache_bytes=options.size(cache),
            sata_directory=sata_dir,
            sata_bytes=options.size(sata),
            memory_bytes=options.size(memory),
            warm_bytes=options.size(warm),
            kv_bytes=options.size(kv_memory),
            device=device,
            prefork=prefork,
            openai_api=openai_api,
            trust=agent_options.signature_policy(trust_key or (), required=require_signatures),
            compiled_directory=cache_dir / "compiled" if cache_dir else None,
            zone=zone,
            price_class=price_class,
            labels=options.labels(label or ()),
            tls=options.tls_files(tls_ca, tls_cert, tls_key, tls_server_name),
        )
        logs.configure(log_level, format=log_format)
        agent_options.traced(traces, "agent")
        run(serve(running, settings, store))


for command in (
    operator_command.operator,
    checkpoint_commands.keygen,
    checkpoint_commands.convert,
    checkpoint_commands.inspect,
    checkpoint_commands.verify,
    fleet_commands.status,
    fleet_commands.models,
    fleet_commands.agents,
    fleet_commands.chat,
):
    app.command()(command)
app.add_typer(bench, name="bench")


@app.command()
def version() -> None:
    """Print what is installed."""
    from importlib import metadata

    typer.echo(f"lite-llm {metadata.version('lite-llm')}")
