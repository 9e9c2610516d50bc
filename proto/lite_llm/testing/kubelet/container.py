"""One run of a container: a process, its log, and further programs run inside it."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from lite_llm.testing.kubelet import launch
from lite_llm.testing.kubelet.plan import ContainerPlan, Mount

_numbers = itertools.count(1)


class StartFailed(Exception):
    """The program could not be started; the message says why."""


class Container:
    """A running container. Killing its launcher kills every process in it, whatever it did."""

    def __init__(
        self, process: asyncio.subprocess.Process, pid: int, plan: ContainerPlan, scratch: Path
    ) -> None:
        self._process = process
        self._pid = pid
        self._plan = plan
        self._scratch = scratch

    @classmethod
    async def start(cls, plan: ContainerPlan, *, scratch: Path, log: Path) -> Self:
        """Start it, its output appended to ``log``.

        Raises:
            StartFailed: the program or a mount is not there, or namespaces are not permitted.
        """
        for mount in plan.mounts:
            if not mount.read_only and not mount.source.exists():  # as container runtimes do
                mount.source.mkdir(parents=True)
        mounts = [
            {"source": str(one.source), "target": one.target, "read_only": one.read_only}
            for one in (*plan.mounts, *_image(plan.mounts))
        ]
        process, pid = await _launch(plan.argv, plan, scratch, log, mounts=mounts)
        return cls(process, pid, plan, scratch)

    async def wait(self) -> int:
        """Its exit code: 128 more than the signal where one killed it."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask it to end, which its first process alone hears."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all its processes at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def execute(self, argv: Sequence[str]) -> tuple[int, str]:
        """Run a program inside the container; its exit code and output. Killed when cancelled.

        Raises:
            StartFailed: there is no such program.
        """
        output = self._scratch / f"exec-{next(_numbers)}.log"
        try:
            process, _ = await _launch(argv, self._plan, self._scratch, output, join=self._pid)
            try:
                code = await process.wait()
            finally:
                await _end(process)
            return code, output.read_text(errors="replace")
        finally:
            output.unlink(missing_ok=True)


def _image(mounts: Sequence[Mount]) -> list[Mount]:
    """Python and its packages, which stand for the image, where a volume covers them: a checkout
    in /tmp, and a volume there."""
    covered: list[Path] = []
    for path in map(Path, (sys.prefix, *sys.path)):
        is_covered = any(path.is_relative_to(mount.target) for mount in mounts)
        if is_covered and path.is_dir() and not any(map(path.is_relative_to, covered)):
            covered.append(path)
    return [Mount(path, str(path)) for path in covered]


async def _launch(
    argv: Sequence[str],
    plan: ContainerPlan,
    scratch: Path,
    log: Path,
    *,
    mounts: Sequence[Mapping[str, object]] = (),
    join: int = 0,
) -> tuple[asyncio.subprocess.Process, int]:
    number = next(_numbers)
    root = scratch / f"root-{number}"
    root.mkdir(parents=True)
    spec = scratch / f"spec-{number}.json"
    order = {
        "argv": list(argv),
        "directory": plan.directory,
        "scratch": str(root),
        "mounts": mounts,
        "join": join,
    }
    spec.write_text(json.dumps(order))
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            launch.__file__,
            str(spec),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env=plan.variables,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        report = (await process.stdout.read()).decode(errors="replace")
    except BaseException:
        await _end(process)
        raise
    pid, error = 0, ""
    for line in report.splitlines():
        if line.startswith("process "):
            pid = int(line.split()[1])
        else:
            error += line.removeprefix("error ")
    if error:
        await _end(process)
        raise StartFailed(error)
    spec.unlink()
    return process, pid


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
