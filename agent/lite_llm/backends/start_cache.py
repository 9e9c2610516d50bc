"""Where engines keep what they compiled, so that the next start on this node does not.

Each engine files its own by source, processor or device, and options; what they lack is a place
that outlives a container, and a bound. Compiled code is executed: only this user may write there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

VARIABLES: Final = {
    "NUMBA_CACHE_DIR": "numba",  # our kernels on the CPU
    "TRITON_CACHE_DIR": "triton",  # ours on the GPU, and vLLM's
    "CUPY_CACHE_DIR": "cupy",
    "CUDA_CACHE_PATH": "cuda",  # what drivers make of PTX
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "VLLM_CACHE_ROOT": "vllm",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
}
"""Environment variables by which engines are told, and the folder that each is given."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Entry:
    """A folder with files directly in it: what belongs together stays or goes together."""

    used_at: float
    num_bytes: int
    path: Path


class StartCache:
    """A directory of one node's."""

    def __init__(self, directory: Path, *, max_bytes: int = 16 << 30) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def environment(self) -> dict[str, str]:
        """For workers, and for whatever forks them; the directory is made."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {name: str(self._directory / folder) for name, folder in VARIABLES.items()}

    def trim(self) -> int:
        """Remove what was not used for longest until the rest fits; returns its bytes.

        While no worker starts: engines take a missing entry for one that was never made, but not
        one that goes while they read it.
        """
        entries = sorted(self._entries(), key=lambda entry: (entry.used_at, entry.path))
        num_bytes = sum(entry.num_bytes for entry in entries)
        for entry in entries:
            if num_bytes <= self._max_bytes:
                break
            for file in entry.path.iterdir():
                if not file.is_dir() or file.is_symlink():
                    with contextlib.suppress(OSError):
                        file.unlink()
            with contextlib.suppress(OSError):  # it has folders of its own
                entry.path.rmdir()
            num_bytes -= entry.num_bytes
            log.info("start cache trimmed", path=str(entry.path), bytes=entry.num_bytes)
        return num_bytes

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _entries(self) -> Iterator[_Entry]:
        for folder, _, names in os.walk(self._directory):
            used_at, num_bytes = 0.0, 0
            for name in names:
                with contextlib.suppress(OSError):
                    status = (Path(folder) / name).lstat()
                    # Many disks are mounted without access times; then this is when it was made.
                    used_at = max(used_at, status.st_atime, status.st_mtime)
                    num_bytes += status.st_size
            if names:
                yield _Entry(used_at, num_bytes, Path(folder))
