"""Examples -> cosine similarity of the question with the code, of the question with the thought, and of the two.

The text of every part is embedded on its own; the embedder is an option (Liu et al. 2025, figure 11, ask an API model):

- hidden: mean over tokens of the model's last hidden states (the model, or the base with `weights: base`)
- tfidf: term frequency x (1 + ln((1 + n) / (1 + document frequency))), over all texts of the probe; terms are words of letters and
  digits in lower case, so `sorted_list` and "sorted list" share theirs
- a plugin's: a function `(texts, context) -> float[N, D]` under `@EMBEDDERS("NAME")`

Identical texts give 1, texts without a common term 0 (tfidf). Not covered: Gaussian fits, contrasts (analysis/order.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from leaven.core.registry import Registry
from leaven.core.step import StepContext, step
from leaven.core.types import Segment
from leaven.errors import DataError
from leaven.lm.backend import Backend
from leaven.probes.held_out import CONTENT, open_held_out, read_limited, texts_of, value_row, write_values

_TERM = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True, slots=True)
class EmbedderContext:
    """What an embedder may use: the opened model and how to stop."""

    backend: Backend
    ctx: StepContext


Embedder = Callable[[Sequence[str], EmbedderContext], np.ndarray]
EMBEDDERS: Registry[Embedder] = Registry("embedder")


@step(version=1)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write the cosine of every pair of content parts (prompt, thought, code, answer) of every example.

    Args:
        spec: format (says which fields the example shows), limit, options {embedder, weights (model | base)}.
        inputs: `model` (or `base`), `examples`, `plugin:*`.
        out: Receives values.parquet, report.json, timings.parquet.
        ctx: Progress, stop and resources.

    Raises:
        StudyError: an unknown option, embedder or format, or no input `base`.
        DataError: no example can be shown, or the embedder does not give one row per text.
    """
    held = open_held_out("similarity", spec, inputs, ctx)
    embed = EMBEDDERS.get(str(held.options["embedder"]), "probe similarity.options.embedder")
    wanted = {s.example for s in held.shown}
    texts: dict[tuple[str, str], str] = {}
    for example in read_limited(spec, inputs):
        if example.id in wanted:
            texts |= {(example.id, part): text for part, text in texts_of(example, str(spec["format"])).items()}
    vectors = embed(list(texts.values()), EmbedderContext(held.backend, ctx))
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise DataError(
            f"probe similarity: embedder {held.options['embedder']!r} must give one row per text [{len(texts)}, D], found "
            f"shape {vectors.shape}"
        )
    lookup = dict(zip(texts, vectors, strict=True))
    tokens = {key: len(held.backend.tokenizer.encode(text)) for key, text in texts.items()}
    rows = []
    for one in held.shown:
        parts = [p for p in CONTENT if (one.example, p) in lookup]
        for a, b in combinations(parts, 2):
            keys = (one.example, a), (one.example, b)
            value = cosine(lookup[keys[0]], lookup[keys[1]])
            rows.append(value_row(one.example, a, "cosine", value, tokens[keys[0]] + tokens[keys[1]], other=b))
    write_values(out, "similarity", rows, held.counts, held.began)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors; 0 when one of them is zero (a text without terms)."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / size if size > 0 else 0.0


@EMBEDDERS("hidden")
def hidden(texts: Sequence[str], context: EmbedderContext) -> np.ndarray:
    """Return the mean of each text's last hidden states; a text longer than the context is cut to it."""
    backend = context.backend
    rows = []
    for i, text in enumerate(texts):
        context.ctx.check_stop()
        context.ctx.progress(i, len(texts), "embedding")
        ids = backend.tokenizer.encode_segments([Segment(kind="text", text=text)]).ids[: backend.max_tokens]
        rows.append(backend.states(ids).double().mean(0).cpu().numpy())
    return np.array(rows)


@EMBEDDERS("tfidf")
def tfidf(texts: Sequence[str], context: EmbedderContext) -> np.ndarray:
    """Return term frequencies weighted by rarity among the texts given (the module says how)."""
    counts = [Counter(terms(text)) for text in texts]
    seen = Counter(term for count in counts for term in count)
    column = {term: i for i, term in enumerate(sorted(seen))}
    weight = {term: 1 + math.log((1 + len(texts)) / (1 + n)) for term, n in seen.items()}
    vectors = np.zeros((len(texts), max(1, len(column))))
    for row, count in enumerate(counts):
        for term, n in count.items():
            vectors[row, column[term]] = n * weight[term]
    return vectors


def terms(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case; identifiers are cut at underscores and capitals."""
    return [t.lower() for t in _TERM.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))]
