"""Any order of calls: no page is lost, none is read that another wrote, and a hit is a true prefix.

The toy checks what every row reads, and a plain set of prefixes says what can be found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from lite_llm.kvcache import CachedSequence, DiskPages, KvCache

Toy = Any  # of conftest.py, which can't be imported

SIZE = 4  # tokens of a page
SALTS = (b"one", b"two")
EXAMPLES = 25


@dataclass(eq=False)
class Text:
    """A sequence and all its tokens, computed and to come."""

    sequence: CachedSequence
    salt: bytes
    tokens: list[int] = field(default_factory=list)

    @property
    def num_left(self) -> int:
        return len(self.tokens) - self.sequence.num_computed


few_tokens = st.lists(st.integers(0, 1), max_size=14)


class Machine(RuleBasedStateMachine):
    """Tokens are 0 and 1 and prompts begin alike, so that prefixes meet often."""

    toy: Toy
    directory: Path
    texts = Bundle("texts")

    @initialize(
        layout=st.integers(0, 2),
        pages=st.integers(12, 24),
        host=st.sampled_from([0, 6, 30]),
        disk=st.sampled_from([0, 12]),
    )
    def start(self, layout: int, pages: int, host: int, disk: int) -> None:
        chosen = self.toy.layouts[layout]
        with KvCache(chosen, device_bytes=1 << 16, page_tokens=SIZE) as probe:
            size = (1 << 16) // probe.num_pages
        self.cache = KvCache(
            chosen,
            device_bytes=pages * size,
            host_bytes=host * size,
            disk=DiskPages(directory=self.directory, num_bytes=disk * size) if disk else None,
            page_tokens=SIZE,
        )
        self.alive: list[Text] = []
        self.published: set[tuple[bytes, tuple[int, ...]]] = set()

    @rule(target=texts, salt=st.sampled_from(SALTS), ones=st.integers(0, 12), rest=few_tokens)
    def begin(self, salt: bytes, ones: int, rest: list[int]) -> Text:
        tokens = [1] * ones + rest
        expected = self.cache.num_cached(tokens, salt=salt)
        sequence = self.cache.sequence(tokens, salt=salt)
        found = sequence.num_computed
        assert found == expected
        assert found % SIZE == 0
        assert found == 0 or found < len(tokens)
        assert found == 0 or (salt, tuple(tokens[:found])) in self.published
        text = Text(sequence, salt, tokens)
        self.alive.append(text)
        return text

    @rule(text=texts, more=few_tokens)
    def extend(self, text: Text, more: list[int]) -> None:
        text.tokens.extend(more)

    @rule(chosen=st.lists(texts, max_size=3, unique=True), most=st.integers(1, 9))
    def compute(self, chosen: list[Text], most: int) -> None:
        parts = []
        for text in chosen:
            sequence = text.sequence
            if sequence.is_swapped_out or not sequence.is_ready:
                continue
            count = min(most, text.num_left)
            free, new = self.cache.num_free_pages, sequence.pages_to_reserve(count)
            room = free + self.cache.num_evictable_pages
            before = [list(pages) for pages in sequence.pages]
            if sequence.reserve(count):
                parts.append((sequence, text.tokens, count))
            else:
                assert new > room
                assert sequence.pages == before
                assert self.cache.num_free_pages == free
        self.toy.compute(self.cache, parts)
        for sequence, tokens, _ in parts:
            for end in range(SIZE, sequence.num_computed + 1, SIZE):
                self.published.add((sequence.salt, tuple(tokens[:end])))

    @rule(text=texts)
    def catch_up(self, text: Text) -> None:
        if not text.sequence.is_swapped_out and text.sequence.is_ready:
            before = text.sequence.num_computed
            now = text.sequence.catch_up(text.tokens)
            assert now == before or (
                now > before and (text.salt, tuple(text.tokens[:now])) in self.published
            )

    @rule(target=texts, text=texts)
    def fork(self, text: Text) -> Any:
        if text.sequence.is_swapped_out or not text.sequence.is_ready:
            return multiple()
        other = Text(text.sequence.fork(), text.salt, list(text.tokens))
        self.alive.append(other)
        return other

    @rule(text=texts)
    def swap_out(self, text: Text) -> None:
        done = text.sequence.swap_out()
        assert text.sequence.is_swapped_out is done

    @rule(text=texts)
    def swap_in(self, text: Text) -> None:
        done = text.sequence.swap_in()
        assert text.sequence.is_swapped_out is not done

    @rule(text=consumes(texts))
    def release(self, text: Text) -> None:
        text.sequence.release()
        self.alive.remove(text)

    @rule()
    def wait_for_the_disk(self) -> None:
        for text in self.alive:
            while not text.sequence.is_ready:
                sleep(0.0005)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "cache"):
            self.cache.check()

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for text in self.alive:
                text.sequence.release()
            self.cache.check()
            cache = self.cache
            assert cache.num_free_pages + cache.num_evictable_pages == cache.num_pages
            self.cache.close()


def test_any_order_of_calls(toy: Toy, tmp_path: Path) -> None:
    class WithToy(Machine):
        pass

    WithToy.toy, WithToy.directory = toy, tmp_path
    run_state_machine_as_test(
        WithToy,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
