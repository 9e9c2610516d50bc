"""Where machine code is kept between processes.

numba compares a cached function with its own file only, but ours take functions and constants from
others: here one stamp covers a whole room. The code lies in ``NUMBA_CACHE_DIR`` where that is set,
else beside the sources, else, if those are read-only, with the user's caches; it is never kept
where other users may write, for it is executed. Files are replaced whole, so that several processes
may share them, and numba files them by processor. Rooms above this one may keep theirs likewise.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba.core import caching

_ROOM = Path(__file__).resolve().parent
_kept_in: set[str] = set()


@functools.cache
def directory(room: Path = _ROOM) -> Path | None:
    """The first candidate that can be written; None: each process compiles for itself."""
    xdg = os.environ.get("XDG_CACHE_HOME")
    user = Path(xdg) if xdg else Path("~").expanduser() / ".cache"
    candidates = [room / "__pycache__", user / "lite-llm" / room.name]
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        candidates = [Path(chosen) / f"lite-llm-{room.name}"]
    for candidate in candidates:
        try:
            candidate.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=candidate).close()
        except OSError:
            continue
        return candidate
    return None


@functools.cache
def stamp(room: Path = _ROOM) -> str:
    """A digest of a room's sources."""
    digest = hashlib.sha256()
    for path in sorted(room.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _RoomLocator(caching._CacheLocator):
    def __init__(self, function: Callable[..., Any], room: Path) -> None:
        self._line = function.__code__.co_firstlineno
        self._room = room
        _kept_in.add(str(directory(room)))

    def get_cache_path(self) -> str:
        return str(directory(self._room))

    def get_source_stamp(self) -> str:
        return stamp(self._room)

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> _RoomLocator | None:
        room = Path(source).resolve().parent
        ours = room.parent == _ROOM.parent and directory(room) is not None
        return cls(function, room) if ours else None


_NumbasFiles = caching.IndexDataCacheFile


class _Files(_NumbasFiles):
    """A file that can't be read holds nothing, and one that can't be written is done without."""

    def load(self, key: Any) -> Any:
        numbas: Any = super()
        try:
            found = numbas.load(key)
        except Exception:  # what a power failure left raises anything when it is unpickled
            return None
        # Numbers of files are given anew to other code, by an index that comes before it.
        return found[1] if found and found[0] == (self._source_stamp, key) else None

    def save(self, key: Any, data: Any) -> None:
        numbas: Any = super()
        with suppress(OSError):
            numbas.save(key, ((self._source_stamp, key), data))

    def _load_index(self) -> Any:
        numbas: Any = super()
        try:
            return numbas._load_index()
        except Exception:  # likewise
            return {}


def _files(cache_path: str, filename_base: str, source_stamp: Any) -> Any:
    kind: Any = _Files if cache_path in _kept_in else _NumbasFiles
    return kind(cache_path, filename_base, source_stamp)


locators: list[type[Any]] = caching.CacheImpl._locator_classes
locators.insert(0, _RoomLocator)
caching.IndexDataCacheFile = _files  # type: ignore[misc,assignment]  # numba has no other way in
