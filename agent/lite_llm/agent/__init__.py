"""The daemon that owns a node: it runs models in worker processes and tells how they are."""

from lite_llm.agent.lifecycle import RunningAgent, running
from lite_llm.agent.settings import AgentSettings

__all__ = ["AgentSettings", "RunningAgent", "running"]
