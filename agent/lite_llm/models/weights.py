"""A model's blocks as they arrive: put by whoever loads, awaited by the thread that computes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from lite_llm.contracts.errors import Cancelled
from lite_llm.models.architecture import AttentionBlock, FfnBlock


@dataclass(frozen=True)
class Layer:
    """One layer, ready to run; norms after its blocks are None where there are none."""

    attention: AttentionBlock
    ffn: FfnBlock
    before_attention_D: Tensor
    after_attention_D: Tensor | None
    before_ffn_D: Tensor
    after_ffn_D: Tensor | None


@dataclass(frozen=True)
class Head:
    """What follows the last layer."""

    norm_D: Tensor
    output_VD: Tensor


class Weights:
    """Any thread may put, get or fail. Getting waits; each part is put once."""

    def __init__(self, num_layers: int) -> None:
        self._embedding: Future[Tensor] = Future()
        self._layers: list[Future[Layer]] = [Future() for _ in range(num_layers)]
        self._head: Future[Head] = Future()
        self._complete = False

    def put_embedding(self, embedding_VD: Tensor) -> None:
        """What comes before layer 0."""
        self._embedding.set_result(embedding_VD)

    def put(self, index: int, layer: Layer) -> None:
        """Layer ``index``, in any order."""
        self._layers[index].set_result(layer)

    def put_head(self, head: Head) -> None:
        """What comes after the last layer."""
        self._head.set_result(head)

    def embedding(self) -> Tensor:
        """Once it is there; raises what stopped the load, as do the others."""
        return self._embedding.result()

    def get(self, index: int) -> Layer:
        """Layer ``index``, once it is there."""
        return self._layers[index].result()

    def head(self) -> Head:
        """Once it is there."""
        return self._head.result()

    @property
    def complete(self) -> bool:
        """Whether nothing has to be waited for; remembered, as each step asks."""
        self._complete = self._complete or all(part.done() for part in self._parts())
        return self._complete

    def fail(self, error: BaseException) -> None:
        """Whoever waits for what is not there, now or later, gets ``error``."""
        for part in self._parts():
            with suppress(InvalidStateError):  # it is there
                part.set_exception(error)

    def drop(self) -> None:
        """Let go of all tensors; a step that needs them from now on fails with Cancelled."""
        gone = Weights(len(self._layers))
        gone.fail(Cancelled("the model's weights were unloaded", where="weights"))
        self.fail(Cancelled("the model's load was stopped", where="weights"))
        self._embedding, self._layers, self._head = gone._embedding, gone._layers, gone._head

    def _parts(self) -> Iterable[Future[Tensor] | Future[Layer] | Future[Head]]:
        return [self._embedding, *self._layers, self._head]
