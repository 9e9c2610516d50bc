"""From a library to a signed checkpoint with its card, as ``make train-demo`` does it."""

from dataclasses import replace
from pathlib import Path

import pytest

from lite_llm.checkpoint import open_checkpoint, signature_of, verify
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.training import DEMO, DEMO_KEY, Recipe, Shape, __main__, card
from lite_llm.training.recipe import tier_names


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Enough files that some are held out."""
    directory = tmp_path / "lib"
    directory.mkdir()
    for number in range(60):
        text = f"def f{number}(self):\n    return self.x + {number}\n\n\n" * 4
        (directory / f"m{number}.py").write_text(text)
    return directory


def test_a_checkpoint_is_made_signed_and_described(
    tmp_path: Path, library: Path, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Recipe(shape=shape, steps=2, horizon=2, batch=2, peak_rate=1e-2, warmup_steps=1)
    monkeypatch.setattr(__main__, "DEMO", tiny)
    monkeypatch.setattr(card, "_SAMPLE_TOKENS", 4)
    out = tmp_path / "out"
    written = []
    for _ in range(2):
        __main__.main(out=out, work=tmp_path / "work", corpus=library)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1], "a run that is over only writes again"
    with open_checkpoint(out) as reader:
        assert [tier.name for tier in reader.manifest.tiers] == ["hot", "warm", "cold"]
        assert len(reader.manifest.experts) == shape.layers * shape.experts
    *_, last = verify(out)
    assert not [step for step in [last] if getattr(step, "findings", ())]
    assert signature_of(out, (DEMO_KEY.public,)).signer == DEMO_KEY.public
    text = (out / "README.md").read_text()
    for said in ("| `fast` |", "| `max` |", "| `deep` |", "PSF licence", "make train-demo"):
        assert said in text
    assert (out / "loss.svg").read_text().startswith("<?xml")


def test_the_demos_recipe_fits_its_promises() -> None:
    assert len(DEMO.shape.gate.tiers) >= 3
    assert tier_names(DEMO.shape.gate.tiers) == ["hot", "warm", "cold", "archive"]


def test_a_shape_that_can_t_be_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="heads"):
        replace(DEMO.shape, heads=3)
