"""Conversations to prompts, by the checkpoint's own template."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from lite_llm.contracts.errors import Corrupt, InvalidRequest, Unsupported
from lite_llm.proto.v1.generate_pb2 import Chat

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
TEMPLATE_SECONDS = (
    10.0  # an honest template takes milliseconds; a busy machine a hundred times that
)
TEMPLATE_BYTES = 1 << 30  # of address space, of which Python itself takes a quarter
_PROGRAM: Final = Path(__file__).with_name("template_process.py")
_TOOL_USE: Final = "tool_use"  # the name of a second template that some checkpoints have


@dataclass(frozen=True)
class ChatTemplate:
    """Of one checkpoint."""

    source: str
    """Jinja."""
    special: Mapping[str, str]
    """``bos_token`` and its like, which templates may mention."""
    with_tools: str = ""
    """Another source for conversations with tools; empty: the same."""

    @classmethod
    def parse(cls, config: Mapping[str, Any], file: str | None) -> Self | None:
        """From ``tokenizer_config.json`` and, where there is one, ``chat_template.jinja``."""
        given, with_tools = file or config.get("chat_template"), None
        if isinstance(given, list):
            listed = [each for each in given if isinstance(each, dict)]
            named = {str(each.get("name")): each.get("template") for each in listed}
            given, with_tools = named.get("default"), named.get(_TOOL_USE)
        if not isinstance(given, str):
            return None
        special = {
            name: text
            for name, value in config.items()
            if name.endswith("_token")
            and isinstance(text := value.get("content") if isinstance(value, dict) else value, str)
        }
        return cls(given, special, with_tools if isinstance(with_tools, str) else "")

    def for_tools(self, tools: object) -> str:
        """The source for a conversation with ``tools``, if there are any."""
        return self.with_tools if tools and self.with_tools else self.source


class ChatRenderer:
    """Renders in a process of its own, which starts with the first conversation; ``async with``."""

    def __init__(
        self,
        template: ChatTemplate | None,
        *,
        seconds: float = TEMPLATE_SECONDS,
        memory: int = TEMPLATE_BYTES,
    ) -> None:
        self._template = template
        self._limits = (str(seconds), str(memory))
        self._processes: dict[str, Process] = {}
        self._turn = asyncio.Lock()

    async def prompt(self, chat: Chat, *, now: int) -> str:
        """The text that asks for the next turn.

        ``now``, in seconds since the epoch, is what a template takes for today's date. Raises
        ``InvalidRequest`` where the template refuses the conversation, ``Unsupported`` without a
        template, ``Corrupt`` for one that is broken or does not come to an end.
        """
        if self._template is None:
            raise Unsupported(
                "the checkpoint has no chat template",
                where="messages",
                remedy="use the completions API, or add chat_template.jinja to the checkpoint",
            )
        conversation = variables(chat, now=now)
        source = self._template.for_tools(conversation["tools"])
        async with self._turn:
            answer = await self._rendered(source, conversation)
        match answer:
            case {"text": str(text)}:
                return _whole(text)
            case {"refused": reason}:
                raise InvalidRequest(
                    f"the chat template does not take these messages: {reason}", where="messages"
                )
            case {"broken": reason}:
                raise _broken(reason)
        raise _broken("it ran out of time")

    async def _rendered(self, source: str, conversation: dict[str, Any]) -> dict[str, str]:
        question = _line(conversation)
        process = self._processes.get(source)
        if process is None or process.returncode is not None:
            process = self._processes[source] = await self._started(source)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(ConnectionError):  # it is dead, as the next line finds out
                process.stdin.write(question)
                await process.stdin.drain()
            line = await process.stdout.readline()
        except BaseException:  # a caller that leaves must not leave its answer to the next one
            await self._stop(source)
            raise
        if not line:
            await self._stop(source)
        return json.loads(line or b"{}")  # type: ignore[no-any-return]  # our own program's answer

    async def _started(self, source: str) -> Process:
        assert self._template is not None
        # -I: no path, no variable of the environment and no user's site comes in.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(_PROGRAM), *self._limits),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=256 << 20,
            env={"PATH": os.defpath},
        )
        assert process.stdin is not None
        first = {"template": source, "special": dict(self._template.special)}
        process.stdin.write(json.dumps(first).encode() + b"\n")
        return process

    async def _stop(self, source: str) -> None:
        process = self._processes.pop(source)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for source in list(self._processes):
            await self._stop(source)


def variables(chat: Chat, *, now: int) -> dict[str, Any]:
    """What a template is told of ``chat``, in Hugging Face's form."""
    if not chat.messages:
        raise InvalidRequest("messages is empty", where="messages", remedy="give at least one")
    messages = []
    for number, message in enumerate(chat.messages):
        where = f"messages[{number}]"
        extra = _parsed(message.extra_json or "{}", dict, where)
        fields = {"role": message.role, "content": message.content, **extra}
        fields = {name: value for name, value in fields.items() if value is not None}
        if "tool_calls" in fields:
            calls = fields["tool_calls"]
            if not isinstance(calls, list):
                raise InvalidRequest("tool_calls is no list", where=f"{where}.tool_calls")
            fields["tool_calls"] = [_with_arguments(call) for call in calls]
        messages.append(fields)
    tools = _parsed(chat.tools_json, list, "tools") if chat.tools_json else None
    return {
        "messages": messages,
        "tools": tools,
        "documents": None,
        "add_generation_prompt": True,
        "now": now,
    }


def _with_arguments(call: Any) -> Any:
    """OpenAI's API has a call's arguments as JSON in a string, templates want the object."""
    match call:
        case {"function": {"arguments": str(text)} as function}:
            with contextlib.suppress(ValueError, RecursionError):
                return {**call, "function": {**function, "arguments": json.loads(text)}}
    return call


def _parsed(text: str, kind: type, where: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where} is no JSON: {error}", where=where) from error
    if not isinstance(value, kind):
        raise InvalidRequest(f"{where} is no JSON {kind.__name__}", where=where)
    return value


def _line(conversation: dict[str, Any]) -> bytes:
    try:
        return json.dumps(conversation).encode() + b"\n"
    except RecursionError as error:
        raise InvalidRequest("messages are nested too deeply", where="messages") from error


def _whole(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no text holds."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"messages are no text: {error}", where="messages") from error
    return text


def _broken(reason: str) -> Corrupt:
    return Corrupt(
        f"the chat template can't be used: {reason}",
        where="chat_template",
        remedy="mend the checkpoint's chat template",
    )
