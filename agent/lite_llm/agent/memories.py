"""What a node held, written down, so that an agent that comes after a crash brings it back.

An agent that ends in order leaves nothing here: its models are others' by then.
"""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from lite_llm.agent.hosted import Goal
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.checkpoint.durable import write_published
from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.proto.v1.agent_pb2 import LoadRequest
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import dumps, loads, ref_from_proto
from lite_llm.wire.values import medium_from_proto, medium_to_proto

log = structlog.get_logger(__name__)


class Memories:
    """One file a model."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory

    def remember(self, spec: ModelSpec, goal: Goal) -> None:
        """That the model is held. A disk that does not take it costs a later agent the memory."""
        request = LoadRequest(spec=spec, target=medium_to_proto(goal.medium))
        path = self._directory.specs / _name(ref_from_proto(spec.ref))
        try:
            self._directory.make()
            write_published(path, dumps(request))
        except OSError as error:
            log.warning("model can't be written down", path=str(path), error=str(error))

    def forget(self, ref: ModelRef) -> None:
        """That it is not held any more."""
        path = self._directory.specs / _name(ref)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("model can't be forgotten", path=str(path), error=str(error))

    def recalled(self) -> Iterator[tuple[ModelSpec, Goal]]:
        """What the agent before held, if it did not end in order."""
        for path in sorted(self._directory.specs.glob("*.json")):
            try:
                request = loads(path.read_bytes(), LoadRequest, where=str(path))
                ref_from_proto(request.spec.ref)  # raises where it names none
            except (LiteLLMError, OSError, ValueError) as error:
                log.warning("model can't be recalled", path=str(path), error=str(error))
                path.unlink(missing_ok=True)
            else:
                yield request.spec, Goal.of(medium_from_proto(request.target))


def _name(ref: ModelRef) -> str:
    return f"{ref.namespace}.{ref.name}.json"
