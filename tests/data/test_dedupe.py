"""Deduplication: planted duplicates go, others stay; MinHash estimates Jaccard; the exact set is verified."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.rng import rng
from leaven.core.step import StepContext
from leaven.core.tables import read_examples, write_examples
from leaven.core.types import Example, Turn
from leaven.data.dedupe import NearIndex, band_rows, deduplicate, exact_key, jaccard, minhash, shingles, text_of
from leaven.errors import StudyError


def sets_with(similarity: float, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two sorted hash sets of `size` with (nearly) this Jaccard similarity."""
    shared = round(2 * size * similarity / (1 + similarity))
    values = rng(seed, "test").permutation(rng(seed, "values").integers(0, 2**64, 2 * size, dtype=np.uint64))
    return np.sort(values[:size]), np.sort(np.concatenate([values[:shared], values[size : 2 * size - shared]]))


def reference_shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} if words else set()


@settings(max_examples=100, deadline=None)
@given(a=st.lists(st.sampled_from("abc"), max_size=30), b=st.lists(st.sampled_from("abc"), max_size=30))
def test_jaccard_of_shingles_equals_python_sets(a: list[str], b: list[str]) -> None:
    first, second = " ".join(a), " \n".join(b).upper()
    left, right = reference_shingles(first), reference_shingles(second)
    expected = len(left & right) / len(left | right) if left | right else 0.0
    assert jaccard(shingles(first), shingles(second)) == expected


def test_minhash_estimates_jaccard_within_a_tenth() -> None:
    errors = []
    for seed in range(60):
        first, second = sets_with(0.05 + 0.9 * seed / 60, 300, seed)
        errors.append(np.mean(minhash(first) == minhash(second)) - jaccard(first, second))
    assert np.mean(np.abs(errors)) < 0.05 and np.quantile(np.abs(errors), 0.95) < 0.1
    assert abs(np.mean(errors)) < 0.02  # unbiased


def test_signature_of_a_long_text_does_not_depend_on_chunks() -> None:
    hashes, _ = sets_with(0.5, 9000, 1)
    parts = [minhash(hashes[i : i + 1000]) for i in range(0, 9000, 1000)]
    assert (minhash(hashes) == np.minimum.reduce(parts)).all()


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_banding_finds_pairs_above_the_threshold_and_verification_rejects_those_below(threshold: float) -> None:
    assert 1 - (1 - threshold ** band_rows(threshold)) ** (128 // band_rows(threshold)) >= 0.99
    found = missed = 0
    for seed in range(60):
        above, below = sets_with(min(1.0, threshold + 0.02), 200, seed), sets_with(threshold - 0.05, 200, seed + 1000)
        for pair, expected in ((above, True), (below, False)):
            index = NearIndex(threshold)
            index.add(pair[0])
            hit = index.find(pair[1]) is not None
            assert not hit or expected
            found, missed = found + (hit and expected), missed + (expected and not hit)
    assert found >= 58 and missed <= 2


def test_the_most_similar_kept_text_is_named() -> None:
    base, near = sets_with(0.9, 200, 3)
    index = NearIndex(0.5)
    for hashes in (near, base):
        index.add(hashes)
    assert index.find(base) == (1, 1.0) and index.find(np.empty(0, np.uint64)) is None


def test_exact_keys_ignore_case_space_and_unicode_form() -> None:
    assert exact_key("Caf\u00e9  au\nlait") == exact_key("cafe\u0301 AU lait") != exact_key("cafe au lait")


def test_conversations_compare_by_first_question_and_first_reply() -> None:
    turns = [Turn(role="system", content="s"), Turn(role="user", content="q"), Turn(role="assistant", content="a")]
    more = [Turn(role="user", content="q2"), Turn(role="assistant", content="a2")]
    first, longer = (Example(id="0", source="s", turns=tuple(t)) for t in (turns[1:], turns + more))
    assert text_of(first) == text_of(longer) == "q\na"


def words(seed: int, n: int = 120) -> list[str]:
    return [f"w{i}" for i in rng(seed, "words").integers(0, 5000, n)]


def test_planted_duplicates_are_dropped_and_named(tmp_path: Path) -> None:
    base = words(1)
    rows = [
        " ".join(base),
        " ".join(base).upper() + "  ",
        " ".join([*base[:-2], "new", "end"]),  # exact, J = 0.97
        " ".join(base[:55] + words(2)[:65]),
        " ".join(words(3)),
        " ".join(words(4)),
    ]  # J = 0.28, fresh, in the other source
    write_examples(
        tmp_path / "source/examples.parquet", [Example(id=str(i), source="a", text=t) for i, t in enumerate(rows)]
    )
    write_examples(tmp_path / "other/examples.parquet", [Example(id="x", source="b", text=" ".join(words(4)))])
    inputs = {"source": tmp_path / "source", "first": tmp_path / "other"}
    deduplicate({"near": 0.8}, inputs, tmp_path / "out", StepContext())
    assert [e.id for e in read_examples(tmp_path / "out/examples.parquet")] == ["0", "3", "4"]
    dropped = (
        pl.read_parquet(tmp_path / "out/dropped.parquet").select("example", "of_source", "of_example", "kind").rows()
    )
    assert dropped == [("1", "a", "0", "exact"), ("2", "a", "0", "near"), ("5", "b", "x", "exact")]
    assert json.loads((tmp_path / "out/report.json").read_text()) == {
        "kept": 3,
        "exact": 2,
        "near": 1,
        "threshold": 0.8,
    }
    deduplicate({"near": None}, {"source": tmp_path / "source"}, tmp_path / "exact", StepContext())
    assert [e.id for e in read_examples(tmp_path / "exact/examples.parquet")] == ["0", "2", "3", "4", "5"]


def test_a_chain_of_small_changes_keeps_what_is_no_longer_similar(tmp_path: Path) -> None:
    base = words(7, 100)
    chain = [
        " ".join([f"x{i}" for i in range(k)] + base[k:]) for k in range(0, 100, 5)
    ]  # neighbours J ~ 0.9, ends J = 0
    write_examples(
        tmp_path / "source/examples.parquet",
        [Example(id=f"{i:02d}", source="a", text=t) for i, t in enumerate(chain)],
    )
    deduplicate({"near": 0.8}, {"source": tmp_path / "source"}, tmp_path / "out", StepContext())
    kept = [shingles(e.text) for e in read_examples(tmp_path / "out/examples.parquet")]
    assert len(kept) > 3
    assert all(jaccard(a, b) < 0.8 for i, a in enumerate(kept) for b in kept[:i])
    assert all(max(jaccard(shingles(t), k) for k in kept) >= 0.8 for t in chain)


def test_an_impossible_threshold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="above 0 and at most 1, found 1.5"):
        deduplicate({"near": 1.5}, {"source": tmp_path}, tmp_path, StepContext())
