"""Requests to tokens, one step after another. For one thread: nothing here waits or locks."""

from __future__ import annotations

from collections.abc import Iterable

from lite_llm.contracts.errors import LiteLLMError
from lite_llm.engine.batching import BatchSettings
from lite_llm.engine.lineup import Lineup, tenants
from lite_llm.engine.measures import Measures
from lite_llm.engine.model import Model
from lite_llm.engine.request import Failed, Finished, PromptRead, Request
from lite_llm.engine.runner import Ready, Runner, Unable
from lite_llm.engine.selection import Choice, select
from lite_llm.engine.sequence import Group, Outlet
from lite_llm.engine.stopping import FinishReason
from lite_llm.engine.tier_grants import tier_masks
from lite_llm.kvcache import KvCache


class StepLoop:
    """All requests of one model. They come and go between steps."""

    def __init__(
        self, model: Model, kv: KvCache, settings: BatchSettings, measures: Measures
    ) -> None:
        self._model = model
        self._kv = kv
        self._measures = measures
        self._lineup = Lineup(kv, settings, measures)
        self._runner = Runner(model.decoder, kv, self._lineup, tier_masks(model))
        self._groups: dict[int, Group] = {}
        self._num_arrived = 0

    def step(self) -> bool:
        """Advance every sequence that can advance; False if there is none."""
        parts = self._lineup.schedule()
        ready = self._accept(self._runner.run(parts))
        self._emit(ready, select(ready))
        self._measures.stepped(parts, self._groups.values(), self._kv)
        return bool(parts)

    def add(self, request: Request, outlet: Outlet) -> Group:
        """Queue ``request``; its steps go to ``outlet`` as they are made."""
        self._num_arrived += 1
        group = Group(self._num_arrived, request, self._model.tokenizer, outlet)
        for sequence, resumed in zip(group.sequences, request.resumed, strict=False):
            if resumed.finished:  # the client knows its end, whatever it was
                sequence.finish_reason = sequence.finish_reason or FinishReason.STOP
            elif sequence.finish_reason is not None:
                outlet.put(Finished(sequence.index, sequence.finish_reason))
        if group.live:
            self._lineup.fairness.join(request.tenant, tenants(self._groups.values()))
            self._groups[group.number] = group
            # The others of a new prompt come when the first has read it.
            self._lineup.waiting += group.live if group.is_read else group.live[:1]
        return group

    def cancel(self, group: Group) -> None:
        """Take ``group`` out and free all that it holds; nothing if it is over."""
        if self._groups.pop(group.number, None) is not None:
            self._lineup.remove(group.sequences)
            self._lineup.fairness.forget(tenants(self._groups.values()))

    def close(self) -> None:
        """Drop what is left, without a word."""
        for group in list(self._groups.values()):
            self.cancel(group)

    def _accept(self, results: Iterable[Ready | Unable]) -> list[Ready]:
        """Those that get a token: also the followers of whom has just read their prompt."""
        rows = []
        for result in results:
            group = result.sequence.group
            if isinstance(result, Unable):
                self._fail(group, result.error)
                continue
            rows.append(result)
            if not group.is_read:
                group.is_read = True
                group.outlet.put(PromptRead(tuple(group.prompt_logprobs)))
                followers = self._lineup.fork(result.sequence, group.sequences[1:])
                rows += [result._replace(sequence=follower) for follower in followers]
        return rows

    def _emit(self, ready: Iterable[Ready], choices: Iterable[Choice | LiteLLMError]) -> None:
        for (sequence, *_), choice in zip(ready, choices, strict=True):
            group = sequence.group
            if group.number not in self._groups:
                continue  # another of its sequences has failed
            if isinstance(choice, LiteLLMError):
                self._fail(group, choice)
                continue
            sequence.accept(choice.token, choice.logprobs)
            if sequence.finish_reason is not None:
                self._lineup.finish(sequence)
                if not group.live:
                    self.cancel(group)

    def _fail(self, group: Group, error: LiteLLMError) -> None:
        if group.number in self._groups:
            group.outlet.put(Failed(error))
            self.cancel(group)
