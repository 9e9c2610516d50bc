"""``config.json`` as a checked, frozen value: what is not implemented is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.models.first.rope import RopeConfig

ARCHITECTURES: Final = ("LlamaForCausalLM",)
DTYPES: Final = ("float32", "bfloat16", "float16")

# Fields that change the computation, and the one value of each that is implemented.
_ONLY: Final[Mapping[str, object]] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_interleaved": False,
    "quantization_config": None,
    "sliding_window": None,
}
_USED: Final = frozenset(
    {
        *("architectures", "dtype", "torch_dtype", "vocab_size", "tie_word_embeddings"),
        *("hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps"),
        *("num_attention_heads", "num_key_value_heads", "head_dim"),
        *("max_position_embeddings", "rope_parameters", "rope_scaling", "rope_theta"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    }
)
# Fields of training, of bookkeeping and of other programs: they don't change an answer.
_IGNORED: Final = frozenset(
    {
        *("attention_dropout", "initializer_range", "pretraining_tp"),
        *("transformers_version", "transformers.js_config", "use_cache"),
        *("is_llama_config", "unsloth_fixed", "unsloth_version"),
    }
)
_ROPE_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes and constants of one Llama; all are counts unless said otherwise."""

    vocab_size: int
    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_tokens: int
    """Positions the model was trained for: prompt and answer together."""
    norm_epsilon: float
    tied: bool
    """The output head is the embedding."""
    dtype: str
    """Of weights and activations, by torch's name."""
    rope: RopeConfig
    eos_token_ids: frozenset[int]

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of ``config.json``: :class:`Unsupported` or :class:`Corrupt` by name."""
        _refuse_what_is_not_implemented(fields)
        read = _Reader(fields)
        heads, hidden = read.count("num_attention_heads"), read.count("hidden_size")
        kv_heads = read.count("num_key_value_heads", default=heads)
        if heads % kv_heads:
            read.wrong("num_key_value_heads", f"it must divide num_attention_heads, {heads}")
        if fields.get("head_dim") is None and hidden % heads:
            read.wrong("hidden_size", f"num_attention_heads, {heads}, must divide it")
        head_dim = read.count("head_dim", default=hidden // heads)
        if head_dim % 2:
            read.wrong("head_dim", "rotary embedding needs an even one")
        vocab = read.count("vocab_size")
        context = read.count("max_position_embeddings")
        return cls(
            vocab_size=vocab,
            hidden_size=hidden,
            ffn_size=read.count("intermediate_size"),
            num_layers=read.count("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            context_tokens=context,
            norm_epsilon=read.positive("rms_norm_eps"),
            tied=read.flag("tie_word_embeddings"),
            dtype=_dtype_of(fields),
            rope=_rope_of(fields, context),
            eos_token_ids=token_ids(fields.get("eos_token_id"), vocab=vocab),
        )


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """The object in one of a checkpoint's small files; :class:`Corrupt` names a broken one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _broken(where, f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _broken(where, "holds no JSON object")
    return value


def token_ids(value: object, *, vocab: int) -> frozenset[int]:
    """Of ``eos_token_id``: one id, a list of ids or None, as Hugging Face's files have it."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if type(token) is not int or not 0 <= token < vocab:
            raise _wrong("eos_token_id", value, f"token ids lie in 0..{vocab - 1}")
    return frozenset(ids)


def _broken(where: str, what: str) -> Corrupt:
    return Corrupt(f"{where} {what}", where=where, remedy="fetch the checkpoint again")


def _wrong(field: str, value: object, remedy: str) -> Corrupt:
    return Corrupt(f"config.json: {field} is {value!r:.80}", where=field, remedy=remedy)


def _unsupported(field: str, value: object, remedy: str) -> Unsupported:
    message = f"config.json: {field} = {value!r:.80} is not supported"
    return Unsupported(message, where=field, remedy=remedy)


class _Reader:
    """Typed access to fields; raises on behalf of the field asked for."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def wrong(self, field: str, remedy: str) -> NoReturn:
        raise _wrong(field, self._fields.get(field), remedy)

    def count(self, field: str, default: int | None = None) -> int:
        value = self._fields.get(field)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            self.wrong(field, "it must be a positive integer")
        return value

    def positive(self, field: str) -> float:
        return _positive(self._fields, field)

    def flag(self, field: str) -> bool:
        value = self._fields.get(field, False)
        if value is not True and value is not False:
            self.wrong(field, "it must be true or false")
        return bool(value)


def _positive(fields: Mapping[str, Any], field: str, default: float | None = None) -> float:
    value = fields.get(field, default)
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise _wrong(field, value, "it must be a positive number")
    return float(value)


def _refuse_what_is_not_implemented(fields: Mapping[str, Any]) -> None:
    architectures = fields.get("architectures")
    if architectures not in [[name] for name in ARCHITECTURES]:
        remedy = f"serve one of {', '.join(ARCHITECTURES)}"
        raise _unsupported("architectures", architectures, remedy)
    for field, value in fields.items():
        if field in _ONLY and value != _ONLY[field]:
            raise _unsupported(field, value, f"only {_ONLY[field]!r} is implemented")
        known = field in _ONLY or field in _USED or field in _IGNORED
        if not known and not field.startswith("_") and value is not None:
            raise _unsupported(field, value, "remove it if it does not change the computation")


def _dtype_of(fields: Mapping[str, Any]) -> str:
    dtype = fields.get("dtype", fields.get("torch_dtype"))
    if dtype not in DTYPES:
        raise _unsupported("dtype", dtype, f"use one of {', '.join(DTYPES)}")
    return str(dtype)


def _rope_of(fields: Mapping[str, Any], context: int) -> RopeConfig:
    # transformers 5 writes rope_parameters; before, rope_theta and rope_scaling stood apart.
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise _wrong("rope_parameters", scaling, "it must be an object")
    rope = {"rope_theta": fields.get("rope_theta", 10000.0), **scaling}
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    if kind not in list(_ROPE_FIELDS):
        remedy = f"only {', '.join(_ROPE_FIELDS)} are implemented"
        raise _unsupported("rope_type", kind, remedy)
    values = {name: _positive(rope, name) for name in ("rope_theta", *_ROPE_FIELDS[kind])}
    if kind == "llama3":
        original = "original_max_position_embeddings"
        values[original] = _positive(rope, original, default=context)
        if values["low_freq_factor"] >= values["high_freq_factor"]:
            raise _wrong("high_freq_factor", rope, "it must exceed low_freq_factor")
    if unknown := sorted(rope.keys() - values.keys()):
        raise _unsupported(unknown[0], rope[unknown[0]], f"rope_type {kind} does not take it")
    return RopeConfig(
        kind=kind,
        theta=values["rope_theta"],
        factor=values.get("factor", 1.0),
        low_frequency_factor=values.get("low_freq_factor", 1.0),
        high_frequency_factor=values.get("high_freq_factor", 1.0),
        original_context=values.get("original_max_position_embeddings", 0.0),
    )
