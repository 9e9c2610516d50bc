"""llama.cpp's server: ``llama-server`` where it is on PATH, else the one in the wheel xllamacpp."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lite_llm.backends.checkpoints import gguf_of
from lite_llm.backends.interface import Call, Command, Launch, Piece, Server
from lite_llm.backends.openai_protocol import max_tokens_of, messages_of, parsed, shortest
from lite_llm.backends.programs import program
from lite_llm.backends.refusals import refuse_fields
from lite_llm.backends.seeds import seed_for
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.proto.v1 import generate_pb2 as wire
from lite_llm.telemetry import vllm_names as names

_LAUNCHER: Final = Path(__file__).with_name("llama_server.py")
_REMEDY: Final = "install lite-llm[llamacpp], or put llama-server on PATH"
_MISSING: Final = ("min_tokens", "stop_token_ids", "include_stop")
_NEUTRAL: Final = {
    "temperature": ("temperature", 1.0),
    "top_p": ("top_p", 1.0),
    "top_k": ("top_k", 0),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("repeat_penalty", 1.0),
}
"""Its name for a parameter, and what we mean where nobody says: its own defaults differ."""
_REASONS: Final = {
    "eos": wire.FINISH_REASON_STOP,
    "word": wire.FINISH_REASON_STOP,
    "limit": wire.FINISH_REASON_LENGTH,
}


class LlamaCpp:
    """Listens on a unix socket; speaks its own protocol, for the tokens and log probabilities."""

    name = "llamacpp"
    ready_path = "/health"
    metrics_path = "/metrics"
    metric_names: Mapping[str, str] = {
        "llamacpp:requests_deferred": names.NUM_REQUESTS_WAITING.name,
        "llamacpp:prompt_tokens_cached_total": names.PREFIX_CACHE_HITS.name,
    }

    def command(self, launch: Launch) -> Command:
        """See :class:`~lite_llm.backends.interface.Backend`."""
        profile = launch.profile
        return Command(
            arguments=(
                *_server(),
                *("--model", str(gguf_of(launch.source))),
                *("--alias", launch.model),
                *("--host", str(launch.socket)),
                *("--parallel", str(profile.slots)),
                *("--ctx-size", str(profile.cache_tokens)),
                *("--threads", str(launch.threads)),
                "--metrics",
                "--no-webui",
                "--no-slots",  # other people's prompts
            ),
            address=f"unix:{launch.socket}",
        )

    async def context_tokens(self, server: Server, launch: Launch) -> int:
        """Of one of its slots."""
        settings = (await server.get("/props"))["default_generation_settings"]
        return int(settings["n_ctx"])

    async def call(
        self, start: wire.GenerateStart, index: int, server: Server, launch: Launch
    ) -> Call:
        """A conversation becomes text by the template in the file, in a call of its own."""
        refuse_fields(self.name, start, _MISSING)
        sampling = start.sampling
        body: dict[str, Any] = {
            "prompt": await _prompt(start, server),
            "stream": True,
            "return_tokens": True,
            "n_predict": max_tokens_of(sampling) or -1,
            "presence_penalty": shortest(sampling.presence_penalty),
            "frequency_penalty": shortest(sampling.frequency_penalty),
            # Our penalties look at the whole text.
            "repeat_last_n": launch.profile.context_tokens,
            "seed": seed_for(sampling.seed, index, bits=32),
            "stop": list(sampling.stop),
            "ignore_eos": sampling.ignore_eos,
            "logit_bias": [[t, shortest(value)] for t, value in sampling.logit_bias.items()],
            # It can't salt what it remembers: a tenant's prompts must not be seen through it.
            "cache_prompt": not start.tenant,
        }
        for ours, (theirs, neutral) in _NEUTRAL.items():
            is_set = sampling.HasField(ours)  # type: ignore[arg-type]  # one of its fields
            body[theirs] = shortest(getattr(sampling, ours)) if is_set else neutral
        if sampling.HasField("logprobs"):
            body["n_probs"] = max(1, sampling.logprobs)  # 0 would be none, not even the token's
        if sampling.HasField("json_schema"):
            body["json_schema"] = parsed(sampling.json_schema, dict, "response_format")
        return Call("/completion", body)

    def pieces(self, message: Mapping[str, Any]) -> Iterable[Piece]:
        """Of one message of the stream; the last one says why it ended."""
        timings = message.get("timings") or {}
        yield Piece(
            text=message["content"],
            token_ids=tuple(message.get("tokens") or ()),
            logprobs=tuple(map(_rated, message.get("completion_probabilities") or ())),
            reason=_REASONS[message["stop_type"]] if message["stop"] else None,
            prompt_tokens=message["tokens_evaluated"],
            cached_tokens=timings.get("cache_n"),
            completion_tokens=message["tokens_predicted"],
        )


def _server() -> tuple[str, ...]:
    try:
        return (program("llama-server", remedy=_REMEDY),)
    except InvalidSettings:
        if importlib.util.find_spec("xllamacpp") is None:
            raise
    return (sys.executable, "-P", str(_LAUNCHER))


async def _prompt(start: wire.GenerateStart, server: Server) -> str | list[int]:
    match start.WhichOneof("prompt"):
        case "chat":
            asked: dict[str, Any] = {"messages": messages_of(start.chat)}
            if start.chat.tools_json:
                asked["tools"] = parsed(start.chat.tools_json, list, "tools")
            return str((await server.post("/apply-template", asked))["prompt"])
        case "token_ids":
            return list(start.token_ids.ids)
        case _:
            return start.text


def _rated(token: Mapping[str, Any]) -> wire.TokenLogprobs:
    top = {each["id"]: each for each in (token, *token["top_logprobs"])}
    return wire.TokenLogprobs(
        token_id=token["id"],
        logprob=token["logprob"],
        top=[
            wire.TopLogprob(token_id=number, logprob=each["logprob"], text=each["token"])
            for number, each in top.items()
        ],
    )
