"""How one operator runs."""

from __future__ import annotations

from dataclasses import dataclass

from lite_llm.controllers.leading import LeaseSettings

AGENT_SELECTOR = "app.kubernetes.io/name=lite-llm,app.kubernetes.io/component=agent"


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """Frozen; made by the command line."""

    kubeconfig: str | None = None
    """Path of a kubeconfig; None is the service account of the pod that it runs in."""
    namespaces: tuple[str, ...] = ()
    """Where to look for our objects; empty is everywhere, for which a cluster role is needed."""
    lease: LeaseSettings | None = None
    """By which one of several operators works at a time; None: this is the only one."""
    listen_http: str = ""
    """``host:port`` of probes and metrics; empty: none."""
    agent_selector: str = AGENT_SELECTOR
    """Labels of the agents' pods, told to autoscalers as ``status.selector``."""
    door_url: str = ""
    """Base address at which clients ask, told as ``status.url``; empty: not told."""
    workers: int = 8
    """Objects that are looked at at a time; more hide more of the API server's round trips."""
    pace_seconds: float = 0.5
    """Between two looks at one object: a load tells its progress many times a second."""
    resync_seconds: float = 300.0
    """Between looks at everything, whatever was told or not."""
    release_seconds: float = 30.0
    """How long a deleted model's object waits for agents to let go of it."""
