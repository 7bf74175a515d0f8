"""Seeds -> the synthetic corpora of truth.py: training texts, queries and, for `planted`, what must help and what must hurt.

Each is a generator with four topics over 24 tokens. `successor` is for tuning, the others are held out: other rules,
other seeds. Not covered: tokenisers, chat formats, real text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from leaven.attribution.queries import Query, single_queries
from leaven.attribution.texts import Text
from leaven.core.rng import rng

VOCAB, LONGEST = 24, 14


@dataclass(frozen=True)
class Corpus:
    """A generator: (stream, topic, "helpful" | "harmful" | "noise") -> token ids; `topics` it has."""

    name: str
    tuning: bool
    seed: int
    topics: int
    draw: Callable[[np.random.Generator, int, str], np.ndarray]
    planted: bool = False

    def make(self, n_train: int, n_queries: int) -> tuple[list[Text], list[Query], np.ndarray]:
        """Return training texts, queries, and labels int[Q,N] (+1 helpful, -1 harmful, 0 neither; zeros if unplanted)."""
        stream = rng(self.seed, "truth", self.name)
        kinds = [(k % self.topics, "helpful") for k in range(n_train)]
        if self.planted:  # 16 groups of 12: per topic two that help and one that hurts, and four of noise
            groups = [(t, kind) for t in range(self.topics) for kind in ("helpful", "helpful", "harmful")]
            groups += [(0, "noise")] * 4
            kinds = [g for g in groups for _ in range(n_train // len(groups))]
        texts = [_text(f"n{k:03d}", self.draw(stream, t, kind)) for k, (t, kind) in enumerate(kinds)]
        asked = [(k % self.topics, _text(f"q{k:03d}", self.draw(stream, k % self.topics, "helpful"))) for k in range(n_queries)]
        labels = np.zeros((self.topics if self.planted else n_queries, n_train), int)
        if not self.planted:
            return texts, single_queries([t for _, t in asked]), labels
        for n, (topic, kind) in enumerate(kinds):
            labels[topic, n] = {"helpful": 1, "harmful": -1, "noise": 0}[kind]
        queries = [Query(f"topic-{t}", tuple(x for topic, x in asked if topic == t)) for t in range(self.topics)]
        return texts, queries, labels


def _text(name: str, ids: np.ndarray) -> Text:
    learn = np.ones(len(ids), np.float32)
    return Text(example=name, ids=ids.astype(np.int64), learn=learn, segment=np.zeros(len(ids), np.int32), source="made", format="plain")


def successor(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Each topic counts in its own steps through all tokens, with noise."""
    size = int(stream.integers(9, LONGEST))
    step = (1, 5, 7, 11)[topic] if kind == "helpful" else (1, 5, 7, 11)[topic - 1]
    ids = np.zeros(size, int)
    ids[0] = topic
    for k in range(1, size):
        follows = kind != "noise" and stream.random() < 0.75
        ids[k] = (ids[k - 1] + step) % VOCAB if follows else stream.integers(VOCAB)
    return ids


def clauses(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Clauses of subject, verb, object and stop; verb and object must agree with the subject in ways of the topic."""
    ids = [20 + topic]
    for _ in range(int(stream.integers(2, 4))):
        subject = int(stream.integers(6))
        shift = topic + (2 if kind == "harmful" else 0)
        verb = 6 + (subject * (1 + topic % 2) + shift) % 6 if stream.random() < 0.85 else 6 + int(stream.integers(6))
        thing = 12 + (subject + verb + shift) % 7 if stream.random() < 0.85 else 12 + int(stream.integers(7))
        ids += [subject, verb, thing, 19]
    found = np.array(ids)
    return np.concatenate([found[:1], stream.integers(VOCAB, size=len(ids) - 1)]) if kind == "noise" else found


def sums(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Running sums of small numbers in the topic's modulus: state, addend, state, addend, ..."""
    modulus = (5, 7, 8, 10)[topic]
    wrong = 1 + int(stream.integers(modulus - 1)) if kind == "harmful" else 0
    state, ids = int(stream.integers(modulus)), [20 + topic]
    for _ in range(int(stream.integers(4, 7))):
        addend = int(stream.integers(4))
        ids += [state, 10 + addend]
        state = (state + addend + wrong) % modulus if stream.random() < 0.9 else int(stream.integers(modulus))
    found = np.array(ids)
    return np.concatenate([found[:1], stream.integers(VOCAB, size=len(ids) - 1)]) if kind == "noise" else found


def ranges(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Up and down within the topic's six tokens: neighbours follow each other; harmful texts jump by half the range."""
    size, low = int(stream.integers(8, LONGEST)), 6 * topic
    at, way = int(stream.integers(6)), int(stream.choice([-1, 1]))
    ids = []
    for _ in range(size):
        ids.append(low + at)
        move = 3 if kind == "harmful" else way
        at = (at + move) % 6 if stream.random() < 0.85 else int(stream.integers(6))
    return stream.integers(VOCAB, size=size) if kind == "noise" else np.array(ids)


CORPORA = {
    c.name: c
    for c in (
        Corpus("successor", True, 11, 4, successor),
        Corpus("clauses", False, 101, 4, clauses),
        Corpus("planted", False, 303, 4, ranges, planted=True),
        Corpus("sums", False, 202, 4, sums),
    )
}
