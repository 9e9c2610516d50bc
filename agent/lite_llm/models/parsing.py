"""The fields that families have in common, as parts of a configuration.

A family's file calls these and reads what is its own; what nobody has read is refused at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch

from lite_llm.kernels import Activation
from lite_llm.models.architecture import DecoderConfig, LayerConfig, NormConfig
from lite_llm.models.attention import AttentionConfig
from lite_llm.models.ffn import FfnConfig
from lite_llm.models.fields import Fields
from lite_llm.models.rope import RopeConfig
from lite_llm.models.rope_fields import context_of

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MAX_LAYERS: Final = 4096
"""Each becomes an object before its tensors are looked for; real models have a tenth at most."""

FULL, SLIDING = "full_attention", "sliding_attention"


def read_dtype(fields: Fields, default: torch.dtype | None = None) -> torch.dtype:
    """Of weights and activations; its field was called ``torch_dtype``."""
    older = fields.raw("torch_dtype")
    name = fields.raw("dtype") or older
    if name is None and default is not None:
        return default
    if not isinstance(name, str) or name not in DTYPES:
        fields.unsupported("dtype" if "dtype" in fields else "torch_dtype", _one_of(DTYPES))
    return DTYPES[name]


def read_activation(
    fields: Fields, name: str = "hidden_act", default: Activation = Activation.SILU
) -> Activation:
    """By transformers' names."""
    value = fields.text(name, default)
    if value not in list(Activation):
        fields.unsupported(name, _one_of(Activation))
    return Activation(value)


def read_head_dim(fields: Fields) -> int:
    """Dimensions of a head, by default hidden size over heads; even, so that it can turn."""
    heads, hidden = fields.count("num_attention_heads"), fields.count("hidden_size")
    if "head_dim" not in fields and hidden % heads:
        fields.wrong("hidden_size", f"num_attention_heads, {heads}, must divide it")
    head_dim = fields.count("head_dim", hidden // heads)
    if head_dim % 2:
        fields.wrong("head_dim", "rotary embedding needs an even one")
    return head_dim


def read_attention(
    fields: Fields,
    *,
    rope: RopeConfig | None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    bias: bool = False,
    output_bias: bool = False,
    qk_norm: NormConfig | None = None,
    qk_norm_wide: bool = False,
    sinks: bool = False,
) -> AttentionConfig:
    """Sizes from the fields, variants from the family; scale is one over the root of head_dim."""
    heads, head_dim = fields.count("num_attention_heads"), read_head_dim(fields)
    kv_heads = fields.count("num_key_value_heads", heads)
    if heads % kv_heads:
        fields.wrong("num_key_value_heads", f"it must divide num_attention_heads, {heads}")
    return AttentionConfig(
        hidden_size=fields.count("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5 if scale is None else scale,
        rope=rope,
        window=window,
        softcap=softcap,
        bias=bias,
        output_bias=output_bias,
        qk_norm=qk_norm,
        qk_norm_wide=qk_norm_wide,
        sinks=sinks,
    )


def read_ffn(
    fields: Fields,
    *,
    size: str = "intermediate_size",
    activation: Activation | None = None,
    bias: bool = False,
    name: str = "mlp",
) -> FfnConfig:
    """A dense block whose inner size is the field ``size``."""
    return FfnConfig(
        hidden_size=fields.count("hidden_size"),
        inner_size=fields.count(size),
        activation=activation or read_activation(fields),
        bias=bias,
        name=name,
    )


def read_norm(fields: Fields, *, plus_one: bool = False) -> NormConfig:
    """Of the whole model."""
    return NormConfig(epsilon=fields.number("rms_norm_eps"), plus_one=plus_one)


def read_num_layers(fields: Fields) -> int:
    """How many there are."""
    layers = fields.count("num_hidden_layers")
    if layers > MAX_LAYERS:
        fields.wrong("num_hidden_layers", f"at most {MAX_LAYERS} are possible")
    return layers


def read_windows(
    fields: Fields, *, slides: Callable[[int], bool], window: int | None
) -> list[int | None]:
    """Each layer's window: by ``layer_types``, or where that is absent by the family's rule.

    ``window`` is what sliding layers have; with None nothing slides.
    """
    num_layers, types = read_num_layers(fields), fields.items("layer_types")
    if types is None:
        return [window if slides(layer) else None for layer in range(num_layers)]
    if len(types) != num_layers:
        fields.wrong("layer_types", f"it must list {num_layers} layers")
    if any(kind not in (FULL, SLIDING) for kind in types):
        fields.unsupported("layer_types", f"only {FULL} and {SLIDING} are implemented")
    if window is None and SLIDING in types:
        fields.wrong("layer_types", "layers slide, but there is no sliding_window")
    return [window if kind == SLIDING else None for kind in types]


def read_decoder(
    fields: Fields,
    *,
    family: str,
    layer: Callable[[int], LayerConfig],
    norm: NormConfig | None = None,
    tied: bool = False,
    dtype: torch.dtype | None = None,
    context_tokens: int | None = None,
    embedding_scale: float | None = None,
    residual_scale: float | None = None,
    logit_divisor: float | None = None,
    logit_softcap: float | None = None,
    stored: Mapping[str, tuple[str, ...]] | None = None,
    extra_layers: int = 0,
) -> DecoderConfig:
    """The whole model, of which ``layer`` gives each one.

    ``tied`` and ``dtype`` are the family's defaults. Comes last: refuses the fields that nobody has
    read.
    """
    vocab, context = fields.count("vocab_size"), context_of(fields)
    config = DecoderConfig(
        family=family,
        vocab_size=vocab,
        hidden_size=fields.count("hidden_size"),
        context_tokens=min(context, context_tokens or context),
        dtype=read_dtype(fields, dtype),
        norm=norm or read_norm(fields),
        layers=tuple(layer(number) for number in range(read_num_layers(fields))),
        tied=fields.flag("tie_word_embeddings", default=tied),
        eos_token_ids=read_token_ids(fields, "eos_token_id", vocab=vocab),
        embedding_scale=embedding_scale,
        residual_scale=residual_scale,
        logit_divisor=logit_divisor,
        logit_softcap=logit_softcap,
        stored=stored or {},
        extra_layers=extra_layers,
    )
    fields.finish()
    return config


def read_token_ids(fields: Fields, name: str, *, vocab: int) -> frozenset[int]:
    """One id, a list of ids or nothing, as Hugging Face's files have it."""
    value = fields.raw(name)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if type(token) is not int or not 0 <= token < vocab:
            fields.wrong(name, f"token ids lie in 0..{vocab - 1}")
    return frozenset(ids)


def _one_of(names: Mapping[str, object] | type[Activation]) -> str:
    return f"only {', '.join(names)} are implemented"
