"""Takes requests to agents: holds them while their model loads, streams back, cancels."""

from lite_llm.dispatch.agents import Agents, connecting
from lite_llm.dispatch.generation import Dispatcher
from lite_llm.dispatch.loads import Loads, loading

__all__ = ["Agents", "Dispatcher", "Loads", "connecting", "loading"]
