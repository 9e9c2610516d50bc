"""vLLM, as ``vllm serve``; checked against version 0.32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from lite_llm.backends.checkpoints import context_of, directory_of
from lite_llm.backends.interface import Call, Command, Launch, Piece, Server
from lite_llm.backends.openai_protocol import (
    CHAT,
    max_tokens_of,
    optional_fields,
    parsed,
    pieces_of,
    prompt_of,
    shortest,
)
from lite_llm.backends.programs import program
from lite_llm.backends.seeds import seed_for
from lite_llm.proto.v1.generate_pb2 import GenerateStart
from lite_llm.telemetry import vllm_names as names

_OPTIONAL: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_PASSED_ON: Final = (
    names.NUM_REQUESTS_WAITING,
    names.KV_CACHE_USAGE,
    names.PREFIX_CACHE_QUERIES,
    names.PREFIX_CACHE_HITS,
    names.PREEMPTIONS,
    names.REQUEST_QUEUE_TIME,
    names.REQUEST_PREFILL_TIME,
    names.REQUEST_DECODE_TIME,
    names.ITERATION_TOKENS,
)


class Vllm:
    """Listens on a unix socket; speaks OpenAI's protocol with token ids."""

    name = "vllm"
    ready_path = "/health"
    metrics_path = "/metrics"
    metric_names: Mapping[str, str] = {metric.name: metric.name for metric in _PASSED_ON}

    def command(self, launch: Launch) -> Command:
        """See :class:`~lite_llm.backends.interface.Backend`."""
        profile = launch.profile
        context = context_of(launch.source)
        return Command(
            arguments=(
                *(program("vllm", remedy="install vllm into PATH"), "serve"),
                str(directory_of(launch.source)),
                *("--uds", str(launch.socket)),
                *("--served-model-name", launch.model),
                *("--max-model-len", str(min(profile.context_tokens, context or 1 << 30))),
                *("--max-num-seqs", str(profile.sequences)),
                *("--gpu-memory-utilization", str(profile.device_share)),
                *("--scheduling-policy", "priority"),  # else it refuses requests that have one
                *("--max-logprobs", "100"),  # as many as our own engine gives
                "--enable-prompt-tokens-details",
                "--disable-access-log-for-endpoints=/health,/metrics",
            ),
            address=f"unix:{launch.socket}",
            environment={"VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": str(launch.threads)},
        )

    async def context_tokens(self, server: Server, launch: Launch) -> int:
        """As the server decided."""
        return int((await server.get("/v1/models"))["data"][0]["max_model_len"])

    async def call(self, start: GenerateStart, index: int, server: Server, launch: Launch) -> Call:
        """Everything in ``SamplingParameters`` has its counterpart but ``prompt_logprobs``."""
        sampling = start.sampling
        path, body = prompt_of(start)
        body |= optional_fields(sampling, _OPTIONAL)
        body |= {
            "model": launch.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "max_tokens": max_tokens_of(sampling),
            "min_tokens": sampling.min_tokens,
            "presence_penalty": shortest(sampling.presence_penalty),
            "frequency_penalty": shortest(sampling.frequency_penalty),
            "seed": seed_for(sampling.seed, index, bits=63),
            "stop": list(sampling.stop),
            "stop_token_ids": list(sampling.stop_token_ids),
            "include_stop_str_in_output": sampling.include_stop,
            "ignore_eos": sampling.ignore_eos,
            "priority": -start.priority,  # there the smaller number is sooner
        }
        if sampling.logit_bias:
            bias = sampling.logit_bias.items()
            body["logit_bias"] = {str(token): shortest(value) for token, value in bias}
        if sampling.HasField("logprobs"):
            chat = {"logprobs": True, "top_logprobs": sampling.logprobs}
            body |= chat if path == CHAT else {"logprobs": sampling.logprobs}
        if sampling.HasField("json_schema"):
            schema = parsed(sampling.json_schema, dict, "response_format")
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema},
            }
        if start.tenant:
            body["cache_salt"] = start.tenant
        return Call(path, body)

    def pieces(self, message: Mapping[str, Any]) -> Iterable[Piece]:
        """Of a chunk."""
        return pieces_of(message)
