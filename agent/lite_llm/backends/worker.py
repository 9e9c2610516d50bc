"""The process of a model with a foreign server: ``python -m lite_llm.backends.worker``.

To its agent it is as the native worker; which server it starts, the load says.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from lite_llm.backends.foreign_model import ServerSettings
from lite_llm.backends.service import ForeignService
from lite_llm.proto.v1.agent_pb2 import DESCRIPTOR
from lite_llm.proto.v1.agent_pb2_grpc import add_AgentServicer_to_server
from lite_llm.telemetry import logs
from lite_llm.wire import serving

SERVICE: Final = DESCRIPTOR.services_by_name["Agent"].full_name
STOP_SECONDS: Final = 1.0  # whoever stops a worker has waited for its requests before

log = structlog.get_logger(__name__)


async def run(settings: ServerSettings, lifeline: socket.socket | None) -> int:
    """Serve on the unix socket in ``settings`` until SIGTERM or SIGINT, or until the foreign server
    ends; returns the exit status.

    ``lifeline`` is told when the service is up. When its other end closes, by whatever death, this
    process ends at once, and its server with it.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    service = ForeignService(settings)  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
    services = {SERVICE: lambda server: add_AgentServicer_to_server(service, server)}
    async with (
        service,
        serving(f"unix:{settings.socket}", services, grace=STOP_SECONDS) as endpoint,
    ):
        await endpoint.set_serving(True)
        if lifeline is not None:
            threading.Thread(target=_die_with, args=[lifeline], daemon=True).start()
            lifeline.sendall(b"!")
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait((stopping, service.crash), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if service.crash.done():
            log.error("server ended by itself", error=str(service.crash.result()))
            return os.EX_SOFTWARE
    return os.EX_OK


def _die_with(lifeline: socket.socket) -> None:
    # A thread and not the event loop: it notices even when the loop is stuck.
    lifeline.recv(1)
    os._exit(os.EX_OK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    defaults = ServerSettings(socket=Path(), threads=os.cpu_count() or 1)
    parser = argparse.ArgumentParser(prog="lite_llm.backends.worker", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to serve on")
    parser.add_argument("--threads", type=int, default=defaults.threads, help="CPU threads")
    parser.add_argument("--lifeline", type=int, help="inherited socket; exit when it closes")
    for name, text in (
        ("start", "until the server must be ready"),
        ("silence", "without a word, after which an answer is given up"),
        ("stop", "for the server to stop in"),
    ):
        default = getattr(defaults, f"{name}_seconds")
        parser.add_argument(f"--{name}-seconds", type=float, default=default, help=text)
    given = vars(parser.parse_args(arguments))
    logs.configure(format="json")
    lifeline = given.pop("lifeline")
    settings = ServerSettings(**given)
    return asyncio.run(run(settings, None if lifeline is None else socket.socket(fileno=lifeline)))


if __name__ == "__main__":
    raise SystemExit(main())
