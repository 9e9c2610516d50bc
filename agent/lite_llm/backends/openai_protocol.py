"""OpenAI's protocol as inference servers speak it: requests from our wire, pieces from theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from lite_llm.backends.interface import Piece
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.proto.v1 import generate_pb2 as wire

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_REASONS: Final = {"stop": wire.FINISH_REASON_STOP, "length": wire.FINISH_REASON_LENGTH}


def prompt_of(start: wire.GenerateStart) -> tuple[str, dict[str, Any]]:
    """The path to ask at, and the fields that say what to go on from."""
    match start.WhichOneof("prompt"):
        case "chat":
            fields: dict[str, Any] = {"messages": messages_of(start.chat)}
            if start.chat.tools_json:
                # None may be called for, but the template shows them: what the model makes of
                # them stays in the text, as with our own engine.
                tools = parsed(start.chat.tools_json, list, "tools")
                fields |= {"tools": tools, "tool_choice": "none"}
            return CHAT, fields
        case "token_ids":
            return TEXT, {"prompt": list(start.token_ids.ids)}
        case _:
            return TEXT, {"prompt": start.text}


def messages_of(chat: wire.Chat) -> list[dict[str, Any]]:
    """In the form of OpenAI's API."""
    return [
        {
            "role": message.role,
            "content": message.content,
            **parsed(message.extra_json or "{}", dict, f"messages[{number}]"),
        }
        for number, message in enumerate(chat.messages)
    ]


def parsed(text: str, kind: type, where: str) -> Any:
    """JSON of one kind; :class:`InvalidRequest` for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where} is no JSON: {error}", where=where) from error
    if not isinstance(value, kind):
        raise InvalidRequest(f"{where} is no JSON {kind.__name__}", where=where)
    return value


def max_tokens_of(sampling: wire.SamplingParameters) -> int | None:
    """The limit that was asked for, or the default one; None: what there is room for."""
    return sampling.max_tokens or max(sampling.default_max_tokens, sampling.min_tokens) or None


def optional_fields(sampling: wire.SamplingParameters, names: Iterable[str]) -> dict[str, Any]:
    """Those of ``names`` that were set: what is unset is the checkpoint's to say."""
    return {
        name: shortest(getattr(sampling, name))
        for name in names
        if sampling.HasField(name)  # type: ignore[arg-type]  # one of its fields
    }


def shortest(value: float) -> float:
    """A number of single precision in the digits that were written: 0.7, not 0.699999988."""
    return value if isinstance(value, int) else float(f"{value:.7g}")


def pieces_of(message: Mapping[str, Any]) -> Iterable[Piece]:
    """Of a chunk of a stream, or of a whole answer; one sequence a request."""
    for choice in message["choices"]:
        said = choice.get("delta") or choice.get("message") or choice
        reason = choice.get("finish_reason")
        ids = tuple(choice.get("token_ids") or ())
        prompt = choice.get("prompt_token_ids") or message.get("prompt_token_ids")
        yield Piece(
            text=said.get("content") or said.get("text") or "",
            token_ids=ids,
            logprobs=tuple(_rated(choice.get("logprobs") or {}, ids)),
            reason=None if reason is None else _REASONS[reason],
            prompt_tokens=len(prompt) if prompt else None,
        )
    if usage := message.get("usage"):
        yield Piece(
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
            completion_tokens=usage.get("completion_tokens", 0),
        )


def _rated(logprobs: Mapping[str, Any], ids: Sequence[int]) -> Iterable[wire.TokenLogprobs]:
    if not logprobs:
        return
    if "content" in logprobs:  # of a chat
        told = [
            (
                each["token"],
                each["logprob"],
                {top["token"]: top["logprob"] for top in each["top_logprobs"]},
            )
            for each in logprobs["content"] or ()
        ]
    else:
        tokens = logprobs.get("tokens") or ()
        tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
        told = list(
            zip(tokens, logprobs.get("token_logprobs") or (), (t or {} for t in tops), strict=True)
        )
    if len(told) != len(ids):
        raise ValueError(f"{len(told)} log probabilities for {len(ids)} tokens")
    for (token, logprob, top), number in zip(told, ids, strict=True):
        # The protocol names tokens by their text; the chosen one's number is the only one known.
        named = {token: logprob, **top}
        yield wire.TokenLogprobs(
            token_id=number,
            logprob=logprob,
            top=[
                wire.TopLogprob(text=text, logprob=value, token_id=number if text == token else 0)
                for text, value in named.items()
            ],
        )
