"""How ``/v1/chat/completions`` words an answer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from lite_llm.openai.answers import Piece
from lite_llm.openai.logprobs import Rated, for_chat, for_prompt
from lite_llm.openai.schema import ChatChunk, ChatCompletion, ChatRequest, Explanation, Usage
from lite_llm.openai.schema.chat import (
    ChatAnswer,
    ChatChoice,
    ChunkChoice,
    Delta,
    Function,
    ToolCall,
)
from lite_llm.openai.schema.logprobs import ChatLogprobs


class ChatForm:
    """For one request."""

    def __init__(self, wanted: ChatRequest, request_id: str, created: int) -> None:
        self._wanted = wanted
        self._id = request_id
        self._created = created
        self._prompt: Sequence[Rated] = ()
        self._prompt_ids: list[int] | None = None
        self._num_calls: dict[int, int] = {}

    def opening(self, index: int, prompt: Sequence[Rated], prompt_ids: Sequence[int]) -> Piece:
        """The role, said once."""
        self._prompt = prompt
        self._prompt_ids = list(prompt_ids) or None
        return Piece(index, opens=True)

    def chunk(self, piece: Piece) -> bytes:
        choice = ChunkChoice(
            index=piece.index,
            delta=self._delta(piece),
            logprobs=self._logprobs(piece) if piece.rated else None,
            finish_reason=piece.finish_reason,
            token_ids=self._token_ids(piece),
        )
        usage = None if self._wanted.include_usage else UNSET
        tells_ids = piece.opens and self._wanted.return_token_ids
        return self._chunk(choice, usage=usage, prompt_ids=self._prompt_ids if tells_ids else UNSET)

    def usage_chunk(self, usage: Usage) -> bytes:
        return self._chunk(usage=usage)

    def told_chunk(self, told: Explanation) -> bytes:
        return self._chunk(usage=UNSET, told=told)

    def whole(
        self, choices: Sequence[Piece], usage: Usage, told: Explanation | msgspec.UnsetType
    ) -> bytes:
        wanted = self._wanted
        return msgspec.json.encode(
            ChatCompletion(
                id=self._id,
                created=self._created,
                model=wanted.model,
                choices=[
                    ChatChoice(
                        index=piece.index,
                        message=self._message(piece),
                        logprobs=self._logprobs(piece),
                        finish_reason=piece.finish_reason,
                        token_ids=self._token_ids(piece),
                    )
                    for piece in choices
                ],
                usage=usage,
                prompt_logprobs=UNSET
                if wanted.prompt_logprobs is None
                else for_prompt(self._prompt, num_top=wanted.prompt_logprobs),
                prompt_token_ids=self._prompt_ids if wanted.return_token_ids else UNSET,
                lite_llm=told,
            )
        )

    def _message(self, piece: Piece) -> ChatAnswer:
        calls = self._tool_calls(piece, is_stream=False)
        content = piece.text if piece.text.strip() or not calls else None
        return ChatAnswer(content=content, tool_calls=calls or UNSET)

    def _tool_calls(self, piece: Piece, *, is_stream: bool) -> list[ToolCall]:
        first = self._num_calls.get(piece.index, 0)
        self._num_calls[piece.index] = first + len(piece.calls)
        return [
            ToolCall(
                index=number if is_stream else UNSET,
                id=f"call_{self._id.removeprefix('chatcmpl-')[:16]}{piece.index:03}{number:05}",
                function=Function(name=call.name, arguments=call.arguments),
            )
            for number, call in enumerate(piece.calls, start=first)
        ]

    def _chunk(
        self,
        *choices: ChunkChoice,
        usage: Usage | msgspec.UnsetType | None,
        told: Explanation | msgspec.UnsetType = UNSET,
        prompt_ids: list[int] | msgspec.UnsetType | None = UNSET,
    ) -> bytes:
        return msgspec.json.encode(
            ChatChunk(
                id=self._id,
                created=self._created,
                model=self._wanted.model,
                choices=choices,
                usage=usage,
                prompt_token_ids=prompt_ids,
                lite_llm=told,
            )
        )

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        if not self._wanted.logprobs:
            return None
        return for_chat(piece.rated, num_top=self._wanted.top_logprobs or 0)

    def _token_ids(self, piece: Piece) -> list[int] | msgspec.UnsetType:
        return list(piece.token_ids) if self._wanted.return_token_ids else UNSET

    def _delta(self, piece: Piece) -> Delta:
        if piece.opens:
            return Delta(role="assistant", content="")
        if piece.finish_reason:
            return Delta()
        calls = self._tool_calls(piece, is_stream=True)
        if not calls:
            return Delta(content=piece.text)
        return Delta(content=piece.text or UNSET, tool_calls=calls)
