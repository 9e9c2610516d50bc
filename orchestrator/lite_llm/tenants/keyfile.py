"""API keys, by their hashes, from a file that may change while we read it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

import msgspec
import structlog
from msgspec import Struct

from lite_llm.contracts.errors import InvalidSettings, Unauthenticated
from lite_llm.tenants.tenant import ANYBODY, Tenant

RELOAD_SECONDS = 5.0  # a key that was revoked works no longer than that

log = structlog.get_logger(__name__)


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    tenants: list[Tenant]


class Keys:
    """Made by :func:`open_keys`."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._clock = clock
        self._tenants: Mapping[str, Tenant] = {}
        self._version: tuple[int, ...] = ()
        self._looked_at = clock()
        if path is not None:
            self._version = _version(path)
            self._tenants = _read(path)

    def tenant(self, authorization: str) -> Tenant:
        """Whose key an ``Authorization`` header carries; :class:`Unauthenticated` for none."""
        if self._path is None:
            return ANYBODY
        self._follow(self._path)
        scheme, _, key = authorization.partition(" ")
        # Looked up by its hash: how long that takes tells nothing of the key.
        digest = hashlib.sha256(key.strip().encode(errors="surrogateescape")).hexdigest()
        tenant = self._tenants.get(digest) if scheme.lower() == "bearer" else None
        if tenant is None:
            raise Unauthenticated(
                "the API key is missing or wrong",
                where="authorization",
                remedy="send it as: Authorization: Bearer KEY",
            )
        return tenant

    def _follow(self, path: Path) -> None:
        now = self._clock()
        if now - self._looked_at < RELOAD_SECONDS:
            return
        self._looked_at = now
        try:
            if (version := _version(path)) == self._version:
                return
            self._tenants = _read(path)
            self._version = version  # now: one that could not be read is tried again
        except InvalidSettings as error:  # half written, perhaps: the old keys stay
            log.warning("keys not read again", path=str(path), error=str(error))
        else:
            log.info("keys read again", path=str(path), count=len(self._tenants))


def open_keys(path: Path | None) -> Keys:
    """The keys in a YAML or JSON file, followed as it changes; without one, anybody may ask.

    :class:`InvalidSettings` says what is wrong with the file.
    """
    return Keys(path)


def _version(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise _wrong(path, f"can't be read: {error.strerror}") from error
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> dict[str, Tenant]:
    try:
        document = msgspec.yaml.decode(path.read_bytes(), type=_Document)
    except OSError as error:
        raise _wrong(path, f"can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # YAML's own, too, of a day that no month has
        raise _wrong(path, f"is wrong: {error}") from error
    by_key: dict[str, Tenant] = {}
    names = set[str]()
    for tenant in document.tenants:
        if not tenant.name or tenant.name in names:
            raise _wrong(path, f"has two tenants, or none, by the name {tenant.name!r}")
        names.add(tenant.name)
        for key in tenant.keys:
            digest = key.removeprefix("sha256:")
            if digest in by_key:
                raise _wrong(path, f"gives one key to {by_key[digest].name} and {tenant.name}")
            by_key[digest] = tenant
    return by_key


def _wrong(path: Path, what: str) -> InvalidSettings:
    return InvalidSettings(
        f"the file of keys {what}", where=str(path), remedy="correct it; docs/adr/0015 has one"
    )
