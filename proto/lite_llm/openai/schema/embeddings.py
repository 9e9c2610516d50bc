"""``/v1/embeddings``: only as much as it takes to say no in the right words."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from lite_llm.openai.schema.sampling import TokenId


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/embeddings``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[str | TokenId | list[TokenId]]
