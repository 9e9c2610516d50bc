"""Takes requests to agents: holds them while their model loads, streams back, moves, cancels."""

from lite_llm.dispatch.agents import Agents, connecting
from lite_llm.dispatch.autoscaling import autoscaling
from lite_llm.dispatch.breakers import Breakers, breaking
from lite_llm.dispatch.demand import Uses
from lite_llm.dispatch.generation import Dispatcher
from lite_llm.dispatch.holding import HoldLimits
from lite_llm.dispatch.loads import Loads, loading
from lite_llm.dispatch.orders import Orders
from lite_llm.dispatch.switching import Aliases, switching
from lite_llm.dispatch.watchdog import Watchdog, guarding

__all__ = [
    "Agents",
    "Aliases",
    "Breakers",
    "Dispatcher",
    "HoldLimits",
    "Loads",
    "Orders",
    "Uses",
    "Watchdog",
    "autoscaling",
    "breaking",
    "connecting",
    "guarding",
    "loading",
    "switching",
]
