"""Detached Ed25519 signatures (RFC 8032) and the policy that says when one is needed (SPEC-052)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lite_llm.contracts.errors import Conflict, Corrupt, Forbidden, InvalidSettings

SIGNATURE_BYTES: Final = 64
RAW_KEY_BYTES: Final = 32
MAX_KEY_FILE_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class PublicKey:
    """Says whether a signature was made with the private key of the pair."""

    raw: bytes
    """32 bytes."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a file with PEM (SubjectPublicKeyInfo) or 32 raw bytes, else InvalidSettings."""
        data = _read(path)
        try:
            if len(data) == RAW_KEY_BYTES:
                key: object = Ed25519PublicKey.from_public_bytes(data)
            else:
                key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _no_key(path, "public") from error
        if not isinstance(key, Ed25519PublicKey):
            raise _no_key(path, "public")
        return cls(key.public_bytes_raw())

    @property
    def pem(self) -> bytes:
        """As :meth:`load` and openssl read it."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def save(self, path: Path) -> None:
        """Write PEM that everybody may read; :class:`Conflict` if ``path`` exists."""
        _write_new(path, self.pem, mode=0o644)

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the key's SHA-256: for logs and messages."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is this key's over ``data``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """Makes signatures; never printed, never compared."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path, *, password: bytes | None = None) -> Self:
        """From a file with PEM (PKCS 8) or 32 raw bytes, else :class:`InvalidSettings`."""
        data = _read(path)
        try:
            if len(data) == RAW_KEY_BYTES:
                key: object = Ed25519PrivateKey.from_private_bytes(data)
            else:
                key = load_pem_private_key(data, password)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            # TypeError: a password that is missing, or given for a key without one.
            raise _no_key(path, "private") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _no_key(path, "private")
        return cls(key)

    @classmethod
    def load_raw(cls, raw: bytes) -> Self:
        """From the 32 raw bytes of RFC 8032."""
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def public(self) -> PublicKey:
        """The other half of the pair."""
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """64 bytes; the same for the same key and data."""
        return self._key.sign(data)

    def save(self, path: Path) -> None:
        """Write PEM that only the owner may read; :class:`Conflict` if ``path`` exists."""
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_new(path, pem, mode=0o600)


def generate_key() -> PrivateKey:
    """A fresh key from the system's random numbers."""
    return PrivateKey(Ed25519PrivateKey.generate())


@dataclass(frozen=True, kw_only=True)
class SignaturePolicy:
    """Whose signatures count, and whether there must be one."""

    trusted: tuple[PublicKey, ...] = ()
    required: bool = False

    def __post_init__(self) -> None:
        if self.required and not self.trusted:
            raise InvalidSettings(
                "signatures are required, but no key is trusted",
                where="trust",
                remedy="name at least one public key",
            )

    def check(self, data: bytes, signature: bytes | None, *, where: str) -> None:
        """Return if ``data`` may be used.

        Raises :class:`Forbidden` for unsigned data where a signature is required, and
        :class:`Corrupt` for a signature that no trusted key made. Without a trusted key a
        signature can't be judged, and is passed over.
        """
        if signature is None:
            if self.required:
                raise Forbidden(
                    f"{where}: not signed, but the policy requires a signature",
                    where=where,
                    remedy="sign it with a trusted key",
                )
            return
        if len(signature) != SIGNATURE_BYTES:
            raise _bad_signature(where, f"has {len(signature)} bytes, not {SIGNATURE_BYTES}")
        if self.trusted and not any(key.verifies(signature, data) for key in self.trusted):
            raise _bad_signature(where, "was made by no trusted key over these bytes")


ACCEPT_UNSIGNED: Final = SignaturePolicy()
"""For checkpoints whose origin is settled by other means, such as one's own disk."""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise InvalidSettings(
            f"key file {path} can't be read: {error.strerror}",
            where=str(path),
            remedy="give the path of a readable file",
        ) from error


def _write_new(path: Path, pem: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise Conflict(
            f"{path} exists", where=str(path), remedy="choose another name for the key"
        ) from error
    except OSError as error:
        raise InvalidSettings(
            f"key file {path} can't be written: {error.strerror}",
            where=str(path),
            remedy="choose a directory that exists and may be written",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(descriptor)


def _no_key(path: Path, half: str) -> InvalidSettings:
    return InvalidSettings(
        f"{path} holds no Ed25519 {half} key that can be read",
        where=str(path),
        remedy=f"give PEM without a password, or the {RAW_KEY_BYTES} raw bytes of the key",
    )


def _bad_signature(where: str, what: str) -> Corrupt:
    return Corrupt(
        f"{where}: the signature {what}",
        where=where,
        remedy="fetch the checkpoint again from a source you trust, or trust its signer's key",
    )
