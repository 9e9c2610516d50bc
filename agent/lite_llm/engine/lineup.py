"""Who waits and who runs: admission, room for the next tokens, and setting back."""

from __future__ import annotations

from collections.abc import Iterable

from lite_llm.engine.batching import BatchSettings, Part, shares, turn, victim
from lite_llm.engine.fairness import Fairness
from lite_llm.engine.lengths import Lengths
from lite_llm.engine.measures import Measures
from lite_llm.engine.request import Started
from lite_llm.engine.sequence import Group, Sequence
from lite_llm.kvcache import KvCache, Prediction


class Lineup:
    """The only one that opens, reserves and releases sequences' pages."""

    def __init__(self, kv: KvCache, settings: BatchSettings, measures: Measures) -> None:
        self.step_tokens = settings.step_tokens
        """The budget of a step; smaller than the setting after memory ran out."""
        self.fairness = Fairness()
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        """In the order of their admission."""
        self._kv = kv
        self._settings = settings
        self._measures = measures
        self._lengths = Lengths()
        self._num_admitted = 0

    def schedule(self) -> list[Part[Sequence]]:
        """Who computes how many tokens in this step, with room for them reserved."""
        self._admit()
        able = [each for each in self.running if not _is_idle(each)]
        parts = shares(able, budget=self.step_tokens, prompt_tokens=self._settings.prompt_tokens)
        granted = [part for part in parts if self._make_room(*part)]
        # A later one's need may have set back an earlier one.
        running = set(self.running)
        return [part for part in granted if part[0] in running]

    def fork(self, leader: Sequence, followers: Iterable[Sequence]) -> list[Sequence]:
        """Those that can run at once, on what ``leader`` has computed; the others wait."""
        running = []
        for follower in followers:
            assert leader.kv is not None, "it has just computed its prompt"
            follower.kv = leader.kv.fork()
            if len(self.running) < self._settings.max_sequences and self._fits(follower):
                self._begin(follower)
                running.append(follower)
            else:
                follower.release()
                self.waiting.append(follower)
        return running

    def finish(self, sequence: Sequence) -> None:
        """It came to its end."""
        limit = sequence.group.request.limits.max_tokens
        self._lengths.observe(sequence.transcript.num_tokens, limit)
        self.remove([sequence])

    def remove(self, sequences: Iterable[Sequence]) -> None:
        """They are over or not wanted any more: free what they hold."""
        gone = set(sequences)
        self.waiting = [each for each in self.waiting if each not in gone]
        self.running = [each for each in self.running if each not in gone]
        for sequence in gone:
            sequence.release()

    def commit(self, sequence: Sequence, count: int) -> None:
        """The next ``count`` tokens of ``sequence`` are computed."""
        kv = sequence.kv
        assert kv is not None
        request, begin = sequence.group.request, kv.num_computed
        reads = begin < len(request.prompt)
        self.fairness.charge(
            request.tenant,
            prompt_tokens=count if reads else 0,
            answer_tokens=0 if reads else count,
        )
        kv.commit(sequence.tokens[begin : begin + count])

    def shrink(self) -> None:
        """Memory ran out: smaller steps from now on."""
        self.step_tokens = max(self.step_tokens // 2, self._settings.max_sequences)

    def _admit(self) -> None:
        while self.waiting and self._num_pending() < self.step_tokens:
            readable = [each for each in self.waiting if not each.group.outlet.full]
            if not readable:
                return
            first = min(readable, key=lambda each: turn(each, self.fairness))
            while not self._enter(first):
                # Not one whose pages are coming: two such would take turns, and neither begin.
                other = victim(self.running, idle=_is_unread)
                if other is None or not (_is_unread(other) or other.priority < first.priority):
                    return
                self._set_back(other)

    def _num_pending(self) -> int:
        return sum(each.pending for each in self.running if not _is_idle(each))

    def _enter(self, sequence: Sequence) -> bool:
        if len(self.running) >= self._settings.max_sequences:
            return False
        group = sequence.group
        if sequence.kv is None:
            # A prompt whose log probabilities are wanted is computed as a whole.
            known = () if group.wants_prompt_logprobs else sequence.tokens
            sequence.kv = self._kv.sequence(known, salt=group.salt)
        # Alone it fits always: requests are checked against the whole cache.
        fits = not self.running or self._fits(sequence)
        while fits and not sequence.kv.swap_in():
            fits = not self.running and self._reclaim(sequence)
        if not fits:
            if not sequence.kv.is_swapped_out:
                sequence.release()
            return False
        self.waiting.remove(sequence)
        self._begin(sequence)
        return True

    def _fits(self, sequence: Sequence) -> bool:
        """Whether all that run and ``sequence`` have room until their expected ends."""
        predictions = [self._predicted(each) for each in (*self.running, sequence)]
        return self._kv.peak_pages(predictions) <= self._kv.num_pages

    def _predicted(self, sequence: Sequence) -> Prediction:
        limit, said = sequence.group.request.limits.max_tokens, sequence.transcript.num_tokens
        more = self._lengths.expected(said, limit) - said
        shared = 0 if sequence.kv is None else sequence.kv.num_shared_pages
        return Prediction(len(sequence.tokens), more, shared)

    def _begin(self, sequence: Sequence) -> None:
        self._num_admitted += 1
        sequence.admitted = self._num_admitted
        self.running.append(sequence)
        group = sequence.group
        if not group.is_started:
            group.is_started = True
            num_prompt = len(group.request.prompt)
            num_cached = min(sequence.num_computed, num_prompt)
            self._measures.looked_up(num_prompt, num_cached)
            group.outlet.put(Started(num_cached))

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Reserve pages for the next tokens, at others' cost if need be; False: it was set back."""
        if sequence.kv is not None and sequence.kv.has_room(count):
            return True
        while sequence.kv is not None and not sequence.kv.is_swapped_out:
            if sequence.kv.reserve(count):
                return True
            if len(self.running) == 1 and self._reclaim(sequence):
                continue
            chosen = victim(self.running, idle=_is_idle)
            assert chosen is not None, "the one that needs room is running"
            self._set_back(chosen)
        return False

    def _reclaim(self, sequence: Sequence) -> bool:
        """Have one that waits swapped out computed anew, for ``sequence``; False if none does.

        What several of those share stays on the device when the host is full.
        """
        others = [each for each in self.waiting if each.kv is not None and each is not sequence]
        if others:
            max(others, key=lambda each: each.admitted).release()
        return bool(others)

    def _set_back(self, sequence: Sequence) -> None:
        assert sequence.kv is not None
        self.running.remove(sequence)
        self.waiting.append(sequence)
        if not sequence.kv.swap_out():
            sequence.release()
        self._measures.preempted()


def tenants(groups: Iterable[Group]) -> set[str]:
    """Who has requests here."""
    return {group.request.tenant for group in groups}


def _is_idle(sequence: Sequence) -> bool:
    """It can't be computed now: nobody reads it, or its pages are still coming."""
    return _is_unread(sequence) or (sequence.kv is not None and not sequence.kv.is_ready)


def _is_unread(sequence: Sequence) -> bool:
    """Nobody waits for its tokens."""
    return sequence.group.outlet.full
