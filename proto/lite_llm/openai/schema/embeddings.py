"""``/v1/embeddings``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.openai.schema.completions import Prompt, listed
from lite_llm.openai.schema.sampling import TokenId

MAX_INPUTS = 2048  # as OpenAI has it
MAX_DIMENSIONS = 1 << 16


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/embeddings``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None

    def inputs(self) -> list[Prompt]:
        """In order; never empty, and neither is any of them."""
        inputs = listed(self.input, "input")
        if not inputs or not all(inputs):
            raise InvalidRequest(
                "an input is empty", where="input", remedy="send one token or more"
            )
        if len(inputs) > MAX_INPUTS:
            raise InvalidRequest(
                f"{len(inputs)} inputs", where="input", remedy=f"send {MAX_INPUTS} at most"
            )
        return inputs


class Embedding(Struct, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """In base64 these are float32, little-endian."""


class EmbeddingUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, frozen=True, kw_only=True):
    """A whole answer."""

    object: Literal["list"] = "list"
    data: Sequence[Embedding]
    model: str
    usage: EmbeddingUsage
