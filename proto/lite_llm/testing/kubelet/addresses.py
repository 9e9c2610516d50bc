"""Addresses for Nodes and Pods, so that several Pods of one machine may listen on the same port.

Kubernetes refuses loopback addresses in Endpoints. Where the caller may, a part of 198.18.0.0/15,
the range set aside for benchmarks (RFC 2544), is given to the loopback interface; elsewhere
addresses are of 127.0.0.0/8: they answer just the same, but Endpoints stay empty.
"""

from __future__ import annotations

import fcntl
import ipaddress
import random
import socket
import struct
import sys
from collections import deque

from lite_llm.testing.guard import Guard

SET_ADDRESS, SET_MASK, GET_ADDRESS, SET_FLAGS = 0x8916, 0x891C, 0x8915, 0x8914  # sockios.h
BENCHMARKS = ipaddress.IPv4Network("198.18.0.0/15")
LOOPBACK = ipaddress.IPv4Network("127.64.0.0/10")


def claim_addresses(guard: Guard) -> deque[str]:
    """253 addresses of this machine that nobody else uses until ``guard`` ends."""
    try:
        network = _give_to_loopback(guard)
    except PermissionError:
        network = random.choice(list(LOOPBACK.subnets(new_prefix=24)))
    return deque(str(address) for address in list(network.hosts())[1:])


def _give_to_loopback(guard: Guard) -> ipaddress.IPv4Network:
    choices = list(enumerate(BENCHMARKS.subnets(new_prefix=24)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for number, network in random.sample(choices, len(choices)):
            label = f"lo:llm{number}"
            if _is_taken(control, label):
                continue
            # An address with a mask makes the whole of its network local, as 127.0.0.1/8 does.
            fcntl.ioctl(control, SET_ADDRESS, _request(label, str(network[1])))
            guard.undo([sys.executable, "-I", __file__, label])
            fcntl.ioctl(control, SET_MASK, _request(label, str(network.netmask)))
            return network
    raise RuntimeError(f"all of {BENCHMARKS} is taken")


def _is_taken(control: socket.socket, label: str) -> bool:
    try:
        fcntl.ioctl(control, GET_ADDRESS, _request(label, "0.0.0.0"))
    except OSError:
        return False
    return True


def _request(label: str, address: str) -> bytes:
    """The kernel's ``struct ifreq`` with an address in it."""
    packed = socket.inet_aton(address)
    return struct.pack("16sHH4s16x", label.encode(), socket.AF_INET, 0, packed)


def take_back(label: str) -> None:
    """Remove the address with this label from the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        down = struct.pack("16sH22x", label.encode(), 0)
        fcntl.ioctl(control, SET_FLAGS, down)


if __name__ == "__main__":
    take_back(sys.argv[1])
