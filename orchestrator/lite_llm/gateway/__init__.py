"""OpenAI's REST API and the gRPC ``Orchestrator`` service: schema, streams and errors."""

from lite_llm.gateway.app import make_app, serving_http
from lite_llm.gateway.service import SERVICE, OrchestratorService

__all__ = ["SERVICE", "OrchestratorService", "make_app", "serving_http"]
