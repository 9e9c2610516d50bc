"""Checkpoints on disk: our own format, Hugging Face's read in place, and the way between."""

from lite_llm.checkpoint.index import INDEX_NAME, MAJOR, MINOR, SIGNATURE_NAME
from lite_llm.checkpoint.reader import Reader, open_checkpoint

__all__ = ["INDEX_NAME", "MAJOR", "MINOR", "SIGNATURE_NAME", "Reader", "open_checkpoint"]
