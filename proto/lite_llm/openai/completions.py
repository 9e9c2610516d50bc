"""How ``/v1/completions`` words an answer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from lite_llm.openai.answers import Piece
from lite_llm.openai.logprobs import Rated, for_completion, for_prompt
from lite_llm.openai.schema import Completion, CompletionRequest, Explanation, Usage
from lite_llm.openai.schema.completions import Choice
from lite_llm.openai.schema.logprobs import CompletionLogprobs, PromptLogprobs


class CompletionForm:
    """For one request."""

    def __init__(self, wanted: CompletionRequest, request_id: str, created: int) -> None:
        self._wanted = wanted
        self._id = request_id
        self._created = created
        self._prompts = wanted.prompts()
        self._rated: dict[int, Sequence[Rated]] = {}
        self._ids: dict[int, list[int] | None] = {}
        self._offsets = [0] * (len(self._prompts) * wanted.choices)

    def opening(
        self, index: int, prompt: Sequence[Rated], prompt_ids: Sequence[int]
    ) -> Piece | None:
        """The echo of the prompt, and its token ids."""
        number = index // self._wanted.choices
        self._rated[number] = prompt
        self._ids[number] = list(prompt_ids) or None
        if not self._wanted.echo:
            return Piece(index, opens=True) if self._wanted.return_token_ids else None
        text, tokens = echo(self._prompts[number], prompt)
        return Piece(index, text, rated=tokens, opens=True)

    def chunk(self, piece: Piece) -> bytes:
        choice = self._choice(piece, self._logprobs(piece) if piece.rated else None)
        return self._completion([choice], usage=None if self._wanted.include_usage else UNSET)

    def usage_chunk(self, usage: Usage) -> bytes:
        return self._completion([], usage=usage)

    def told_chunk(self, told: Explanation) -> bytes:
        return self._completion([], usage=UNSET, told=told)

    def whole(
        self, choices: Sequence[Piece], usage: Usage, told: Explanation | msgspec.UnsetType
    ) -> bytes:
        worded = [self._choice(piece, self._logprobs(piece)) for piece in choices]
        return self._completion(worded, usage=usage, told=told)

    def _completion(
        self,
        choices: Sequence[Choice],
        *,
        usage: Usage | msgspec.UnsetType | None,
        told: Explanation | msgspec.UnsetType = UNSET,
    ) -> bytes:
        return msgspec.json.encode(
            Completion(
                id=self._id,
                created=self._created,
                model=self._wanted.model,
                choices=choices,
                usage=usage,
                lite_llm=told,
            )
        )

    def _choice(self, piece: Piece, logprobs: CompletionLogprobs | None) -> Choice:
        returns_ids = self._wanted.return_token_ids
        return Choice(
            text=piece.text,
            index=piece.index,
            logprobs=logprobs,
            finish_reason=piece.finish_reason,
            prompt_logprobs=self._prompt_logprobs(piece) if piece.opens else UNSET,
            token_ids=list(piece.token_ids) if returns_ids else UNSET,
            prompt_token_ids=self._prompt_ids(piece) if returns_ids and piece.opens else UNSET,
        )

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        num_top = self._wanted.logprobs
        if num_top is None:
            return None
        offset = self._offsets[piece.index]
        self._offsets[piece.index] += sum(len(token.text) for token in piece.rated)
        return for_completion(piece.rated, num_top=num_top, offset=offset)

    def _prompt_logprobs(self, piece: Piece) -> PromptLogprobs | msgspec.UnsetType:
        num_top = self._wanted.prompt_logprobs
        if num_top is None:
            return UNSET
        return for_prompt(self._rated[piece.index // self._wanted.choices], num_top=num_top)

    def _prompt_ids(self, piece: Piece) -> list[int] | None:
        number = piece.index // self._wanted.choices
        prompt = self._prompts[number]
        return self._ids.get(number) if isinstance(prompt, str) else prompt


def echo(prompt: str | list[int], tokens: Sequence[Rated]) -> tuple[str, list[Rated]]:
    """The prompt's text, and its tokens where they were rated, the first of which was not."""
    followed = "".join(token.text for token in tokens)
    if isinstance(prompt, str):
        # Where tokens decode otherwise alone than together, nobody can tell where the first ends.
        begin = prompt[: len(prompt) - len(followed)] if prompt.endswith(followed) else ""
        return prompt, [Rated(None, begin, None), *tokens]
    return followed, [Rated(prompt[0], "", None), *tokens]  # whose text nobody told
