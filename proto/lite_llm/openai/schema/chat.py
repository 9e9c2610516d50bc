"""``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from lite_llm.contracts.errors import InvalidRequest, Unsupported
from lite_llm.openai.schema.extension import Explanation
from lite_llm.openai.schema.logprobs import ChatLogprobs, PromptLogprobs
from lite_llm.openai.schema.sampling import Count, SampledRequest, Top
from lite_llm.openai.schema.usage import FinishReason, Usage
from lite_llm.proto.v1.generate_pb2 import Chat, ChatMessage, SamplingParameters


class ContentPart(Struct, frozen=True, kw_only=True):
    """A piece of a message; texts are what models here read."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["text"]})]
    text: str | None = None


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn. Which roles there are is up to the checkpoint's template."""

    role: Annotated[str, Meta(min_length=1)]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def to_proto(self, where: str) -> ChatMessage:
        """On the wire; ``where`` is the field's name."""
        if self.content is None and not self.tool_calls:
            raise InvalidRequest(
                f"{where} has neither content nor tool calls", where=f"{where}.content"
            )
        further = Message(
            role="", name=self.name, tool_calls=self.tool_calls, tool_call_id=self.tool_call_id
        )
        extra = {key: value for key, value in msgspec.to_builtins(further).items() if key != "role"}
        return ChatMessage(
            role=self.role,
            content=_text_of(self.content or "", where),
            extra_json=msgspec.json.encode(extra).decode() if extra else "",
        )


class ChatRequest(SampledRequest, frozen=True, kw_only=True):
    """The body of ``POST /v1/chat/completions``."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {
        "modalities": (["text"],),
        "audio": (),
        "functions": (),
        "function_call": ("none", "auto"),
        "tool_choice": ("none", "auto"),
        "echo": (False,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "chat_template": (),
        "documents": (),
    }

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    """OpenAI's older name of the same; the newer one wins."""
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    tools: list[dict[str, Any]] | None = None

    modalities: Any = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    tool_choice: Any = None
    echo: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None
    chat_template: Any = None
    documents: Any = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest(
                "top_logprobs without logprobs", where="top_logprobs", remedy="set logprobs to true"
            )

    def callable_tools(self) -> frozenset[str]:
        """Names of the functions that the model may call."""
        if self.tool_choice == "none":
            return frozenset()
        functions = (tool.get("function") for tool in self.tools or ())
        names = (each.get("name") for each in functions if isinstance(each, dict))
        return frozenset(name for name in names if isinstance(name, str))

    def to_chat(self) -> Chat:
        """The conversation on the wire."""
        # A model that is not to call tools is not told of any.
        tools = None if self.tool_choice == "none" else self.tools
        return Chat(
            messages=[
                message.to_proto(f"messages[{number}]")
                for number, message in enumerate(self.messages)
            ],
            tools_json=msgspec.json.encode(tools).decode() if tools else "",
        )

    def to_sampling(self) -> SamplingParameters:
        """How to answer, on the wire."""
        return self.sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or 0,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            prompt_logprobs=self.prompt_logprobs,
        )


class Function(Struct, frozen=True, kw_only=True):
    name: str
    arguments: str
    """JSON."""


class ToolCall(Struct, frozen=True, kw_only=True):
    index: int | UnsetType = UNSET
    """Among the calls of an answer; told in streams."""
    id: str
    type: Literal["function"] = "function"
    function: Function


class ChatAnswer(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    """Null where there are only calls of tools."""
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Seconds since the epoch."""
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType | None = UNSET
    """Null where the agent did not tell them."""
    lite_llm: Explanation | UnsetType = UNSET


class Delta(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, frozen=True, kw_only=True):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType | None = UNSET
    lite_llm: Explanation | UnsetType = UNSET


def _text_of(content: str | list[ContentPart], where: str) -> str:
    if isinstance(content, str):
        return content
    for number, part in enumerate(content):
        field = f"{where}.content[{number}]"
        if part.type != "text":
            raise Unsupported(
                f"{field} of type {part.type[:100]!r} is not supported",
                where=f"{field}.type",
                remedy="send text",
            )
        if part.text is None:
            raise InvalidRequest(f"{field} has no text", where=f"{field}.text")
    return "\n".join(part.text or "" for part in content)  # as vLLM and llama.cpp put them together
