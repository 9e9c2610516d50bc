"""Runs one program as a container: on a root of its own with volumes mounted, as process 1.

A script of its own, run by path with the standard library only. The root is the machine's, bound
together anew so that a mount point can be made anywhere without touching the machine's files. The
process id of the program, then the error if it could not be started, go to standard output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

NEW_MOUNTS, NEW_USER, NEW_PROCESSES = 0x00020000, 0x10000000, 0x20000000  # linux/sched.h
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000  # linux/mount.h
LOCKED = 0xE  # nosuid, nodev, noexec: a user namespace may not drop them
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
START_ERROR = 128  # the exit code that container runtimes report for it
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) == -1:
        code = ctypes.get_errno()
        shown = " ".join(part.decode() for part in arguments if isinstance(part, bytes))
        raise OSError(code, f"{name} {shown}: {os.strerror(code)}")


def _mount(source: str, target: str, *, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode())
    _call("mount", *words, ctypes.c_ulong(flags), data.encode())


class Root:
    """The file system that the program will see."""

    def __init__(self) -> None:
        self._ours: set[int] = set()  # devices of the tmpfs made here, where anything may be made
        self._mounted: list[Path] = []

    def enter(self, scratch: str) -> None:
        """Copy ``/`` by binding its entries into a tmpfs on ``scratch``, and change into it."""
        _mount("", "/", flags=RECURSIVE | PRIVATE)
        self._copy(os.open("/", os.O_PATH), scratch, skip=("proc",))
        processes = Path(scratch, "proc")
        processes.mkdir()
        try:
            _mount("proc", str(processes), kind="proc")
        except OSError:  # forbidden where an outer container masks parts of its own
            _mount("/proc", str(processes), flags=BIND | RECURSIVE)
        os.chroot(scratch)
        os.chdir("/")

    def _copy(self, original: int, target: str, skip: tuple[str, ...] = ()) -> None:
        """Cover ``target`` with a tmpfs that shows the entries of the directory ``original``."""
        mode = stat.S_IMODE(os.fstat(original).st_mode)
        _mount("tmpfs", target, kind="tmpfs", data=f"mode={mode:o}")
        self._ours.add(Path(target).stat().st_dev)
        for entry in os.scandir(f"/proc/self/fd/{original}"):
            copy = Path(target, entry.name)
            if entry.name in skip:
                continue
            if entry.is_symlink():
                copy.symlink_to(Path(entry.path).readlink())
                continue
            _make(copy, directory=entry.is_dir())
            _mount(entry.path, str(copy), flags=BIND | RECURSIVE)
        os.close(original)

    def make(self, target: str, *, directory: bool) -> Path:
        """Make sure of a directory or file at ``target``, leaving no trace outside."""
        present = Path(target)
        missing = []
        while not present.exists():
            missing.append(present.name)
            present = present.parent
        present = present.resolve()
        in_volume = any(present.is_relative_to(mounted) for mounted in self._mounted)
        if missing and not in_volume and present.stat().st_dev not in self._ours:
            self._copy(os.open(present, os.O_PATH), str(present))
        while missing:
            present = present / missing.pop()
            _make(present, directory=directory or bool(missing))
        return present

    def attach(self, source: int, target: str, *, read_only: bool) -> None:
        """Mount the opened file or directory ``source`` on ``target``."""
        is_directory = stat.S_ISDIR(os.fstat(source).st_mode)
        point = str(self.make(target, directory=is_directory))
        _mount(f"/proc/self/fd/{source}", point, flags=BIND | RECURSIVE)
        if read_only:
            kept = os.statvfs(point).f_flag & LOCKED
            _mount("", point, flags=BIND | REMOUNT | READ_ONLY | kept)
        self._mounted.append(Path(point))


def _make(path: Path, *, directory: bool) -> None:
    path.mkdir() if directory else path.touch()


def _unshare() -> None:
    user, group = os.getuid(), os.getgid()
    _call("unshare", NEW_MOUNTS | NEW_PROCESSES | (NEW_USER if user else 0))
    if user:  # root inside a namespace of its own is what an ordinary user may be
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _join(process: int) -> int:
    """Enter the namespaces of a running container; the opened root that its programs see."""
    root = os.open(f"/proc/{process}/root", os.O_PATH)
    names = ["pid", "mnt"]
    if not Path(f"/proc/{process}/ns/user").samefile("/proc/self/ns/user"):
        names.insert(0, "user")
    spaces = [os.open(f"/proc/{process}/ns/{name}", os.O_RDONLY) for name in names]
    for space in spaces:
        _call("setns", space, 0)
    return root


def _become(spec: dict[str, Any], root: int | None) -> NoReturn:
    """The child: arrange what it sees, then be the program."""
    _call("prctl", DIE_WITH_PARENT, signal.SIGKILL)
    if root is None:
        mounts = spec["mounts"]
        view = Root()
        # Opened first: a volume may be mounted over the place where another's source is seen.
        sources = [os.open(mount["source"], os.O_PATH) for mount in mounts]
        view.enter(spec["scratch"])
        for source, mount in zip(sources, mounts, strict=True):
            view.attach(source, mount["target"], read_only=mount["read_only"])
        view.make(spec["directory"], directory=True)
    else:
        os.fchdir(root)
        os.chroot(".")
    os.chdir(spec["directory"])
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    program = spec["argv"][0]
    try:
        os.execvp(program, spec["argv"])
    except OSError as error:
        raise OSError(error.errno, f"cannot run {program}: {error.strerror}") from error


def main(spec: dict[str, Any]) -> int:
    """Start the program and wait for it; its exit code, 128 more than the signal that killed it."""
    report = os.dup(1)  # closed by exec, which tells the reader that the program runs
    os.dup2(2, 1)
    child = -1
    try:
        root = _join(spec["join"]) if spec["join"] else None
        if root is None:
            _unshare()
        child = os.fork()
        if child == 0:
            _become(spec, root)
        os.write(report, f"process {child}\n".encode())
    except Exception as error:
        os.write(report, f"error {error}\n".encode())
        os._exit(START_ERROR)
    for number in FORWARDED:
        signal.signal(number, lambda number, _: os.kill(child, number))
    os.close(report)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
