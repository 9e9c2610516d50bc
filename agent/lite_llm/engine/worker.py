"""The process that runs one model: ``python -m lite_llm.engine.worker --socket PATH``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lite_llm.contracts.resources import parse_size
from lite_llm.engine.compute_thread import ComputeThread
from lite_llm.engine.served import ServingSettings
from lite_llm.engine.service import WorkerService
from lite_llm.experts import ExpertSettings
from lite_llm.experts.policies import POLICIES
from lite_llm.kernels import set_threads, warm_up
from lite_llm.kvcache import DiskPages, PageFormat
from lite_llm.proto.v1.agent_pb2 import DESCRIPTOR
from lite_llm.proto.v1.agent_pb2_grpc import add_AgentServicer_to_server
from lite_llm.telemetry import logs
from lite_llm.wire import serving

SERVICE = DESCRIPTOR.services_by_name["Agent"].full_name
STOP_SECONDS = 1.0  # whoever stops a worker has waited for its requests before


async def run(
    path: Path, *, threads: int, lifeline: socket.socket | None, settings: ServingSettings
) -> None:
    """Serve on the unix socket ``path`` until SIGTERM or SIGINT.

    ``lifeline`` is told when the service is up. When its other end closes, by whatever death, this
    process ends at once.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)

    def prepare() -> None:
        torch.set_num_threads(threads)
        set_threads(threads)
        warm_up()  # in the compute thread, while the first weights are read

    with ComputeThread(prepare) as compute:
        service = WorkerService(compute, settings)  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        services = {SERVICE: lambda server: add_AgentServicer_to_server(service, server)}
        async with (
            service,
            serving(f"unix:{path}", services, grace=STOP_SECONDS) as endpoint,
        ):
            await endpoint.set_serving(True)
            if lifeline is not None:
                threading.Thread(target=_die_with, args=[lifeline], daemon=True).start()
                lifeline.sendall(b"!")
            await stopped.wait()


def _die_with(lifeline: socket.socket) -> None:
    # A thread and not the event loop: it notices even when the loop is stuck.
    lifeline.recv(1)
    os._exit(os.EX_OK)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    given, settings = parsed(arguments)
    logs.configure(format="json")
    lifeline = None if given.lifeline is None else socket.socket(fileno=given.lifeline)
    asyncio.run(run(given.socket, threads=given.threads, lifeline=lifeline, settings=settings))


def parsed(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, ServingSettings]:
    """What the command line says; ends the process where it makes no sense."""
    parser = argparse.ArgumentParser(prog="lite_llm.engine.worker", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to serve on")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--lifeline", type=int, help="inherited socket; exit when it closes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="to compute on")
    parser.add_argument("--notes-directory", type=Path, help="what is noted of verified bytes")
    kv = parser.add_argument_group("key-value cache")
    kv.add_argument("--kv-bytes", type=parse_size, help="on the device: 4GiB")
    kv.add_argument("--kv-host-bytes", type=parse_size, default=0, help="to swap sequences to")
    kv.add_argument("--kv-disk-directory", type=Path, help="for a file of cached prefixes")
    kv.add_argument("--kv-disk-bytes", type=parse_size, help="of that file at most")
    kv.add_argument(
        "--kv-old-pages",
        type=PageFormat,
        default=PageFormat.EXACT,
        help=f"beyond the device: {', '.join(PageFormat)}; all but the first change answers",
    )
    experts = parser.add_argument_group("experts")
    experts.add_argument("--hot-bytes", type=parse_size, help="where they run; else all are held")
    experts.add_argument("--warm-bytes", type=parse_size, default=0, help="host memory behind it")
    experts.add_argument("--expert-policy", choices=sorted(POLICIES), help="who leaves first")
    experts.add_argument("--no-prefetch", action="store_true", help="fetch on demand only")
    experts.add_argument("--expert-trace", type=Path, help="file for what routers asked for")
    given = parser.parse_args(arguments)
    if (given.kv_disk_directory is None) != (given.kv_disk_bytes is None):
        parser.error("--kv-disk-directory and --kv-disk-bytes go together")
    tiered = (given.warm_bytes, given.expert_policy, given.no_prefetch, given.expert_trace)
    if given.hot_bytes is None and any(tiered):
        parser.error(
            "without --hot-bytes all experts are held, and no other option of theirs counts"
        )
    return given, _settings(given)


def _settings(given: argparse.Namespace) -> ServingSettings:
    disk = experts = None
    if given.kv_disk_directory is not None:
        disk = DiskPages(directory=given.kv_disk_directory, num_bytes=given.kv_disk_bytes)
    if given.hot_bytes is not None:
        experts = ExpertSettings(
            hot_bytes=given.hot_bytes,
            warm_bytes=given.warm_bytes,
            prefetch=not given.no_prefetch,
            trace=given.expert_trace,
        )
        if given.expert_policy is not None:
            experts = replace(experts, policy=POLICIES[given.expert_policy])
    return ServingSettings(
        kv_bytes=given.kv_bytes,
        kv_host_bytes=given.kv_host_bytes,
        kv_disk=disk,
        kv_old_pages=given.kv_old_pages,
        experts=experts,
        notes=given.notes_directory,
        device=given.device,
    )


if __name__ == "__main__":
    main()
