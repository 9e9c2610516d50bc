"""Blocks arrive in any order, from any thread, or not at all."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import torch

from lite_llm.contracts.errors import Cancelled, Corrupt
from lite_llm.models.weights import Head, Layer, Weights


def layer(number: int) -> Layer:
    nothing = cast(Any, None)
    return Layer(cast(Any, number), nothing, nothing, None, nothing, None)


HEAD = Head(torch.zeros(2), torch.zeros(3, 2))


def test_parts_come_in_any_order() -> None:
    weights = Weights(2)
    weights.put_head(HEAD)
    weights.put(1, layer(1))
    weights.put(0, layer(0))
    weights.put_embedding(torch.ones(3, 2))
    assert weights.get(0) == layer(0)
    assert weights.get(1) == layer(1)
    assert weights.head() is HEAD
    assert weights.embedding().sum() == 6


def test_whoever_is_early_waits() -> None:
    weights, seen = Weights(1), []
    threads = [threading.Thread(target=lambda: seen.append(weights.get(0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert seen == []
    weights.put(0, layer(0))
    for thread in threads:
        thread.join()
    assert seen == [layer(0)] * 4


def test_a_failure_reaches_all_who_wait_and_spares_what_is_there() -> None:
    weights, raised = Weights(2), []
    weights.put(0, layer(0))

    def wait() -> None:
        with pytest.raises(Corrupt) as error:
            weights.get(1)
        raised.append(error.value)

    thread = threading.Thread(target=wait)
    thread.start()
    weights.fail(Corrupt("shard 2 is cut"))
    weights.fail(Corrupt("later news"))
    thread.join()
    assert [error.message for error in raised] == ["shard 2 is cut"]
    assert weights.get(0) == layer(0)
    with pytest.raises(Corrupt, match="shard 2 is cut"):
        weights.head()


def test_what_was_dropped_is_gone() -> None:
    weights, waiting = Weights(2), []
    weights.put(0, layer(0))

    def wait() -> None:
        with pytest.raises(Cancelled):
            weights.get(1)
        waiting.append("freed")

    thread = threading.Thread(target=wait)
    thread.start()
    weights.drop()
    thread.join()
    assert waiting == ["freed"]
    for get in (weights.embedding, weights.head, lambda: weights.get(0)):
        with pytest.raises(Cancelled, match="unloaded"):
            get()
