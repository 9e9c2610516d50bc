"""OpenAI's REST API as orchestrators and agents speak it: schema, streams and error shapes."""

from lite_llm.openai.asking import Asked, asked_chat, asked_completion
from lite_llm.openai.failures import in_openai_shape
from lite_llm.openai.merging import merged
from lite_llm.openai.naming import model_named, name_of, not_found

__all__ = [
    "Asked",
    "asked_chat",
    "asked_completion",
    "in_openai_shape",
    "merged",
    "model_named",
    "name_of",
    "not_found",
]
