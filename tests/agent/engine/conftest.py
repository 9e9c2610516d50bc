"""One tiny model for the tests of the engine."""

from pathlib import Path

import pytest
import torch

from lite_llm.engine import Model, load_model
from lite_llm.testing.checkpoints import tiny_llama


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny products wait longer for a second thread than they take


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("checkpoint"), seed=5)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Model:
    *_, loaded = load_model(checkpoint)
    assert isinstance(loaded, Model)
    return loaded
