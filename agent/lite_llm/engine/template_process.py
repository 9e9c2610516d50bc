"""A program that renders one chat template, apart from all else: templates are a stranger's code.

It is run by its path and imports nothing of ours, so it starts at once and is small. Standard input
has the template and the special tokens on the first line, then a conversation a line; standard
output answers each with a line. What a template may reach is the sandbox's business. What it may
use is limited here by the kernel: memory, and time, after which the process is gone.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime, timezone
from functools import partial
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT = 16 << 20  # characters; longer than any model's context
MAX_REASON = 1000  # characters

_BROKEN = (SecurityError, jinja2.TemplateSyntaxError, OverflowError, MemoryError, RecursionError)


class Refused(Exception):
    """The template itself does not want this conversation."""


class Generation(Extension):
    """``{% generation %}`` marks, for training, what the model said; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> CallBlock:
        """Its body, as it is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_said"), [], [], body, lineno=line)

    def _said(self, caller: Any) -> Any:
        return caller()


def environment() -> ImmutableSandboxedEnvironment:
    """As Hugging Face's templates expect it."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    return made


def rendered(
    template: jinja2.Template, special: dict[str, str], conversation: dict[str, Any]
) -> str:
    """The prompt; ``conversation`` has the template's variables and ``now`` in seconds."""
    now = datetime.fromtimestamp(conversation.pop("now"), timezone.utc)  # noqa: UP017 - runs alone
    pieces, size = [], 0
    for piece in template.generate(**special, **conversation, strftime_now=now.strftime):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_TEXT:
            raise OverflowError(f"the prompt has more than {MAX_TEXT} characters")
    return "".join(pieces)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes what HTML does not like.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise Refused(message)


def _answer(answer: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until standard input ends."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # No handler: the signal ends the process, even inside a call that Python can't interrupt.
    within_time = partial(signal.setitimer, signal.ITIMER_REAL)
    first, template = json.loads(sys.stdin.readline()), None
    for line in sys.stdin:
        within_time(seconds)
        try:
            template = template or environment().from_string(first["template"])
            answer = {"text": rendered(template, first["special"], json.loads(line))}
        except _BROKEN as error:
            answer = {"broken": f"{type(error).__name__}: {error}"[:MAX_REASON]}
        except Refused as error:
            answer = {"refused": str(error)[:MAX_REASON]}
        except Exception as error:  # whatever a template does, it is the template's
            answer = {"refused": f"{type(error).__name__}: {error}"[:MAX_REASON]}
        _answer(answer)
        within_time(0)


if __name__ == "__main__":
    main()
