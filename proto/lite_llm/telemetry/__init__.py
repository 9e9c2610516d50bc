"""Measurements, logs and traces, under one list of names."""

from lite_llm.telemetry import logs, names, traces, vllm_names
from lite_llm.telemetry.kinds import Program
from lite_llm.telemetry.metrics import Family, Metrics, metrics_of, render

__all__ = [
    "Family",
    "Metrics",
    "Program",
    "logs",
    "metrics_of",
    "names",
    "render",
    "traces",
    "vllm_names",
]
