"""Backends by name: which module runs as the worker of a model."""

from __future__ import annotations

from typing import Final

from lite_llm.backends.interface import Backend
from lite_llm.backends.llamacpp import LlamaCpp
from lite_llm.backends.tokasaurus import Tokasaurus
from lite_llm.backends.vllm import Vllm
from lite_llm.contracts.errors import Unsupported

NATIVE: Final = "native"
_NATIVE_WORKER: Final = "lite_llm.engine.worker"  # names, not imports: who asks has no torch
_FOREIGN_WORKER: Final = "lite_llm.backends.worker"
_FOREIGN: Final[dict[str, Backend]] = {
    backend.name: backend for backend in (LlamaCpp(), Vllm(), Tokasaurus())
}
BACKENDS: Final = (NATIVE, *_FOREIGN)
"""Every name that ``ModelSpec.backend`` may have; empty means native."""


def worker_module(name: str) -> str:
    """The module that ``python -m`` runs for a model of the backend ``name``.

    Workers take the same arguments and serve the same calls, whatever runs behind them. Raises
    :class:`Unsupported` for an unknown name.
    """
    if name in ("", NATIVE):
        return _NATIVE_WORKER
    foreign_backend(name)
    return _FOREIGN_WORKER


def foreign_backend(name: str) -> Backend:
    """The backend ``name``, which is not native; :class:`Unsupported` for an unknown one."""
    if name not in _FOREIGN:
        raise Unsupported(
            f"there is no backend {name!r}",
            where="backend",
            remedy=f"use one of {', '.join(BACKENDS)}",
        )
    return _FOREIGN[name]
