"""What attention remembers of sequences, in pages: shared, found again by prefix, moved by tier."""

from lite_llm.kvcache.cache import KvCache
from lite_llm.kvcache.failures import NotResident, PageLeaked, SequenceReleased
from lite_llm.kvcache.layout import KvLayout, LayerKv
from lite_llm.kvcache.page_codec import PageFormat
from lite_llm.kvcache.page_file import DiskPages
from lite_llm.kvcache.predict import Prediction
from lite_llm.kvcache.sequence import CachedSequence

__all__ = [
    "CachedSequence",
    "DiskPages",
    "KvCache",
    "KvLayout",
    "LayerKv",
    "NotResident",
    "PageFormat",
    "PageLeaked",
    "Prediction",
    "SequenceReleased",
]
