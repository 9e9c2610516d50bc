"""Traces that no model made, with the statistics of those that models make.

A token's score for an expert is a sum of normal parts: how popular the expert is, how dear to its
session, how near to what the text is about just now, which drifts and which all layers see, and
chance. The best K are chosen.

Legend: T tokens of a session, L layers, E experts, K chosen, Z dimensions of a topic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from lite_llm.experts.policies import Floats, Ints
from lite_llm.experts.traces import Trace, TraceRecorder

TOPIC_DIMENSIONS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sizes, and the standard deviations of the parts of a score."""

    layers: int = 12
    experts: int = 64
    top_k: int = 8
    sessions: int = 4
    batch: int = 1
    """Sessions at a time; the next ones begin when these have ended."""
    prompt_tokens: int = 0
    """Of each session, in one step before it decodes."""
    tokens: int = 256
    """That each session decodes, one a step."""
    popularity: float = 0.5
    session: float = 0.7
    topic: float = 1.2
    chance: float = 0.5
    drift: float = 0.2
    """How much of the topic's variance is new with every token, 0 to 1."""
    seed: int = 0


def synthetic_trace(statistics: Statistics) -> Trace:
    """The same for the same statistics."""
    s = statistics
    rng = np.random.default_rng(s.seed)
    popular_LE = s.popularity * rng.normal(size=(s.layers, s.experts))
    topics_ZF = rng.normal(size=(TOPIC_DIMENSIONS, s.layers * s.experts))
    topics_ZF *= s.topic / TOPIC_DIMENSIONS**0.5
    recorder = TraceRecorder(dict.fromkeys(range(s.layers), s.experts), s.top_k)
    for first in range(0, s.sessions, s.batch):
        together = range(first, min(first + s.batch, s.sessions))
        sessions = {number: _Session(s, rng, popular_LE, topics_ZF) for number in together}
        for number, session in sessions.items():
            if s.prompt_tokens:
                recorder.begin_step([number] * s.prompt_tokens, [True] * s.prompt_tokens)
                rows = slice(0, s.prompt_tokens)
                _record(recorder, session.experts_TLK[rows], session.weights_TLK[rows])
        for token in range(s.prompt_tokens, s.prompt_tokens + s.tokens):
            recorder.begin_step([*together], [False] * len(together))
            experts = [session.experts_TLK[token] for session in sessions.values()]
            weights = [session.weights_TLK[token] for session in sessions.values()]
            _record(recorder, np.stack(experts), np.stack(weights))
    return recorder.trace()


class _Session:
    """All tokens of a session at once."""

    def __init__(
        self, s: Statistics, rng: np.random.Generator, popular_LE: Floats, topics_ZF: Floats
    ) -> None:
        num_tokens = s.prompt_tokens + s.tokens
        shape = (num_tokens, s.layers, s.experts)
        topic_TZ = rng.normal(size=(num_tokens, TOPIC_DIMENSIONS))
        for token in range(1, num_tokens):
            kept = (1.0 - s.drift) ** 0.5 * topic_TZ[token - 1]
            topic_TZ[token] = kept + s.drift**0.5 * topic_TZ[token]
        scores_TLE = (topic_TZ @ topics_ZF).reshape(shape) + s.chance * rng.normal(size=shape)
        scores_TLE += popular_LE + s.session * rng.normal(size=(s.layers, s.experts))
        best_TLK = np.argpartition(-scores_TLE, s.top_k - 1, axis=-1)[..., : s.top_k]
        self.experts_TLK: Ints = np.sort(best_TLK, axis=-1)
        chosen_TLK = np.take_along_axis(scores_TLE, self.experts_TLK, axis=-1)
        shares_TLK = np.exp(chosen_TLK - chosen_TLK.max(axis=-1, keepdims=True))
        shares_TLK /= shares_TLK.sum(axis=-1, keepdims=True)
        self.weights_TLK: Floats = shares_TLK


def _record(recorder: TraceRecorder, experts_TLK: Ints, weights_TLK: Floats) -> None:
    for layer in range(experts_TLK.shape[1]):
        recorder.record(layer, experts_TLK[:, layer], weights_TLK[:, layer])
