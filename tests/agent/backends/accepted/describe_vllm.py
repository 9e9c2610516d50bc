"""Run by a Python that has vLLM: print what it accepts, or check a command and requests.

``describe_vllm.py`` prints the table that is kept beside this file; ``describe_vllm.py check``
reads ``{"arguments": [...], "completions": [...], "chats": [...]}`` from standard input and fails
if vLLM's own parsers do.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import vllm  # type: ignore[import-not-found,unused-ignore]  # not in our environment
from vllm.entrypoints.launchers.cli_args import (  # type: ignore[import-not-found,unused-ignore]
    make_arg_parser,
)
from vllm.entrypoints.openai.chat_completion.protocol import (  # type: ignore[import-not-found,unused-ignore]
    ChatCompletionRequest,
)
from vllm.entrypoints.openai.completion.protocol import (  # type: ignore[import-not-found,unused-ignore]
    CompletionRequest,
)
from vllm.utils.argparse_utils import (  # type: ignore[import-not-found,unused-ignore]
    FlexibleArgumentParser,
)


def table() -> dict[str, Any]:
    options = {}
    for action in make_arg_parser(FlexibleArgumentParser())._actions:
        for name in action.option_strings:
            if name.startswith("--"):
                options[name] = "flag" if action.nargs == 0 else "value"
    return {
        "source": f"vllm {vllm.__version__}",
        "options": dict(sorted(options.items())),
        "completion": sorted(CompletionRequest.model_fields),
        "chat": sorted(ChatCompletionRequest.model_fields),
    }


def check(given: dict[str, Any]) -> None:
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(given["arguments"])
    assert parsed.model_tag == given["arguments"][0]
    for body in given["completions"]:
        CompletionRequest.model_validate(body)
    for body in given["chats"]:
        ChatCompletionRequest.model_validate(body)


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        check(json.load(sys.stdin))
    else:
        json.dump(table(), sys.stdout, indent=0)
