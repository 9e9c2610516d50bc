"""Options that only the agent has, each spelled once, and the settings they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lite_llm.contracts.errors import InvalidSettings

if TYPE_CHECKING:
    from lite_llm.trust import SignaturePolicy

_TRUST, _BUDGETS, _LOGS = "Signatures of checkpoints", "Budgets", "Logs"

SataDir = Annotated[
    Path | None,
    typer.Option(
        "--sata-dir",
        envvar="LITE_LLM_SATA_DIR",
        help="On a slower disk: what leaves --cache-dir for want of room goes there first.",
        rich_help_panel=_BUDGETS,
    ),
]
SataSize = Annotated[
    str | None,
    typer.Option(
        "--sata",
        metavar="SIZE",
        envvar="LITE_LLM_SATA",
        help="Of --sata-dir. Left out: nine tenths of what is free.",
        rich_help_panel=_BUDGETS,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda",
        envvar="LITE_LLM_DEVICE",
        help="Where models compute; auto is the first GPU where there is one.",
    ),
]
TrustKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust-key",
        envvar="LITE_LLM_TRUST_KEYS",
        help="Public key whose signatures of checkpoints count; may be repeated.",
        rich_help_panel=_TRUST,
    ),
]
RequireSignatures = Annotated[
    bool,
    typer.Option(
        "--require-signatures",
        envvar="LITE_LLM_REQUIRE_SIGNATURES",
        help="Of every model; else of those that ask for it.",
        rich_help_panel=_TRUST,
    ),
]
OpenAiApi = Annotated[
    bool | None,
    typer.Option(
        "--openai-api/--no-openai-api",
        envvar="LITE_LLM_OPENAI_API",
        help="OpenAI's API on --listen-http, without keys. Left out: where only this machine"
        " reaches it.",
    ),
]
Traces = Annotated[
    str,
    typer.Option(
        "--traces",
        metavar="URL",
        envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
        help="Collector of OpenTelemetry traces: http://host:4317.",
        rich_help_panel=_LOGS,
    ),
]


def signature_policy(keys: Sequence[Path], *, required: bool) -> SignaturePolicy:
    """Raises :class:`InvalidSettings` for a file that holds no key, and for a rule without one."""
    from lite_llm.trust import PublicKey, SignaturePolicy

    return SignaturePolicy(trusted=tuple(map(PublicKey.load, keys)), required=required)


def traced(endpoint: str, program: str) -> None:
    """Send traces there from now on; nothing where it is empty."""
    from lite_llm.telemetry import traces

    if endpoint:
        try:
            traces.configure(endpoint, program)
        except (ValueError, ModuleNotFoundError) as error:
            raise InvalidSettings(
                str(error), where="--traces", remedy="correct it, or leave it out"
            ) from error
