"""What is declared as tables in the code: metrics and errors."""

from __future__ import annotations

import inspect

from markdown import code, page, table

from lite_llm.contracts.outcomes import OUTCOMES
from lite_llm.telemetry import names


def metrics_page() -> str:
    """Every metric that a program exports."""
    rows = [
        (
            code(metric.name),
            type(metric).__name__.lower(),
            ", ".join(
                code(label.name) + (f" ({', '.join(label.values)})" if label.values else "")
                for label in metric.labels
            ),
            ", ".join(sorted(metric.programs)),
            metric.help,
        )
        for metric in names.METRICS
    ]
    return page(
        "Metrics",
        "At `/metrics` of every program, as text or OpenMetrics. Durations are in seconds, sizes in"
        " bytes. An open label has 1,000 values at most; what comes after them is `other`. Agents "
        "tell their workers' metrics with their own, under vLLM's names where it has one.",
        table(("metric", "kind", "labels", "of", "what"), rows),
    )


def errors_page() -> str:
    """Every error with what it looks like from outside."""
    rows = [
        (
            code(outcome.code),
            f"{outcome.http} {outcome.kind}",
            outcome.grpc,
            str(outcome.exit),
            code(outcome.reason),
            "yes" if kind.recoverable else "no",
            (inspect.getdoc(kind) or "").partition("\n")[0],
        )
        for kind, outcome in OUTCOMES.items()
    ]
    return page(
        "Errors",
        "Each says what is wrong, where, and what to do. Over HTTP they have OpenAI's shape with "
        "this `code`; over gRPC an `ErrorDetail` goes along; commands end with the exit status, "
        "after BSD's sysexits.h; conditions of custom resources have the reason.",
        table(("code", "HTTP", "gRPC", "exit", "reason", "try again", "what"), rows),
    )
