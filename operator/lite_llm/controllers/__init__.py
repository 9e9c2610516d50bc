"""The operator: mirrors custom resources into the metadata store and tells what became of them."""

from lite_llm.controllers.watching import OperatorSettings, running

__all__ = ["OperatorSettings", "running"]
