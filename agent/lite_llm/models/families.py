"""Which family reads which architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.deepseek import deepseek_v2, deepseek_v3
from lite_llm.models.fields import Fields
from lite_llm.models.gemma import gemma2, gemma3
from lite_llm.models.glm import glm4_moe
from lite_llm.models.gpt_oss import gpt_oss
from lite_llm.models.granite import granite_moe
from lite_llm.models.hser import hser
from lite_llm.models.llama import llama
from lite_llm.models.mistral import mistral
from lite_llm.models.mixtral import mixtral
from lite_llm.models.olmoe import olmoe
from lite_llm.models.phi3 import phi3
from lite_llm.models.qwen2 import qwen2
from lite_llm.models.qwen3 import qwen3
from lite_llm.models.qwen_moe import qwen2_moe, qwen3_moe

Family = Callable[[Fields, int | None], DecoderConfig]
"""From the fields of ``config.json`` and the served context, if it is less than the model's."""

ARCHITECTURES: Final[Mapping[str, Family]] = {
    "DeepseekV2ForCausalLM": deepseek_v2,
    "DeepseekV3ForCausalLM": deepseek_v3,
    "Gemma2ForCausalLM": gemma2,
    "Gemma3ForCausalLM": gemma3,
    "Glm4MoeForCausalLM": glm4_moe,
    "GptOssForCausalLM": gpt_oss,
    "GraniteMoeForCausalLM": granite_moe,
    "LiteLlmHserForCausalLM": hser,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "MixtralForCausalLM": mixtral,
    "OlmoeForCausalLM": olmoe,
    "Phi3ForCausalLM": phi3,
    "Qwen2ForCausalLM": qwen2,
    "Qwen2MoeForCausalLM": qwen2_moe,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3MoeForCausalLM": qwen3_moe,
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
