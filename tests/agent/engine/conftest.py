"""One tiny model for the tests of the engine, and a step loop to drive by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lite_llm.engine import (
    BatchSettings,
    Failed,
    Finished,
    Limits,
    Measures,
    Model,
    Request,
    Sampling,
    Step,
    StepLoop,
    Token,
    load_model,
)
from lite_llm.kernels import set_threads
from lite_llm.kvcache import DiskPages, KvCache
from lite_llm.telemetry import Metrics
from lite_llm.testing.checkpoints import tiny_llama

PAGE_TOKENS = 16


class Reader:
    """Keeps the steps of one request."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.full = False

    def put(self, step: Step) -> None:
        """An :class:`Outlet`'s."""
        self.steps.append(step)

    def tokens(self, index: int = 0) -> list[Token]:
        """Of one sequence, with all that was told of them."""
        return [step for step in self.steps if isinstance(step, Token) and step.index == index]

    def ids(self, index: int = 0) -> list[int]:
        return [token.id for token in self.tokens(index)]

    def text(self, index: int = 0) -> str:
        return "".join(token.text for token in self.tokens(index))

    @property
    def ends(self) -> list[Finished]:
        return [step for step in self.steps if isinstance(step, Finished)]

    @property
    def failure(self) -> Failed | None:
        return next((step for step in self.steps if isinstance(step, Failed)), None)


class Driver:
    """A step loop with its cache; closed and checked at the end of the test."""

    def __init__(
        self,
        model: Model,
        *,
        pages: int = 256,
        host_pages: int = 0,
        disk_pages: int = 0,
        directory: Path | None = None,
        **batch: int,
    ) -> None:
        layout = model.decoder.kv_layout
        page_bytes = sum(layer.elements for layer in layout.layers) * PAGE_TOKENS * 4
        disk = None
        if directory is not None:
            disk = DiskPages(directory=directory, num_bytes=disk_pages * page_bytes)
        self.kv = KvCache(
            layout,
            device_bytes=pages * page_bytes,
            host_bytes=host_pages * page_bytes,
            disk=disk,
            page_tokens=PAGE_TOKENS,
        )
        self.metrics = Metrics()
        measures = Measures(self.metrics, "tiny")
        self.steps = StepLoop(model, self.kv, BatchSettings(**batch), measures)

    def run(self, *requests: Request) -> list[Reader]:
        """All of them at once, to the end."""
        readers = [self.add(request) for request in requests]
        while self.steps.step():
            pass
        return readers

    def add(self, request: Request) -> Reader:
        reader = Reader()
        self.steps.add(request, reader)
        return reader

    def value(self, name: str) -> float:
        """Of a metric."""
        labels = {"model_name": "tiny", "engine": "0"}
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None
        return value

    def close(self) -> None:
        self.steps.close()
        self.kv.check()
        assert self.kv.num_free_pages + self.kv.num_evictable_pages == self.kv.num_pages
        self.kv.close()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # Tiny products wait longer for a second thread than they take.
    torch.set_num_threads(1)
    set_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("checkpoint"), seed=5)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Model:
    *_, loaded = load_model(checkpoint)
    assert isinstance(loaded, Model)
    return loaded


@pytest.fixture
def drive(model: Model) -> Iterator[Callable[..., Driver]]:
    """Makes drivers."""
    made = []

    def new(other: Model = model, **settings: Any) -> Driver:
        made.append(Driver(other, **settings))
        return made[-1]

    yield new
    for driver in made:
        driver.close()


@pytest.fixture
def ask(model: Model) -> Callable[..., Request]:
    """Makes requests: a text, and fields of the request, its sampling or its limits."""

    def new(text: str = "the same", **fields: Any) -> Request:
        limits = {"max_tokens": 24} | _taken(fields, Limits)
        sampling = {"temperature": 1.2, "seed": 42} | _taken(fields, Sampling)
        prompt = fields.pop("prompt", None) or model.tokenizer.encode(text)
        return Request(
            prompt=tuple(prompt), sampling=Sampling(**sampling), limits=Limits(**limits), **fields
        )

    return new


def _taken(fields: dict[str, Any], kind: Any) -> dict[str, Any]:
    names = [name for name in fields if name in kind.__dataclass_fields__]
    return {name: fields.pop(name) for name in names}
