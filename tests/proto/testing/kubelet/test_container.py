"""Containers without a cluster: mounts anywhere, no trace outside, no process left over."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lite_llm.testing.guard import Guard, marked_processes
from lite_llm.testing.kubelet import launch
from lite_llm.testing.kubelet.container import Container, StartFailed
from lite_llm.testing.kubelet.plan import ContainerPlan, Mount

Eventually = Callable[[Callable[[], Any]], Awaitable[Any]]


def shell(script: str, *mounts: Mount, directory: str = "/", **variables: str) -> ContainerPlan:
    given = {"PATH": os.environ["PATH"], **variables}
    return ContainerPlan("main", ("sh", "-c", script), given, directory, mounts)


async def run(plan: ContainerPlan, scratch: Path) -> tuple[int, str]:
    log = scratch / "log"
    container = await Container.start(plan, scratch=scratch, log=log)
    return await container.wait(), log.read_text()


def exists(path: str) -> bool:
    return Path(path).exists()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "file").write_text("hello\n")
    return folder


async def test_volumes_are_where_they_are_expected(tmp_path: Path, volume: Path) -> None:
    targets = [
        "/var/run/secrets/kubernetes.io/serviceaccount",  # through a symbolic link
        "/etc/not-there/settings",
        "/not-there/at/all",
        "/tmp",  # over the place of all other volumes here
    ]
    script = "; ".join(f"cat {target}/file" for target in targets)
    code, output = await run(shell(script, *(Mount(volume, one) for one in targets)), tmp_path)
    assert (code, output) == (0, "hello\n" * 4)
    outside = [exists(target) for target in targets]
    assert outside == [False, False, False, True]


async def test_a_volume_does_not_cover_the_programs(tmp_path: Path, volume: Path) -> None:
    above = f"/{Path(sys.prefix).parts[1]}"
    script = f"cat {above}/file; {sys.executable} -c 'import lite_llm.contracts; print(1)'"
    code, output = await run(shell(script, Mount(volume, above)), tmp_path)
    assert (code, output) == (0, "hello\n1\n")


async def test_a_volume_may_lie_in_another_and_files_can_be_mounted(
    tmp_path: Path, volume: Path
) -> None:
    other = tmp_path / "other"
    mounts = [Mount(other, "/data"), Mount(volume / "file", "/data/in/file", read_only=True)]
    script = "cat /data/in/file; echo x > /data/y; echo x > /data/in/file"
    code, output = await run(shell(script, *mounts), tmp_path)
    assert code != 0
    assert output.startswith("hello\n")
    assert "Read-only" in output
    assert (other / "y").read_text() == "x\n"


async def test_the_program_is_process_1_in_its_directory_with_its_variables(tmp_path: Path) -> None:
    plan = shell("echo $$; pwd; echo $COLOR; id -u", directory="/srv/made", COLOR="red")
    assert await run(plan, tmp_path) == (0, "1\n/srv/made\nred\n0\n")
    assert not exists("/srv/made")


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$; sleep 9", 137)])
async def test_exit_codes(tmp_path: Path, script: str, code: int) -> None:
    # Process 1 does not hear its own SIGKILL, so a child of it is killed.
    assert (await run(shell(f"sh -c '{script}'"), tmp_path))[0] == code


async def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    absent = ContainerPlan("main", ("no-such-program",), {"PATH": "/usr/bin"}, "/", ())
    with pytest.raises(StartFailed, match="cannot run no-such-program: No such file"):
        await run(absent, tmp_path)
    with pytest.raises(StartFailed, match="nothing"):
        await run(shell("true", Mount(tmp_path / "nothing", "/x", read_only=True)), tmp_path)


async def test_killing_it_kills_what_fled_from_it(tmp_path: Path, eventually: Eventually) -> None:
    with Guard() as guard:
        script = "setsid sleep 600 & setsid sh -c 'sleep 601' & echo up; wait"
        plan = shell(script, **{"LITE_LLM_GUARD": guard.mark})
        log = tmp_path / "log"
        container = await Container.start(plan, scratch=tmp_path, log=log)
        await eventually(log.read_text)
        assert len(list(marked_processes(guard.mark))) >= 4
        container.kill()
        assert await container.wait() == 137
        await eventually(lambda: not list(marked_processes(guard.mark)))


async def test_sigterm_reaches_the_program_alone(tmp_path: Path, eventually: Eventually) -> None:
    log = tmp_path / "log"
    plan = shell("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    container = await Container.start(plan, scratch=tmp_path, log=log)
    await eventually(log.read_text)
    container.terminate()
    assert await container.wait() == 5
    assert log.read_text() == "up\nbye\n"


async def test_programs_run_inside_it_see_what_it_sees(
    tmp_path: Path, volume: Path, eventually: Eventually
) -> None:
    log = tmp_path / "log"
    plan = shell("echo up; exec sleep 600", Mount(volume, "/opt/volume"), directory="/opt/volume")
    container = await Container.start(plan, scratch=tmp_path, log=log)
    try:
        await eventually(log.read_text)
        script = "pwd; cat file; tr '\\0' ' ' < /proc/1/cmdline; exit 4"
        assert await container.execute(["sh", "-c", script]) == (
            4,
            "/opt/volume\nhello\nsleep 600 ",
        )
        with pytest.raises(StartFailed):
            await container.execute(["no-such-program"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await container.execute(["sleep", "600"])
    finally:
        container.kill()
        await container.wait()


def test_an_ordinary_user_may_do_so_too(tmp_path: Path, volume: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.getuid() != 0 or python is None:
        python, user = sys.executable, None  # then every other test here has shown it
    else:
        user = 65534
    for folder in (*reversed(tmp_path.parents[:-2]), tmp_path):
        folder.chmod(0o755)
    script = shutil.copy(launch.__file__, tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    mount = {"source": str(volume), "target": "/not/there", "read_only": True}
    order = {
        "argv": ["sh", "-c", "cat /not/there/file; id -u; echo $$"],
        "directory": "/",
        "scratch": str(root),
        "mounts": [mount],
        "join": 0,
    }
    (tmp_path / "spec").write_text(json.dumps(order))
    result = subprocess.run(
        [python, "-I", "-S", script, tmp_path / "spec"],
        user=user, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.stdout.startswith("process ")
    assert (result.returncode, result.stderr) == (0, "hello\n0\n1\n")
