"""A real, isolated Kubernetes control plane: etcd, kube-apiserver, controllers and scheduler.

TLS is verified, RBAC and the ServiceAccount admission plugin are on, and no kubelet runs: Pods wait
for one. ClusterIPs lead nowhere, and the Service ``default/kubernetes`` has no endpoints.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lite_llm.testing.guard import Guard, MissingServer, find_program, free_ports
from lite_llm.testing.identities import Identities

VERSION_BUILT = "1.20.2"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
POLL_SECONDS = 0.03  # no server tells when it is ready: it is asked


class ApiError(RuntimeError):
    """The apiserver refused a request: ``status`` is HTTP's, the message its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Programs:
    """Paths of the four programs of a control plane, and Kubernetes' version as (major, minor)."""

    etcd: str
    apiserver: str
    controller_manager: str
    scheduler: str
    version: tuple[int, int]


def find_programs(environ: Mapping[str, str] = os.environ) -> Programs:
    """The programs in ``KUBEBUILDER_ASSETS``, else those that ``make control-plane`` built.

    Raises:
        MissingServer: neither place has them all; the message says what to do.
    """
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = [cache / "lite-llm" / f"control-plane-{VERSION_BUILT}"]
    if assets := environ.get("KUBEBUILDER_ASSETS"):
        folders.insert(0, Path(assets))
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in PROGRAMS):
            etcd = folder / "etcd"
            apiserver, controller_manager, scheduler = (str(folder / name) for name in PROGRAMS)
            remedy = "run `make setup`, or install etcd 3.4 or newer"
            return Programs(
                etcd=str(etcd) if os.access(etcd, os.X_OK) else find_program("etcd", remedy=remedy),
                apiserver=apiserver,
                controller_manager=controller_manager,
                scheduler=scheduler,
                version=_version(apiserver),
            )
    raise MissingServer(
        f"no {', '.join(PROGRAMS)} in {' nor '.join(map(str, folders))}: run `make control-plane`, "
        "or set KUBEBUILDER_ASSETS to a folder of release binaries"
    )


