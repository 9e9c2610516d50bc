"""The program: settings and wiring, nothing else."""

from lite_llm.orchestrator.program import Orchestrator, running
from lite_llm.orchestrator.settings import OrchestratorSettings

__all__ = ["Orchestrator", "OrchestratorSettings", "running"]
