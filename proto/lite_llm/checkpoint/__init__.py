"""Checkpoints on disk: our own format, Hugging Face's read in place, and the way between."""

from lite_llm.checkpoint.conversion import ConvertOptions
from lite_llm.checkpoint.convert import ConvertOutcome, ConvertProgress, convert
from lite_llm.checkpoint.index import INDEX_NAME, MAJOR, MINOR, SIGNATURE_NAME
from lite_llm.checkpoint.reader import Reader, open_checkpoint, read_index
from lite_llm.checkpoint.signatures import Signature, read_signature, sign, signature_of
from lite_llm.checkpoint.snapshot import new_snapshot, open_snapshot
from lite_llm.checkpoint.tiering import TierRule, TierRules, assign, load_rules
from lite_llm.checkpoint.verify import Finding, VerifyProgress, verify
from lite_llm.checkpoint.writer import CheckpointWriter

__all__ = [
    "INDEX_NAME",
    "MAJOR",
    "MINOR",
    "SIGNATURE_NAME",
    "CheckpointWriter",
    "ConvertOptions",
    "ConvertOutcome",
    "ConvertProgress",
    "Finding",
    "Reader",
    "Signature",
    "TierRule",
    "TierRules",
    "VerifyProgress",
    "assign",
    "convert",
    "load_rules",
    "new_snapshot",
    "open_checkpoint",
    "open_snapshot",
    "read_index",
    "read_signature",
    "sign",
    "signature_of",
    "verify",
]
