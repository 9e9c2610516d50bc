"""The model card: what the bundled model is, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from lite_llm.contracts.tiers import TierMode
from lite_llm.training.corpus import Corpus
from lite_llm.training.evaluation import Evaluator
from lite_llm.training.export import DEMO_KEY
from lite_llm.training.recipe import Recipe
from lite_llm.training.trainer import Step

CARD_NAME: Final = "README.md"
PROMPTS: Final = (
    "def __init__(self, ",
    "import os\nimport sys\n\n\nclass Reader:\n",
    "    for name in names:\n",
)
_SAMPLE_TOKENS: Final = 64


@dataclass(frozen=True)
class Figures:
    """Of one checkpoint."""

    bits: Mapping[str, float]
    """Per held-out byte, under each mode."""
    samples: Mapping[str, str]
    """Greedy completions under all tiers."""
    num_bytes: int
    """On disk, of weights and index."""


def measured(checkpoint: Path, corpus: Corpus) -> Figures:
    """By the decoder that serves, on the held-out files."""
    evaluator, files = Evaluator(checkpoint), list(corpus.held_out())
    selections = {
        str(mode): [tier.id for tier in evaluator.tiers if tier.placement <= mode.farthest]
        for mode in TierMode
    }
    bits = {name: evaluator.bits_per_byte(files, ids) for name, ids in selections.items()}
    samples = {prompt: evaluator.complete(prompt, max_tokens=_SAMPLE_TOKENS) for prompt in PROMPTS}
    size = sum(path.stat().st_size for path in checkpoint.iterdir() if path.is_file())
    return Figures(bits, samples, size)


def write_card(
    checkpoint: Path,
    recipe: Recipe,
    corpus: Corpus,
    steps: Sequence[Step],
    figures: Figures,
    *,
    num_tokens: int,
    curve: str,
) -> None:
    """``README.md`` beside the checkpoint."""
    shape = recipe.shape
    seen = recipe.steps * recipe.batch * shape.context
    modes = "\n".join(f"| `{name}` | {value:.3f} |" for name, value in figures.bits.items())
    tiers = "\n".join(
        f"| `{entry['name']}` | {entry['groups']} x {entry['experts_per_group']} "
        f"| {entry['top_k_groups'] * entry['top_k_experts']} |"
        for entry in shape.architecture()["tiers"]
    )
    samples = "\n".join(f"```python\n{text.rstrip()}\n```\n" for text in figures.samples.values())
    text = f"""# The demo model

A small HSER model ([docs/hser.md](../../docs/hser.md)) that completes Python: {shape.layers} layers
of width {shape.hidden}, {shape.experts} experts a layer in {len(shape.gate.tiers)} tiers,
{figures.num_bytes / 1e6:.1f} MB in float32. It shows what tiers, TierSets and cold starts are on
any machine; it is no assistant, and what it writes means nothing.

| tier | groups x experts | experts a token |
|---|---|---|
{tiers}

## Quality

Bits per byte of {sum(1 for _ in corpus.held_out())} held-out files
({sum(len(file.data) for file in corpus.held_out()):,} bytes), by the decoder that serves, in
windows of {shape.context} tokens:

| TierSet | bits per byte |
|---|---|
{modes}

## Samples

Greedy, under all tiers:

{samples}
## How it was made

- Corpus: the source code of Python's standard library, {corpus.origin}: {len(corpus.files)} files,
  {corpus.num_bytes:,} bytes, without tests and tables. Their SHA-256: `{corpus.digest}`. A file is
  held out by the hash of its name. Licence of the corpus: the
  [PSF licence](https://docs.python.org/3/license.html); of the weights: this project's.
- Tokenizer: byte-level BPE of {shape.vocab} tokens, trained on the same files.
- Training: {recipe.steps} steps of {recipe.batch} x {shape.context} tokens ({seen / 1e6:.1f}
  million of {num_tokens / 1e6:.1f} million in the corpus), AdamW, peak rate {recipe.peak_rate:g},
  cosine, gradients clipped at {recipe.clip_norm:g}, load-balancing loss, tier dropout;
  float32 on a CPU in {steps[-1].seconds / 60:.0f} minutes of steps on a machine with other
  work, torch {torch.__version__.partition("+")[0]}. The last {min(50, len(steps))} steps had
  {sum(step.loss for step in steps[-50:]) / len(steps[-50:]):.3f} nats a token.
- Again: `make train-demo`, which is `python -m lite_llm.training --out models/demo`. The same
  corpus gives the same bytes on the same kind of machine.
- Signed with a demo key that everybody knows: `{DEMO_KEY.public.fingerprint}`.

![Loss]({curve})
"""
    (checkpoint / CARD_NAME).write_text(text)
