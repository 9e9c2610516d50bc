"""A real etcd for tests: started in a fraction of a second, and maltreated on demand."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_llm.metastore import StoreSettings, StoreTls
from lite_llm.testing.guard import Guard, find_program, free_ports

REMEDY = "apt-get install etcd-server, or put etcd on PATH"
HOST = "127.0.0.1"
# Of a cluster: short for tests, yet long enough for a busy machine not to vote all day.
ELECTION_MS = 500
SOLE_ELECTION_MS = 200  # nobody is there to compete with
HEARTBEATS_PER_ELECTION = 10
PING_SECONDS = 1.0
START_SECONDS = 30.0
PROBE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class EtcdTls:
    """PEM files of a certificate authority made for one test."""

    authority: Path
    server: Path
    """Certificate chain and key of every member, in one file."""
    client: Path
    """Certificate chain and key of a client, in one file."""

    @classmethod
    def made_in(cls, directory: Path) -> EtcdTls:
        """A new authority, and certificates that it signed."""
        import trustme  # of the `dev` extra: whoever tests without TLS does without it

        authority = trustme.CA()
        files = cls(
            authority=directory / "authority.pem",
            server=directory / "server.pem",
            client=directory / "client.pem",
        )
        authority.cert_pem.write_to_path(str(files.authority))
        authority.issue_cert(HOST, "localhost").private_key_and_cert_chain_pem.write_to_path(
            str(files.server)
        )
        authority.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(
            str(files.client)
        )
        return files

    def store_tls(self) -> StoreTls:
        """For a store that shows the client's certificate."""
        return StoreTls(authority=self.authority, certificate=self.client, key=self.client)

    def context(self) -> ssl.SSLContext:
        """For a client that shows its certificate."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.client)
        return context


@dataclass(frozen=True)
class Ports:
    """Where one member listens on 127.0.0.1."""

    client: int
    peer: int
    metrics: int


class EtcdServer:
    """One member: a process, its ports and its data. The methods block until done."""

    def __init__(
        self,
        guard: Guard,
        *,
        name: str,
        ports: Ports,
        peers: Mapping[str, int],
        tls: EtcdTls | None,
    ) -> None:
        """``peers``: the peer port of every member of the cluster, this one's too, by name."""
        self.name = name
        self.tls = tls
        self._guard = guard
        self._ports = ports
        self._peers = peers
        self._program = find_program("etcd", remedy=REMEDY)
        self._data = guard.directory / f"{name}.data"

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients."""
        return f"{HOST}:{self._ports.client}"

    @property
    def port(self) -> int:
        """Of :attr:`endpoint`."""
        return self._ports.client

    def settings(self, *endpoints: str, user: str = "", password: str = "") -> StoreSettings:
        """How to reach this server, or ``endpoints`` that lead to it; silence is noticed in 2 s."""
        return StoreSettings(
            endpoints=endpoints or (self.endpoint,),
            tls=self.tls.store_tls() if self.tls else None,
            user=user,
            password=password,
            ping_seconds=PING_SECONDS,
            ping_timeout_seconds=PING_SECONDS,
        )

    def launch(self) -> None:
        """Start the process on the data it has, without waiting for it to answer."""
        self._process = self._guard.spawn(self._command(), log=f"{self.name}.log")

    def wait_healthy(self) -> None:
        """Return when the member serves writes; raises what it logged if it does not."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"etcd did not start:\n{self._guard.log_tail(f'{self.name}.log')}"
                )
            time.sleep(PROBE_SECONDS)

    def start(self) -> None:
        """Start on the data it has."""
        self.launch()
        self.wait_healthy()

    def stop(self) -> None:
        """End it in an orderly way."""
        self._process.terminate()
        self._process.wait()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """kill -9, then start on the same data."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Start empty on the same ports, as after the loss of a disk."""
        self.kill()
        shutil.rmtree(self._data)
        self.start()

    def pause(self) -> None:
        """Stop answering while every connection stays open."""
        os.kill(self._process.pid, signal.SIGSTOP)
        # The signal is sent, not yet heard: threads on other cores may go on for a moment.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        os.kill(self._process.pid, signal.SIGCONT)

    def compact(self, revision: int) -> None:
        """Forget the history before ``revision``."""
        self.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def enable_auth(self, user: str, password: str, *, prefix: str) -> None:
        """Ask for passwords from now on; ``user`` may read and write below ``prefix``."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        keys = {"key": _base64(prefix), "range_end": _base64(end)}
        for path, body in (
            ("user/add", {"name": "root", "password": password}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": user, "password": password}),
            ("role/add", {"name": user}),
            ("role/grant", {"name": user, "perm": {"permType": "READWRITE", **keys}}),
            ("user/grant", {"user": user, "role": user}),
            ("enable", {}),
        ):
            self.post(f"/v3/auth/{path}", body)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call etcd's JSON gateway; raises ``RuntimeError`` with what it answers, if it refuses."""
        connection: http.client.HTTPConnection
        if self.tls:
            connection = http.client.HTTPSConnection(
                HOST, self.port, timeout=START_SECONDS, context=self.tls.context()
            )
        else:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"etcd refuses {path}: {content.decode()}")
        decoded: dict[str, Any] = json.loads(content)
        return decoded

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._ports.metrics, timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _command(self) -> Sequence[str]:
        scheme = "https" if self.tls else "http"
        cluster = ",".join(f"{name}=http://{HOST}:{port}" for name, port in self._peers.items())
        election_ms = ELECTION_MS if len(self._peers) > 1 else SOLE_ELECTION_MS
        flags = {
            "name": self.name,
            "data-dir": str(self._data),
            "listen-client-urls": f"{scheme}://{self.endpoint}",
            "advertise-client-urls": f"{scheme}://{self.endpoint}",
            "listen-peer-urls": f"http://{HOST}:{self._ports.peer}",
            "initial-advertise-peer-urls": f"http://{HOST}:{self._ports.peer}",
            "initial-cluster": cluster,
            "listen-metrics-urls": f"http://{HOST}:{self._ports.metrics}",
            "heartbeat-interval": str(election_ms // HEARTBEATS_PER_ELECTION),
            "election-timeout": str(election_ms),
            "grpc-keepalive-min-time": f"{PING_SECONDS / 2}s",
            "logger": "zap",
        }
        if self.tls:
            flags |= {
                "cert-file": str(self.tls.server),
                "key-file": str(self.tls.server),
                "trusted-ca-file": str(self.tls.authority),
                "client-cert-auth": "true",
            }
        return [self._program, *(f"--{flag}={value}" for flag, value in flags.items())]


@contextmanager
def etcd_cluster(num_members: int = 3, *, tls: bool = False) -> Iterator[list[EtcdServer]]:
    """Members of one new cluster, healthy; gone with the block. ``MissingServer`` without etcd."""
    with Guard("lite-llm-etcd") as guard:
        ports = free_ports(3 * num_members)
        by_member = [Ports(*ports[3 * index : 3 * index + 3]) for index in range(num_members)]
        peers = {f"etcd{index}": member.peer for index, member in enumerate(by_member)}
        files = EtcdTls.made_in(guard.directory) if tls else None
        members = [
            EtcdServer(guard, name=name, ports=member, peers=peers, tls=files)
            for name, member in zip(peers, by_member, strict=True)
        ]
        for member in members:
            member.launch()
        for member in members:
            member.wait_healthy()
        yield members


@contextmanager
def etcd_server(*, tls: bool = False) -> Iterator[EtcdServer]:
    """A cluster of one."""
    with etcd_cluster(1, tls=tls) as (server,):
        yield server


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
