"""From a custom resource to the spec that is stored. Pure: equal objects give equal messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from lite_llm.contracts import ModelRef
from lite_llm.proto.v1 import model_pb2
from lite_llm.wire import ref_to_proto

GROUP = "lite-llm.dev"
VERSION = "v1alpha1"
MODELS = "litellmmodels"


class ResourceName(NamedTuple):
    """A custom resource by its name in Kubernetes, which may be longer than a model's may be."""

    namespace: str
    name: str

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Of an object as the API server tells it."""
        return cls(body["metadata"]["namespace"], body["metadata"]["name"])


def model_spec(body: Mapping[str, Any]) -> model_pb2.ModelSpec:
    """The spec of a ``LiteLLMModel``; the API server has validated and defaulted its fields.

    Raises ``InvalidName`` for an object whose name is longer than ours may be.
    """
    metadata, spec = body["metadata"], body["spec"]
    scaling = spec.get("scaling", {})
    return model_pb2.ModelSpec(
        ref=ref_to_proto(ModelRef(*ResourceName.of(body))),
        source=model_pb2.ModelSource(
            uri=spec["source"]["uri"], revision=spec["source"].get("revision", "")
        ),
        backend=spec.get("backend", ""),
        profile=spec.get("profile", ""),
        tier_set=spec.get("tierSetRef", {}).get("name", ""),
        scaling=model_pb2.Scaling(
            min_replicas=scaling.get("minReplicas", 0),
            max_replicas=scaling.get("maxReplicas", 0),
            target_queue_length=scaling.get("targetQueueLength", 0),
            idle_seconds=scaling.get("idleSeconds", 0),
        ),
        aliases=spec.get("aliases", ()),
        generation=metadata["generation"],
    )
