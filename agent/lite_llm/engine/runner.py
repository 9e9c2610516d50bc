"""One forward pass over the tokens of many sequences, in smaller ones where memory runs out.

Legend: T tokens of a step, R rows whose logits are wanted, D hidden, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as Many
from itertools import accumulate
from typing import NamedTuple

import structlog
import torch
from torch import Tensor

from lite_llm.contracts.errors import Internal, LiteLLMError, OutOfMemory
from lite_llm.engine.batching import Part, halves
from lite_llm.engine.graphs import decode_graphs
from lite_llm.engine.lineup import Lineup
from lite_llm.engine.logprobs import logprobs_of
from lite_llm.engine.selection import likeliest
from lite_llm.engine.sequence import Sequence
from lite_llm.experts import OfRows, TierMasks
from lite_llm.kvcache import KvCache
from lite_llm.models import Decoder

PROMPT_ROWS = 64  # whose logits are taken at once: with a large vocabulary, 32 MiB
PACE_TOKENS = 64  # of a step that shows what a prompt's token costs

log = structlog.get_logger(__name__)


class Ready(NamedTuple):
    """A sequence all of whose tokens are computed, and the logits of the next one."""

    sequence: Sequence
    logits_V: Tensor
    best: int | None
    """The likeliest token; None if the logits are of no use."""


class Unable(NamedTuple):
    """A sequence that can't be computed, and why."""

    sequence: Sequence
    error: LiteLLMError


class Runner:
    """Computes what the lineup has scheduled."""

    def __init__(self, decoder: Decoder, kv: KvCache, lineup: Lineup, masks: TierMasks) -> None:
        self._decoder = decoder
        self._kv = kv
        self._lineup = lineup
        self._masks = masks
        self._graphs = decode_graphs(decoder, kv.device)

    def run(self, parts: Many[Part[Sequence]]) -> list[Ready | Unable]:
        """Compute and commit ``parts``; what is said of those that have something to say."""
        if not parts:
            return []
        smaller: Many[Many[Part[Sequence]]] | None
        try:
            began = time.perf_counter()
            ready = self._forward(parts)
            self._pace(_total(parts), time.perf_counter() - began)
            return [*ready]
        except OfRows as error:
            wrong = [part for part, rows in _with_rows(parts) if not rows.isdisjoint(error.rows)]
            if not wrong:
                return _unable(parts, error)
            done, smaller = _unable(wrong, error.with_traceback(None)), [parts]
        except Exception as error:  # of any kind: it ends these sequences, not the worker
            if not _is_out_of_memory(error):
                return _unable(parts, error)
            log.warning("memory ran out in a step", tokens=_total(parts), error=str(error))
            self._lineup.shrink()
            if (smaller := halves(parts)) is None:
                return _unable(parts, _no_memory())
            done = []
        # Not above: the failed pass must let go of its memory before the next one begins.
        for some in smaller:
            lost = {each.sequence for each in done if isinstance(each, Unable)}
            done += self.run([part for part in some if part[0] not in lost])
        return done

    def _forward(self, parts: Many[Part[Sequence]]) -> list[Ready]:
        begins = [(each.num_computed, n) for each, n in parts]
        tokens = [token for each, n in parts for token in each.next_tokens(n)]
        positions = [at for begin, n in begins for at in range(begin, begin + n)]
        inputs_2T = torch.tensor([tokens, positions], device=self._kv.device)
        pages = self._kv.batch([(each.kv, n) for each, n in parts if each.kv is not None])
        masks = self._allowed(parts)
        whole = [place for place, (each, n) in enumerate(parts) if each.pending == n]
        ends = torch.tensor([n for _, n in parts]).cumsum(dim=0)
        logits_RV = None
        if self._graphs is not None and masks is None and _is_decoding(parts):
            logits_RV = self._graphs.logits(inputs_2T, pages)
        if logits_RV is None:
            tokens_T, positions_T = inputs_2T
            hidden_TD = self._decoder.hidden(tokens_T, positions_T, pages, expert_masks=masks)
            logits_RV = torch.empty(0, 1)
            if whole:
                logits_RV = self._decoder.logits(hidden_TD[ends[whole] - 1])
            for (each, n), end in zip(parts, ends.tolist(), strict=True):
                if each.group.wants_prompt_logprobs:
                    self._rate_prompt(each, hidden_TD[end - n : end])
        best = likeliest(logits_RV)
        for each, n in parts:
            self._lineup.commit(each, n)
        return [
            Ready(parts[place][0], logits_RV[row], best[row]) for row, place in enumerate(whole)
        ]

    def _allowed(self, parts: Many[Part[Sequence]]) -> list[Tensor | None] | None:
        """For each layer the experts that each row's tiers have, on the device; None: all."""
        tiers_T = [each.group.request.tiers.ids for each, n in parts for _ in range(n)]
        if (masks := self._masks.of(tiers_T)) is None:
            return None
        device = self._kv.device
        return [None if mask_TE is None else mask_TE.to(device) for mask_TE in masks]

    def _pace(self, num_tokens: int, seconds: float) -> None:
        """Tell the cache what computing costs, so that it knows what is worth fetching."""
        if num_tokens >= PACE_TOKENS:
            token_seconds, before = seconds / num_tokens, self._kv.token_seconds
            self._kv.token_seconds = (
                token_seconds if before is None else 0.9 * before + 0.1 * token_seconds
            )

    def _rate_prompt(self, sequence: Sequence, hidden_TD: Tensor) -> None:
        """Log probabilities of the tokens after these rows, unless they are known already."""
        group, begin = sequence.group, sequence.num_computed
        after = group.request.prompt[begin + 1 : begin + 1 + len(hidden_TD)]
        for first in range(len(group.prompt_logprobs) - begin, len(after), PROMPT_ROWS):
            tokens = after[first : first + PROMPT_ROWS]
            logits_RV = self._decoder.logits(hidden_TD[first : first + len(tokens)])
            group.prompt_logprobs += [
                logprobs_of(logits_V, token, group.request.prompt_logprobs or 0)
                for token, logits_V in zip(tokens, logits_RV.cpu().numpy(), strict=True)
            ]


def _is_decoding(parts: Many[Part[Sequence]]) -> bool:
    """Whether each sequence computes one token, and tells nothing but what comes after it."""
    return all(n == each.pending == 1 and not each.group.wants_prompt_logprobs for each, n in parts)


def _with_rows(parts: Many[Part[Sequence]]) -> Iterator[tuple[Part[Sequence], set[int]]]:
    """Each part with its rows of the step."""
    ends = accumulate(count for _, count in parts)
    for part, end in zip(parts, ends, strict=True):
        yield part, set(range(end - part[1], end))


def _unable(parts: Many[Part[Sequence]], error: Exception) -> list[Ready | Unable]:
    if not isinstance(error, LiteLLMError):
        log.error("a step failed", count=len(parts), exc_info=error)
        error = Internal(f"a step failed: {error}", where="engine")
    return [Unable(sequence, error) for sequence, _ in parts]


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch says it in words only.
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _total(parts: Many[Part[Sequence]]) -> int:
    return sum(count for _, count in parts)


def _no_memory() -> OutOfMemory:
    return OutOfMemory(
        "the device has no memory left to compute one token",
        where="engine",
        remedy="give the key-value cache less of it",
        retry_after=1.0,
    )