@functools.cache
def _version(apiserver: str) -> tuple[int, int]:
    told = subprocess.run([apiserver, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"v(\d+)\.(\d+)", told.stdout)
    assert match, f"{apiserver} --version says {told.stdout!r}"
    return int(match[1]), int(match[2])


class ControlPlane:
    """Owns one control plane; use as a context manager, ready for Pods once entered.

    Args:
        node_monitor_grace_seconds: silence after which a Node is declared not ready.
        ready_seconds: how long starting may take before it fails.
    """

    def __init__(
        self, *, node_monitor_grace_seconds: float = 40.0, ready_seconds: float = 90.0
    ) -> None:
        self._grace = node_monitor_grace_seconds
        self._ready_seconds = ready_seconds
        self.programs = find_programs()

    def __enter__(self) -> Self:
        self.guard = Guard("lite-llm-control-plane").__enter__()
        try:
            self._set_up()
            self.start()
        except BaseException:
            self.guard.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.guard.__exit__(kind, error, trace)

    def _set_up(self) -> None:
        self.directory = self.guard.directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        etcd, self._peer_port, self.port = free_ports(3)
        self.host = "127.0.0.1"
        self.url = f"https://{self.host}:{self.port}"
        self.etcd_url = f"http://127.0.0.1:{etcd}"
        self.identities = Identities(self.directory, host=self.host, url=self.url)
        self.ca_file = self.identities.ca_file
        self.token = self.identities.token
        """Bearer token of a member of ``system:masters``."""
        self.kubeconfig = self.identities.kubeconfig_for_token("admin", self.token)
        self._tls = ssl.create_default_context(cafile=self.ca_file)

    # -- its processes

    def start(self) -> None:
        """Start what is not running, and wait until Pods can be made in ``default``."""
        self._spawn("etcd", self._etcd_command())
        self._spawn("apiserver", self._apiserver_command())
        # Not sooner: controllers ask for its health once a second, and give up after ten.
        self._wait_for("the apiserver to be ready", lambda: self.request("GET", "/readyz") == "ok")
        self._spawn("controller-manager", self._controller_manager_command())
        self._spawn("scheduler", self._scheduler_command())
        self._wait_for("a service account", lambda: self._has_account("default"))

    def stop_apiserver(self) -> None:
        """Kill the apiserver, as a crash would; clients see refused connections."""
        self._kill("apiserver")

    def start_apiserver(self) -> None:
        """Start the apiserver again on its old port, and wait until it is ready."""
        self.start()

    def wipe(self) -> None:
        """Lose all that was stored, and start over at the old address."""
        for name in list(self._processes):
            self._kill(name)
        shutil.rmtree(self.directory / "etcd")
        self.start()

    def _spawn(self, name: str, command: list[str]) -> None:
        if name not in self._processes or self._processes[name].poll() is not None:
            self._processes[name] = self.guard.spawn(command, log=f"{name}.log")

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _etcd_command(self) -> list[str]:
        peer = f"http://127.0.0.1:{self._peer_port}"
        return [
            self.programs.etcd,
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    def _apiserver_command(self) -> list[str]:
        known = self.identities
        return [
            self.programs.apiserver,
            f"--etcd-servers={self.etcd_url}",
            f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            "--endpoint-reconciler-type=none",  # would refuse to publish a loopback address
            f"--secure-port={self.port}",
            f"--tls-cert-file={known.server_file}",
            f"--tls-private-key-file={known.server_file}",
            f"--client-ca-file={known.ca_file}",
            f"--token-auth-file={known.tokens_file}",
            f"--service-account-key-file={known.accounts_file}",
            f"--service-account-signing-key-file={known.accounts_file}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
        ]

    def _controller_manager_command(self) -> list[str]:
        return [
            self.programs.controller_manager,
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self.identities.accounts_file}",
            f"--root-ca-file={self.ca_file}",
            "--leader-elect=false",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={self._grace}s",
            "--kube-api-qps=500",  # the default, 20, delays first looks by seconds
            "--kube-api-burst=500",
            *self._without_ports(),
        ]

    def _scheduler_command(self) -> list[str]:
        flags = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", *self._without_ports()]
        return [self.programs.scheduler, *flags]

    def _without_ports(self) -> list[str]:
        plain_http = ["--port=0"] if self.programs.version < (1, 24) else []  # then removed
        return ["--secure-port=0", *plain_http]

    # -- waiting for it

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while True:
            for name, process in self._processes.items():
                if (code := process.poll()) is not None:
                    tail = self.guard.log_tail(f"{name}.log")
                    raise RuntimeError(f"{name} ended with {code} before it was ready:\n{tail}")
            try:
                if condition():
                    return
                last = "not yet"
            except (OSError, http.client.HTTPException, ApiError) as error:
                last = str(error)
            if time.monotonic() > deadline:
                tail = self.guard.log_tail("apiserver.log")
                raise TimeoutError(
                    f"waited {self._ready_seconds} s for {what} ({last}); the apiserver:\n{tail}"
                )
            time.sleep(POLL_SECONDS)

    def _has_account(self, namespace: str) -> bool:
        account = self.request(
            "GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        )  # before 1.24 a Pod is refused until its account has a secret with a token
        return self.programs.version >= (1, 24) or bool(account.get("secrets"))

    # -- speaking to it

    def request(self, method: str, path: str, body: object = None) -> Any:
        """One request as admin: the answer's JSON, or its text where it is none.

        Raises:
            ApiError: any status of 400 or more.
            OSError: the apiserver is not there.
        """
        patch = "application/merge-patch+json"
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": patch if method == "PATCH" else "application/json",
        }
        connection = http.client.HTTPSConnection(
            self.host, self.port, context=self._tls, timeout=30.0
        )
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, body=payload, headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        answer: Any = text
        if response.headers.get_content_type() == "application/json":
            answer = json.loads(text)
        if response.status >= 400:
            raise ApiError(response.status, answer["message"] if answer is not text else text)
        return answer

    def make_namespace(self, name: str) -> str:
        """Make a namespace, wait until Pods can be made in it, and return its name."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self._wait_for("a service account", lambda: self._has_account(name))
        return name

    def kubeconfig_for(self, user: str, *, group: str | None = None) -> Path:
        """A kubeconfig that may do what RBAC gives to ``user`` and to ``group``."""
        return self.identities.kubeconfig_for_user(user, group)

    def service_account_token(self, namespace: str, name: str) -> str:
        """A bearer token of the ServiceAccount, good for one hour."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        return str(self.request("POST", path, body)["status"]["token"])

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with which a program is the ServiceAccount, for one hour."""
        token = self.service_account_token(namespace, name)
        return self.identities.kubeconfig_for_token(f"account-{namespace}-{name}", token)
