"""What attention remembers of sequences, in pages: shared, found again by prefix, moved by tier."""

from lite_llm.kvcache.layout import KvLayout, LayerKv

__all__ = ["KvLayout", "LayerKv"]
