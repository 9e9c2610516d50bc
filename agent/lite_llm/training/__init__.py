"""The project's own trainer for HSER, and the recipe of the bundled demo model."""

from lite_llm.training.corpus import Corpus, SourceFile, standard_library
from lite_llm.training.evaluation import Evaluator
from lite_llm.training.export import DEMO_KEY, write_checkpoint
from lite_llm.training.recipe import DEMO, Recipe, Shape
from lite_llm.training.trainer import Step, read_log, train, trained
from lite_llm.training.vocabulary import tokens_of, trained_tokenizer

__all__ = [
    "DEMO",
    "DEMO_KEY",
    "Corpus",
    "Evaluator",
    "Recipe",
    "Shape",
    "SourceFile",
    "Step",
    "read_log",
    "standard_library",
    "tokens_of",
    "train",
    "trained",
    "trained_tokenizer",
    "write_checkpoint",
]
