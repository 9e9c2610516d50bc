"""``lite-llm operator``: the operator as a program."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Annotated

import typer

from lite_llm.cli import options


def operator(
    etcd: options.Etcd,
    etcd_ca: options.EtcdCa = None,
    etcd_cert: options.EtcdCert = None,
    etcd_key: options.EtcdKey = None,
    etcd_user: options.EtcdUser = "",
    kubeconfig: Annotated[
        Path | None,
        typer.Option(envvar="KUBECONFIG", help="Left out: the pod's service account."),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LITE_LLM_NAMESPACES", help="Where to look; again for another. Left out: all."
        ),
    ] = None,
    lease_namespace: Annotated[
        str,
        typer.Option(
            envvar="LITE_LLM_LEASE_NAMESPACE",
            help="Of the Lease by which one of several operators leads. Left out: this is alone.",
        ),
    ] = "",
    lease_name: Annotated[
        str, typer.Option(envvar="LITE_LLM_LEASE_NAME", help="Of that Lease.")
    ] = "lite-llm-operator",
    lease_seconds: Annotated[
        float,
        typer.Option(
            envvar="LITE_LLM_LEASE_SECONDS", min=1.0, help="Of silence before another leads."
        ),
    ] = 15.0,
    identity: Annotated[
        str, typer.Option(envvar="LITE_LLM_IDENTITY", help="In that Lease. Left out: this host's.")
    ] = "",
    listen_http: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar="LITE_LLM_LISTEN_HTTP",
            help="/healthz, /readyz and /metrics. Left out: none.",
        ),
    ] = "",
    agent_selector: Annotated[
        str,
        typer.Option(
            envvar="LITE_LLM_AGENT_SELECTOR", help="Labels of agents' pods, told to autoscalers."
        ),
    ] = "app.kubernetes.io/name=lite-llm,app.kubernetes.io/component=agent",
    door_url: Annotated[
        str,
        typer.Option(
            envvar="LITE_LLM_DOOR_URL", help="Address that clients use, told as status.url."
        ),
    ] = "",
    resync_seconds: Annotated[
        float,
        typer.Option(
            envvar="LITE_LLM_RESYNC_SECONDS", min=1.0, help="Between looks at everything."
        ),
    ] = 300.0,
    release: Annotated[
        bool,
        typer.Option(
            "--release",
            help="Only take our finalizers off all objects, before the operator is uninstalled.",
        ),
    ] = False,
    log_level: options.LogLevel = "info",
    log_format: options.LogFormat = "auto",
) -> None:
    """Mirror Kubernetes' custom resources into the cluster's shared memory."""
    from lite_llm.cli.lifetime import run
    from lite_llm.cli.programs import serve
    from lite_llm.controllers import LeaseSettings, OperatorSettings, release_all, running
    from lite_llm.telemetry import logs

    logs.configure(log_level, format=log_format)
    store = options.store_settings(etcd, ca=etcd_ca, cert=etcd_cert, key=etcd_key, user=etcd_user)
    # A program that is started again under its old name must not take itself for the old one.
    whole_identity = f"{identity or socket.gethostname()}_{secrets.token_hex(4)}"
    settings = OperatorSettings(
        kubeconfig=str(kubeconfig) if kubeconfig else None,
        namespaces=tuple(namespace or ()),
        lease=LeaseSettings(
            namespace=lease_namespace,
            name=lease_name,
            identity=whole_identity,
            duration_seconds=lease_seconds,
        )
        if lease_namespace
        else None,
        listen_http=listen_http,
        agent_selector=agent_selector,
        door_url=door_url,
        resync_seconds=resync_seconds,
    )
    run(release_all(settings) if release else serve(running, settings, store))
