"""Models by the names that clients of OpenAI's API use."""

from __future__ import annotations

from lite_llm.contracts import DEFAULT_NAMESPACE, ModelRef
from lite_llm.contracts.errors import InvalidName, ModelNotFound


def model_named(name: str) -> ModelRef:
    """Of the ``model`` field of a request; a name that nothing can have is not found either."""
    try:
        return ModelRef.parse(name)
    except InvalidName as error:
        raise not_found(name) from error


def name_of(model: ModelRef) -> str:
    """The shortest name that clients can use."""
    return model.name if model.namespace == DEFAULT_NAMESPACE else str(model)


def not_found(name: str) -> ModelNotFound:
    """What is said of a model that does not exist, and of one that the tenant must not see."""
    return ModelNotFound(
        f"the model {name[:200]!r} does not exist", where="model", remedy="GET /v1/models lists all"
    )
