"""Which family reads which architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.fields import Fields
from lite_llm.models.gemma import gemma2, gemma3
from lite_llm.models.llama import llama
from lite_llm.models.mistral import mistral
from lite_llm.models.phi3 import phi3
from lite_llm.models.qwen2 import qwen2
from lite_llm.models.qwen3 import qwen3

Family = Callable[[Fields, int | None], DecoderConfig]
"""From the fields of ``config.json`` and the served context, if it is less than the model's."""

ARCHITECTURES: Final[Mapping[str, Family]] = {
    "Gemma2ForCausalLM": gemma2,
    "Gemma3ForCausalLM": gemma3,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Phi3ForCausalLM": phi3,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
}
"""By the name in ``config.json``'s ``architectures``."""


def parse_config(
    architecture: Mapping[str, Any], *, context_tokens: int | None = None
) -> DecoderConfig:
    """The model that ``config.json`` describes.

    ``context_tokens`` limits what is served, and so which rotary factors a ``longrope`` model takes
    (see ``rope_fields``). Raises :class:`Unsupported` for an architecture or a field that is not
    implemented, and :class:`Corrupt` for one that makes no sense, by name.
    """
    fields = Fields(architecture)
    names = fields.raw("architectures")
    if names not in [[name] for name in ARCHITECTURES]:
        fields.unsupported("architectures", f"serve one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[names[0]](fields, context_tokens)
