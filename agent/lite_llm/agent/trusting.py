"""Whether a checkpoint on this machine's disk may be run: who signed it, and who has to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lite_llm.backends import NATIVE
from lite_llm.checkpoint import INDEX_NAME
from lite_llm.checkpoint.files import read_small
from lite_llm.checkpoint.index import MAX_INDEX_BYTES
from lite_llm.checkpoint.signatures import read_signature
from lite_llm.contracts.errors import Forbidden
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.trust import SignaturePolicy


def policy_for(spec: ModelSpec, policy: SignaturePolicy) -> SignaturePolicy:
    """The node's ``policy``, sharpened by the model's; ``InvalidSettings`` if no key is trusted."""
    return replace(policy, required=policy.required or spec.require_signature)


def check_signature(directory: Path, policy: SignaturePolicy, *, backend: str = NATIVE) -> None:
    """Return if ``policy`` allows the checkpoint.

    The signature is over the index, whose checksums our own workers hold every weight against; what
    another ``backend`` reads it does not cover. Raises :class:`Forbidden` where one is required and
    there is none, and :class:`Corrupt` for one that no trusted key made.
    """
    if policy.required and backend not in ("", NATIVE):
        raise Forbidden(
            f"{backend} reads files that no signature covers, but the policy requires one",
            where="backend",
            remedy="convert the checkpoint, sign it, and run it on our own engine",
        )
    index = directory / INDEX_NAME
    if index.is_file():
        data = read_small(index, max_bytes=MAX_INDEX_BYTES)
        policy.check(data, read_signature(directory), where=str(index))
    elif policy.required:
        raise Forbidden(
            f"{directory} has no index that could be signed, but the policy requires a signature",
            where="source.uri",
            remedy="convert the checkpoint, and sign it",
        )
