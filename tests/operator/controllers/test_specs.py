"""What of a custom resource reaches the store."""

import pytest

from lite_llm.contracts.errors import InvalidName
from lite_llm.controllers.specs import model_spec
from lite_llm.wire import dumps

METADATA = {"namespace": "team-a", "name": "llama-3.1", "generation": 7}


def test_the_least_that_a_resource_can_say() -> None:
    spec = model_spec({"metadata": METADATA, "spec": {"source": {"uri": "hf://meta/llama"}}})
    assert dumps(spec) == (
        b'{"generation":"7","ref":{"name":"llama-3.1","namespace":"team-a"},"scaling":{},'
        b'"source":{"uri":"hf://meta/llama"}}'
    )


def test_the_most_that_it_can_say() -> None:
    spec = model_spec(
        {
            "metadata": METADATA,
            "spec": {
                "source": {"uri": "s3://b/m", "revision": "v2"},
                "backend": "native",
                "profile": "large",
                "tierSetRef": {"name": "four"},
                "scaling": {
                    "minReplicas": 1,
                    "maxReplicas": 3,
                    "targetQueueLength": 5,
                    "idleSeconds": 60,
                },
                "aliases": ["gpt-x"],
            },
        }
    )
    assert (spec.source.revision, spec.profile, spec.tier_set) == ("v2", "large", "four")
    assert (spec.scaling.min_replicas, spec.scaling.max_replicas) == (1, 3)
    assert (spec.scaling.target_queue_length, spec.scaling.idle_seconds) == (5, 60)
    assert list(spec.aliases) == ["gpt-x"]


def test_a_name_that_kubernetes_allows_and_we_do_not() -> None:
    body = {"metadata": {**METADATA, "name": "x" * 64}, "spec": {"source": {"uri": "hf://a/b"}}}
    with pytest.raises(InvalidName, match="1 to 63"):
        model_spec(body)
