"""The signature beside an index: made, read, and judged without opening the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lite_llm.checkpoint.durable import write_published
from lite_llm.checkpoint.files import read_small
from lite_llm.checkpoint.index import INDEX_NAME, MAX_INDEX_BYTES, SIGNATURE_NAME
from lite_llm.checkpoint.lease import writer_lease
from lite_llm.trust import SIGNATURE_BYTES, PrivateKey, PublicKey


@dataclass(frozen=True)
class Signature:
    """What is known of a checkpoint's signature."""

    present: bool
    signer: PublicKey | None = None
    """Which of the keys that were asked for made it over the index as it is now."""


def sign(directory: Path, key: PrivateKey) -> None:
    """Sign the index in ``directory`` anew, whoever signed it before."""
    with writer_lease(directory):
        data = read_small(directory / INDEX_NAME, max_bytes=MAX_INDEX_BYTES)
        write_published(directory / SIGNATURE_NAME, key.sign(data))


def read_signature(directory: Path) -> bytes | None:
    """The bytes beside the index, at most as many as a signature has; None where there are none.

    Raises :class:`Corrupt` for what is longer, or no plain file.
    """
    path = directory / SIGNATURE_NAME
    if not path.exists() and not path.is_symlink():
        return None
    return read_small(path, max_bytes=SIGNATURE_BYTES)


def signature_of(directory: Path, keys: Sequence[PublicKey] = ()) -> Signature:
    """Whether there is a signature, and whose of ``keys`` it is."""
    signature = read_signature(directory)
    if signature is None or not keys:
        return Signature(present=signature is not None)
    data = read_small(directory / INDEX_NAME, max_bytes=MAX_INDEX_BYTES)
    signer = next((key for key in keys if key.verifies(signature, data)), None)
    return Signature(present=True, signer=signer)
