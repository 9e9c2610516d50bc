"""Tokasaurus, as ``toka``; checked against version 0.0.4.

It listens on every address of the machine and has no way to say otherwise: run it only where a
network policy keeps strangers out. It answers whole, never in a stream, and samples by temperature
alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from lite_llm.backends.checkpoints import context_of, directory_of
from lite_llm.backends.interface import Call, Command, Launch, Piece, Server
from lite_llm.backends.openai_protocol import max_tokens_of, optional_fields, pieces_of, prompt_of
from lite_llm.backends.programs import program
from lite_llm.backends.refusals import refuse_fields
from lite_llm.contracts.errors import Unsupported
from lite_llm.proto.v1.generate_pb2 import GenerateStart

_MISSING: Final = (
    "min_tokens", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "stop_token_ids", "include_stop", "logprobs", "logit_bias",
    "json_schema",
)  # fmt: skip
_PAGE: Final = 16  # tokens; the cache's size must be a multiple


class Tokasaurus:
    """Listens on TCP; speaks OpenAI's protocol, without streams."""

    name = "tokasaurus"
    ready_path = "/ping"
    metrics_path = ""
    metric_names: Mapping[str, str] = {}

    def command(self, launch: Launch) -> Command:
        """See :class:`~lite_llm.backends.interface.Backend`."""
        profile = launch.profile
        return Command(
            arguments=(
                program("toka", remedy="install tokasaurus into PATH"),
                f"model={directory_of(launch.source)}",
                f"port={launch.port}",
                f"page_size={_PAGE}",
                f"kv_cache_num_tokens={profile.cache_tokens}",
                f"max_seqs_per_forward={profile.sequences}",
                f"max_num_tokens_per_request={self._context(launch)}",
                "uvicorn_log_level=warning",
            ),
            address=f"http://127.0.0.1:{launch.port}",
            environment={"OMP_NUM_THREADS": str(launch.threads)},
        )

    async def context_tokens(self, server: Server, launch: Launch) -> int:
        """As it was told."""
        return self._context(launch)

    async def call(self, start: GenerateStart, index: int, server: Server, launch: Launch) -> Call:
        """The seed is not used: it draws numbers of its own."""
        refuse_fields(self.name, start, _MISSING)
        path, body = prompt_of(start)
        if start.chat.tools_json:
            raise Unsupported("the tokasaurus backend has no tools", where="tools")
        body |= optional_fields(start.sampling, ("temperature",))
        body |= {
            "model": launch.model,
            # It wants a limit, and refuses one that the prompt leaves no room for.
            "max_tokens": max_tokens_of(start.sampling) or self._context(launch) // 2,
            "stop": list(start.sampling.stop),
            "ignore_eos": start.sampling.ignore_eos,
        }
        return Call(path, body, streams=False)

    def pieces(self, message: Mapping[str, Any]) -> Iterable[Piece]:
        """Of a whole answer; it hides the tokens in the fingerprint."""
        told = json.loads(message["system_fingerprint"])["completion_ids"]
        choice, *rest = pieces_of(message)
        return [replace(choice, token_ids=tuple(told[0])), *rest]

    def _context(self, launch: Launch) -> int:
        own = context_of(launch.source) or launch.profile.context_tokens
        return min(own, launch.profile.context_tokens)
