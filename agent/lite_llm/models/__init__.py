"""Model architectures: their configuration, their weights and their maths on one device."""

from lite_llm.models.config import LlamaConfig, parse_json, token_ids
from lite_llm.models.llama import Llama, SequenceCache
from lite_llm.models.loading import Progress, load_llama

__all__ = [
    "Llama",
    "LlamaConfig",
    "Progress",
    "SequenceCache",
    "load_llama",
    "parse_json",
    "token_ids",
]
