"""OpenAI's JSON as structs, an endpoint a file: what clients send, what they get, what is refused.

Fields that the API doesn't know are ignored, as OpenAI does itself; fields of a wrong type or range
are refused by name, and so are those that would change the answer but that nothing here obeys yet.
"""

from lite_llm.openai.schema.chat import ChatChunk, ChatCompletion, ChatRequest
from lite_llm.openai.schema.completions import Completion, CompletionRequest
from lite_llm.openai.schema.decoding import decode
from lite_llm.openai.schema.embeddings import EmbeddingRequest, Embeddings
from lite_llm.openai.schema.extension import Explanation, Extension
from lite_llm.openai.schema.failures import Failure
from lite_llm.openai.schema.models import Model, ModelList
from lite_llm.openai.schema.sampling import SampledRequest
from lite_llm.openai.schema.usage import FinishReason, Usage

__all__ = [
    "ChatChunk",
    "ChatCompletion",
    "ChatRequest",
    "Completion",
    "CompletionRequest",
    "EmbeddingRequest",
    "Embeddings",
    "Explanation",
    "Extension",
    "Failure",
    "FinishReason",
    "Model",
    "ModelList",
    "SampledRequest",
    "Usage",
    "decode",
]
