"""Run by a Python that has Tokasaurus: print what it accepts, or check a command and requests.

As ``describe_vllm.py``, for ``toka``.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any, get_type_hints

import pydra  # type: ignore[import-not-found,unused-ignore]  # not in our environment
from tokasaurus.common_types import ServerConfig  # type: ignore[import-not-found,unused-ignore]
from tokasaurus.server.types import (  # type: ignore[import-not-found,unused-ignore]
    ChatCompletionRequest,
    CompletionsRequest,
)


def table() -> dict[str, Any]:
    options = {
        name: getattr(kind, "__name__", str(kind))
        for name, kind in get_type_hints(ServerConfig).items()
        if not name.startswith("_")
    }
    return {
        "source": f"tokasaurus {version('tokasaurus')}",
        "options": dict(sorted(options.items())),
        "completion": sorted(CompletionsRequest.model_fields),
        "chat": sorted(ChatCompletionRequest.model_fields),
    }


def check(given: dict[str, Any]) -> None:
    found: list[Any] = []
    ServerConfig.finalize = lambda config: None  # it would open the checkpoint
    pydra.main(ServerConfig)(found.append)(given["arguments"])
    config = found[0]
    assert isinstance(config.port, int)
    assert isinstance(config.kv_cache_num_tokens, int)
    assert config.kv_cache_num_blocks() > 0
    for body in given["completions"]:
        CompletionsRequest.model_validate(body)
    for body in given["chats"]:
        ChatCompletionRequest.model_validate(body)


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        check(json.load(sys.stdin))
    else:
        json.dump(table(), sys.stdout, indent=0)
