"""``/v1/models``."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Model(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int = 0  # the metadata store does not say, and OpenAI's clients want a number
    owned_by: str = "lite-llm"
    root: str | UnsetType = UNSET
    """The model that answers, where ``id`` is another name for it."""
    version: str | UnsetType = UNSET
    """Of the model that answers."""


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Model, ...]
