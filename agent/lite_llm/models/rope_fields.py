"""What ``config.json`` says about rotary embedding, in the words of all its generations.

Two kinds depend on a sequence's length in the papers, which would let an answer depend on how its
prompt was chunked. Here the served context decides once, for all requests: ``dynamic`` scales only
beyond ``max_position_embeddings``, where nothing is served, and so changes nothing; ``longrope``
takes its long factors if the served context exceeds the original one, and the short ones else.
"""

from __future__ import annotations

import math
from typing import Final

from lite_llm.models.fields import Fields, is_positive
from lite_llm.models.rope import Linear, Llama3, LongRope, RopeConfig, Yarn

_KINDS: Final = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_ALIASES: Final = {"su": "longrope"}  # Phi-3's first files
_PARTIAL: Final = "partial_rotary_factor"
_MAX_CONTEXT: Final = 1 << 31
"""Positions are int32 where attention sees them."""


def context_of(fields: Fields) -> int:
    """Positions that the model can take."""
    context = fields.count("max_position_embeddings")
    if context > _MAX_CONTEXT:
        fields.wrong("max_position_embeddings", f"at most {_MAX_CONTEXT}")
    return context


def read_rope(
    fields: Fields,
    *,
    head_dim: int,
    theta: float = 10000.0,
    partial: float | None = None,
    context_tokens: int | None = None,
) -> RopeConfig:
    """From ``rope_parameters``, or from ``rope_theta`` and ``rope_scaling``, which it replaced.

    ``theta`` and ``partial`` are the family's defaults; without the latter, whole heads turn and
    nothing else is implemented. ``context_tokens``: the served context, if it is less than the
    model's.
    """
    scaling = fields.nested("rope_scaling")
    rope = fields.nested("rope_parameters") or scaling or Fields({})
    if partial is None:
        fields.only(_PARTIAL, 1, 1.0)
        rope.only(_PARTIAL, 1, 1.0)
    else:
        partial = fields.number(_PARTIAL, partial)
    older = Fields({"rope_theta": fields.number("rope_theta", theta), _PARTIAL: partial})
    return rope_of(rope, fields, older, head_dim=head_dim, context_tokens=context_tokens)


def rope_of(
    rope: Fields,
    fields: Fields,
    older: Fields,
    *,
    head_dim: int,
    context_tokens: int | None = None,
) -> RopeConfig:
    """From one object of parameters; ``older`` has what stands outside it in older files."""
    context = context_of(fields)
    kind = _kind(rope)
    theta = rope.number("rope_theta", older.number("rope_theta"))
    if theta <= 1:
        rope.wrong("rope_theta", "it must exceed 1")
    partial = rope.number(_PARTIAL, older.number(_PARTIAL, 1.0))
    dim = int(head_dim * partial) if partial <= 1 else 0
    if dim < 2 or dim % 2:
        rope.wrong(_PARTIAL, f"it must leave an even part of {head_dim} dimensions")
    # Phi-3 has it outside, and there it wins.
    original = fields.optional_count("original_max_position_embeddings")
    inside = rope.optional_count("original_max_position_embeddings")
    original = original or inside or context
    attention_factor = 1.0
    scaling: Linear | Llama3 | Yarn | LongRope | None = None
    match kind:
        case "linear":
            scaling = Linear(rope.number("factor"))
        case "dynamic":
            rope.number("factor")
        case "llama3":
            scaling = _llama3(rope, original)
        case "yarn":
            factor = rope.number("factor", context / original)
            scaling = Yarn(
                factor=factor,
                original_context=original,
                beta_fast=rope.number("beta_fast", 32.0),
                beta_slow=rope.number("beta_slow", 1.0),
                truncate=rope.flag("truncate", default=True),
            )
            attention_factor = _yarn_attention_factor(rope, factor)
        case "longrope":
            short, long = (_factors(rope, f"{name}_factor", dim) for name in ("short", "long"))
            scaling = LongRope(long if (context_tokens or context) > original else short)
            attention_factor = _long_attention_factor(rope, context, original)
    rope.finish()
    return RopeConfig(dim=dim, theta=theta, scaling=scaling, attention_factor=attention_factor)


def _kind(rope: Fields) -> str:
    older = rope.text("type", "default")
    kind = rope.text("rope_type", older)
    kind = _ALIASES.get(kind, kind)
    if kind not in _KINDS:
        name = "rope_type" if "rope_type" in rope else "type"
        rope.unsupported(name, f"only {', '.join(_KINDS)} are implemented")
    return kind


def _llama3(rope: Fields, original: int) -> Llama3:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        rope.wrong("high_freq_factor", "it must exceed low_freq_factor")
    return Llama3(rope.number("factor"), low, high, original)


def _yarn_attention_factor(rope: Fields, factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    given = rope.optional_number("attention_factor")
    mscale, mscale_all_dim = rope.optional_number("mscale"), rope.optional_number("mscale_all_dim")
    if given is not None:
        return given
    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1.0)


def _long_attention_factor(rope: Fields, context: int, original: int) -> float:
    given, factor = rope.optional_number("attention_factor"), rope.optional_number("factor")
    factor = factor or context / original
    if given is not None:
        return given
    if factor <= 1:
        return 1.0
    if original < 2:
        rope.wrong("original_max_position_embeddings", "its logarithm divides")
    return math.sqrt(1 + math.log(factor) / math.log(original))


def _factors(rope: Fields, name: str, dim: int) -> tuple[float, ...]:
    values = rope.items(name)
    if values is None or len(values) != dim // 2:
        rope.wrong(name, f"it must list {dim // 2} numbers")
    if not all(map(is_positive, values)):
        rope.wrong(name, "its numbers must be positive")
    return tuple(map(float, values))
