"""The native engine: from a checkpoint and requests to tokens, in a process of its own."""

from lite_llm.engine.batching import BatchSettings
from lite_llm.engine.engine import Answering, Engine
from lite_llm.engine.logprobs import Logprobs
from lite_llm.engine.measures import Measures
from lite_llm.engine.model import Model, load_model
from lite_llm.engine.request import (
    Failed,
    Finished,
    PromptRead,
    Request,
    Resumed,
    Started,
    Step,
    Token,
)
from lite_llm.engine.sampling import Sampling
from lite_llm.engine.step_loop import StepLoop
from lite_llm.engine.stopping import FinishReason, Limits
from lite_llm.engine.tokens import Detokenizer, Tokenizer

__all__ = [
    "Answering",
    "BatchSettings",
    "Detokenizer",
    "Engine",
    "Failed",
    "FinishReason",
    "Finished",
    "Limits",
    "Logprobs",
    "Measures",
    "Model",
    "PromptRead",
    "Request",
    "Resumed",
    "Sampling",
    "Started",
    "Step",
    "StepLoop",
    "Token",
    "Tokenizer",
    "load_model",
]
