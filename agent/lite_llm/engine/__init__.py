"""The native engine: from a checkpoint and a request to tokens, in a process of its own."""

from lite_llm.engine.generation import Finished, Prefilled, Request, Step, Token, generate
from lite_llm.engine.model import Model, load_model
from lite_llm.engine.sampling import Sampling, choose
from lite_llm.engine.stopping import FinishReason, Limits
from lite_llm.engine.tokens import Detokenizer, Tokenizer

__all__ = [
    "Detokenizer",
    "FinishReason",
    "Finished",
    "Limits",
    "Model",
    "Prefilled",
    "Request",
    "Sampling",
    "Step",
    "Token",
    "Tokenizer",
    "choose",
    "generate",
    "load_model",
]
