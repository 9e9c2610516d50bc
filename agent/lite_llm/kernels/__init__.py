"""The arithmetic of a model, each sum in one fixed order: an answer's bits don't depend on what
else is computed with it (ARCHITECTURE.md, "Determinism"). For inference: no gradients."""

from lite_llm.kernels.activation import Activation, gated
from lite_llm.kernels.addition import add
from lite_llm.kernels.attention import attend
from lite_llm.kernels.linear import grouped_linear, linear, linears
from lite_llm.kernels.mode import fast, is_fast, set_fast
from lite_llm.kernels.norm import rms_norm
from lite_llm.kernels.paging import LayerPages, PagedKv, Rows, store
from lite_llm.kernels.probability import log_softmax, softmax
from lite_llm.kernels.recording import Memory, NotRecordable, Recording, recorded
from lite_llm.kernels.rotation import rotate
from lite_llm.kernels.threads import get_threads, set_threads, warm_up

__all__ = [
    "Activation",
    "LayerPages",
    "Memory",
    "NotRecordable",
    "PagedKv",
    "Recording",
    "Rows",
    "add",
    "attend",
    "fast",
    "gated",
    "get_threads",
    "grouped_linear",
    "is_fast",
    "linear",
    "linears",
    "log_softmax",
    "recorded",
    "rms_norm",
    "rotate",
    "set_fast",
    "set_threads",
    "softmax",
    "store",
    "warm_up",
]
