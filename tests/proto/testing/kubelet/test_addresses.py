"""Addresses of Pods answer while they are claimed, and are taken back whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from lite_llm.testing.guard import Guard
from lite_llm.testing.kubelet.addresses import claim_addresses

OWNER = """
import signal
from lite_llm.testing.guard import Guard
from lite_llm.testing.kubelet.addresses import claim_addresses
with Guard() as guard:
    print(claim_addresses(guard)[0], flush=True)
    signal.pause()
"""


def can_be_listened_on(address: str) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            return False
    return True


def test_several_may_listen_on_one_port() -> None:
    with Guard() as guard:
        addresses = claim_addresses(guard)
        assert len(addresses) == 253
        first = socket.create_server((addresses[0], 0))
        port = first.getsockname()[1]
        last = (addresses[-1], port)
        with (
            first,
            socket.create_server(last) as server,
            socket.create_connection(last),
            server.accept()[0],
        ):
            assert server.getsockname() == last


def test_two_claims_do_not_meet() -> None:
    with Guard() as one, Guard() as other:
        assert not set(claim_addresses(one)) & set(claim_addresses(other))


def test_they_are_taken_back_after_the_guard() -> None:
    with Guard() as guard:
        address = claim_addresses(guard)[0]
        assert can_be_listened_on(address)
    # 127.0.0.0/8 needs no claim, and so nothing takes it back
    assert can_be_listened_on(address) == address.startswith("127.")


def test_they_are_taken_back_after_the_owner_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        assert can_be_listened_on(address)
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while can_be_listened_on(address) and not address.startswith("127."):
        assert time.monotonic() < deadline
        time.sleep(0.02)
