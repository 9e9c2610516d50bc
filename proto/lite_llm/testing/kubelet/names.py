"""Names of Services in a file of hosts, as a cluster's DNS would tell them.

All names of a Service lead to its Pods, also where DNS would give a ClusterIP, since nothing routes
these: a client must dial the port that the Pod listens on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lite_llm.testing.kubelet.environment import Object

MACHINE = Path("/etc/hosts")


def hosts_of(endpoints: Iterable[Object]) -> str:
    """Lines of ``address name...`` for Endpoints, one an address and Service; by name sorted."""
    lines = sorted(line for one in endpoints for line in _lines(one))
    return "".join(f"{line}\n" for line in lines)


def _lines(endpoints: Object) -> Iterator[str]:
    meta = endpoints["metadata"]
    service = f"{meta['name']}.{meta['namespace']}"
    for subset in endpoints.get("subsets") or ():
        for address in subset.get("addresses") or ():
            names = [service]
            if hostname := address.get("hostname"):  # a Pod of a StatefulSet
                names.append(f"{hostname}.{service}")
            suffixes = ("", ".svc", ".svc.cluster.local")
            yield " ".join(
                [address["ip"], *(name + suffix for name in names for suffix in suffixes)]
            )


class HostsFile:
    """The file that containers see as ``/etc/hosts``: the machine's own lines, then Services'."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._machine = MACHINE.read_text() if MACHINE.exists() else ""
        self._written = ""
        self.tell(())

    def tell(self, endpoints: Iterable[Object]) -> None:
        """Write it anew, into the same file: containers hold it mounted."""
        text = self._machine.rstrip("\n") + "\n" + hosts_of(endpoints)
        if text != self._written:
            self.path.write_text(text)
            self._written = text
