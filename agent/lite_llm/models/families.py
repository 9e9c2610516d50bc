"""Which family reads which architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.fields import Fields
from lite_llm.models.llama import llama

Family = Callable[[Fields, int | None], DecoderConfig]
"""From the fields of ``config.json`` and the served context, if it is less than the model's."""

ARCHITECTURES: Final[Mapping[str, Family]] = {
    "LlamaForCausalLM": llama,
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
