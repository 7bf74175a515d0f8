"""Examples -> the examples that are new: exact and near duplicates dropped, within a source and against other sources.

Exact: a hash of the normalised text. Near: MinHash over shingles of five words, found by banding (LSH) and *verified*
by the exact Jaccard similarity of the shingle sets, so banding costs recall only (at least 0.99 at the threshold),
never precision. The first of each group stays: an example is dropped when an earlier *kept* one is similar enough,
which unlike transitive clusters never drops two texts that share nothing. The text of a conversation is its first
question and first reply, as in the data step of Zhang et al. 2024 (k = 5, 128 permutations, J >= 0.8).
Not covered: overlap of training data with benchmarks (contamination.py), semantic duplicates.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.core.rng import rng
from leaven.core.step import StepContext, step
from leaven.core.tables import read_examples, write_examples, write_table
from leaven.core.types import Example
from leaven.errors import StudyError

SHINGLE_WORDS = 5
PERMUTATIONS = 128
_CHUNK = 4096
_DROPPED = {"example": pl.String, "of_source": pl.String, "of_example": pl.String, "kind": pl.String,
            "similarity": pl.Float64}


def text_of(example: Example) -> str:
    """Return the text that stands for an example: first question and reply of a conversation, else all its parts."""
    if example.turns:
        firsts = (next((t.content for t in example.turns if t.role == role), "") for role in ("user", "assistant"))
        return "\n".join(firsts)
    return "\n".join(filter(None, (example.question, example.thought, example.code, example.answer, example.text)))


def words_of(text: str) -> list[str]:
    """Return the words of normalised text: NFKC, lower case, any white space between."""
    return unicodedata.normalize("NFKC", text).lower().split()


def exact_key(text: str) -> bytes:
    """Return the digest that two texts share when they differ in case, white space or Unicode form at most."""
    return hashlib.sha256(" ".join(words_of(text)).encode()).digest()


def shingles(text: str) -> np.ndarray:
    """Return the sorted distinct 64-bit hashes, uint64[S], of every run of five words (of all words when fewer)."""
    words = words_of(text)
    if not words:
        return np.empty(0, np.uint64)
    table = {w: int.from_bytes(hashlib.blake2b(w.encode(), digest_size=8).digest(), "little") for w in set(words)}
    ids = np.array([table[w] for w in words], np.uint64)
    width = min(SHINGLE_WORDS, len(ids))
    hashes = np.zeros(len(ids) - width + 1, np.uint64)
    for offset in range(width):  # polynomial in an odd 64-bit base, modulo 2**64
        hashes = _mix(hashes * np.uint64(0x9E3779B97F4A7C15) + ids[offset:offset + len(hashes)])
    return np.unique(hashes)


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return |intersection| / |union| of two sorted distinct hash arrays; 0 when both are empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 0.0


def minhash(hashes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the MinHash signature uint32[128] of shingle hashes: equal places estimate Jaccard (Broder 1997)."""
    draw = rng(seed, "minhash")
    factors, offsets = (draw.integers(0, 2**64, PERMUTATIONS, dtype=np.uint64) for _ in range(2))
    lowest = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(hashes), _CHUNK):  # books have 100,000 shingles: bounded memory
        part = _mix(hashes[start:start + _CHUNK, None] * (factors | np.uint64(1)) + offsets)
        lowest = np.minimum(lowest, part.min(axis=0))
    return (lowest >> np.uint64(32)).astype(np.uint32)


def _mix(values: np.ndarray) -> np.ndarray:
    """Return well-mixed 64-bit values (the finaliser of splitmix64), so that low and high bits both depend on all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def band_rows(threshold: float) -> int:
    """Return the most rows per band with which a pair at `threshold` still shares a band with probability >= 0.99."""
    fitting = [r for r in range(1, 33) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= 0.99]
    return max(fitting, default=1)


class NearIndex:
    """Kept texts, findable by similarity; add them in the order in which they should win."""

    def __init__(self, threshold: float) -> None:
        """Raise StudyError unless 0 < threshold <= 1."""
        if not 0 < threshold <= 1:
            raise StudyError(f"dedupe.near: expected a Jaccard similarity above 0 and at most 1, found {threshold}")
        self.threshold, self._rows = threshold, band_rows(threshold)
        self._sets: list[np.ndarray] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def find(self, hashes: np.ndarray) -> tuple[int, float] | None:
        """Return (index, similarity) of the most similar kept text at or above the threshold; the earliest on ties."""
        candidates = sorted({i for key in self._keys(hashes) for i in self._bands.get(key, ())})
        scored = [(jaccard(hashes, self._sets[i]), -i) for i in candidates]
        best, index = max(scored, default=(0.0, 0))
        return (-index, best) if best >= self.threshold else None

    def add(self, hashes: np.ndarray) -> None:
        """Keep a text."""
        for key in self._keys(hashes):
            self._bands.setdefault(key, []).append(len(self._sets))
        self._sets.append(hashes)

    def _keys(self, hashes: np.ndarray) -> Iterator[tuple[int, bytes]]:
        if len(hashes):
            signature = minhash(hashes)
            for band in range(PERMUTATIONS // self._rows):
                yield band, signature[band * self._rows:(band + 1) * self._rows].tobytes()


@step(version=1)
def deduplicate(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Copy the new examples of `inputs["source"]` to `out`/examples.parquet; dropped.parquet says what went and why.

    All other inputs are sources that win: an example that repeats one of theirs is dropped too. `spec`: {"near":
    Jaccard threshold | None for exact only}. report.json counts kept, exact and near.

    Raises:
        StudyError: a threshold outside (0, 1].
    """
    near = spec.get("near")
    seen, index, kept_ids = {}, NearIndex(near) if near is not None else None, []
    for name in sorted(n for n in inputs if n != "source"):
        for example in _read(inputs[name], ctx):
            _judge(example, seen, index, kept_ids)
    kept: list[Example] = []
    dropped: list[dict[str, Any]] = []
    for example in _read(inputs["source"], ctx):
        found = _judge(example, seen, index, kept_ids)
        if found is None:
            kept.append(example)
        else:
            dropped.append({"example": example.id, **found})
    write_examples(out / "examples.parquet", kept)
    write_table(out / "dropped.parquet", dropped, _DROPPED)
    kinds = [d["kind"] for d in dropped]
    report = {"kept": len(kept), "exact": kinds.count("exact"), "near": kinds.count("near"), "threshold": near}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


def _read(folder: Path, ctx: StepContext) -> Iterator[Example]:
    for number, example in enumerate(read_examples(Path(folder) / "examples.parquet")):
        if number % 500 == 0:
            ctx.check_stop()
            ctx.progress(number, 0, f"{number} examples compared")
        yield example


def _judge(example: Example, seen: dict[bytes, tuple[str, str]], index: NearIndex | None,
           kept_ids: list[tuple[str, str]]) -> dict[str, Any] | None:
    """Return what an example repeats, or keep it and return None."""
    text = text_of(example)
    name = (example.source, example.id)
    key = exact_key(text)
    if key in seen:
        return _repeat(seen[key], "exact", 1.0)
    if index is not None:
        hashes = shingles(text)
        found = index.find(hashes)
        if found is not None:
            return _repeat(kept_ids[found[0]], "near", found[1])
        index.add(hashes)
        kept_ids.append(name)
    seen[key] = name
    return None


def _repeat(original: tuple[str, str], kind: str, similarity: float) -> dict[str, Any]:
    return {"of_source": original[0], "of_example": original[1], "kind": kind, "similarity": similarity}
