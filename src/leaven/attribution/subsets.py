"""Training examples -> which of them each retrained copy leaves out: random subsets, groups, the top of an influence table.

Leaving out is weight 0 in the order table, so every copy has the slots, steps and initial weights of the whole run.
Copy 0 always leaves out nothing. Examples are numbered in sorted order of (source, example), and draws depend on
the subsets' own seed alone: copy k leaves out the same examples whatever the training seed. Not covered: training the
copies (copies.py); orders in which later examples move up (data/reweigh/leave_out.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.core.rng import rng
from leaven.core.tables import EXAMPLES, SUBSETS, read_table
from leaven.data.reweigh.influence import read_scores
from leaven.errors import DataError, StudyError, did_you_mean

KINDS = ("half", "groups", "top")
Keys = Sequence[tuple[str, str]]
"""(source, example) of every training example, sorted."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One retraining: why examples are left out ("" for copy 0) and their numbers, ascending."""

    group: str
    left_out: tuple[int, ...]


def plan_copies(spec: Mapping[str, Any], keys: Keys, inputs: Mapping[str, Path]) -> list[Copy]:
    """Return the copies a `subsets` section asks for, copy 0 first.

    Args:
        spec: `kind` and what it needs. half: n, fraction (share left out), seed. groups: by (source or a column of
            the examples tables), groups (values; none = all there are). top: counts, end (helpful | harmful), methods
            and queries (none = "": the curvature method; the mean over queries), controls (random removals per
            count), seed.
        keys: the training examples.
        inputs: "examples:SOURCE" folders for groups by a column; "influence" (table or folder) for top.

    Raises:
        StudyError: an unknown kind or end, or a number out of range.
        DataError: a group or score is not there, or a copy would have nothing left.
    """
    kind = spec.get("kind", "half")
    if kind not in KINDS:
        raise StudyError(f"subsets.kind: expected one of {', '.join(KINDS)}, found {kind!r}.{did_you_mean(str(kind), KINDS)}")
    found = {"half": _random, "groups": _groups, "top": _top}[kind](spec, keys, inputs)
    for copy in found:
        if len(copy.left_out) == len(keys):
            raise DataError(f"subsets: expected examples to stay in every copy, found that {copy.group!r} leaves out all {len(keys)}")
    return [Copy("", ()), *found]


def weights_of(copies: Sequence[Copy], n_examples: int) -> np.ndarray:
    """Return the weight of every example in every copy, float32[copies, examples]."""
    result = np.ones((len(copies), n_examples), np.float32)
    for row, copy in zip(result, copies, strict=True):
        row[list(copy.left_out)] = 0
    return result


def subsets_table(copies: Sequence[Copy], keys: Keys) -> pl.DataFrame:
    """Return SUBSETS rows."""
    rows = [(c, copy.group, *keys[n]) for c, copy in enumerate(copies) for n in copy.left_out]
    return pl.DataFrame(rows, schema=SUBSETS, orient="row")


def _random(spec: Mapping[str, Any], keys: Keys, inputs: Mapping[str, Path]) -> list[Copy]:
    n, fraction, seed = int(spec.get("n", 100)), float(spec.get("fraction", 0.5)), int(spec.get("seed", 0))
    out = round(fraction * len(keys))
    if n < 1 or not 0 < out < len(keys):
        raise StudyError(
            f"subsets: expected n of at least 1 and a fraction that leaves some of {len(keys)} examples out and some in, "
            f"found n {n}, fraction {fraction}"
        )
    return [Copy(f"subset-{k}", _drawn(len(keys), out, seed, "retrain-subset", k)) for k in range(n)]


def _groups(spec: Mapping[str, Any], keys: Keys, inputs: Mapping[str, Path]) -> list[Copy]:
    by, asked = str(spec.get("by", "group")), list(spec.get("groups") or ())
    values = [source for source, _ in keys] if by == "source" else _column(by, keys, inputs)
    members: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        if value is not None:
            members.setdefault(value, []).append(number)
    missing = [g for g in asked if g not in members]
    if missing or not members:
        there = ", ".join(sorted(members)) or "none"
        raise DataError(f"subsets.groups: expected values of {by}, found no example of {', '.join(missing) or 'any'}. Known: {there}")
    return [Copy(g, tuple(members[g])) for g in asked or sorted(members)]


def _column(by: str, keys: Keys, inputs: Mapping[str, Path]) -> list[str | None]:
    """Return the value of a column of the examples tables for every example (None where it is empty)."""
    if by not in EXAMPLES:
        raise StudyError(f"subsets.by: expected source or a column of examples, found {by!r}.{did_you_mean(by, list(EXAMPLES))}")
    known: dict[tuple[str, str], Any] = {}
    for source in sorted({s for s, _ in keys}):
        if f"examples:{source}" not in inputs:
            raise DataError(f"subsets.by {by}: expected an input examples:{source} that holds this column, found {', '.join(inputs)}")
        frame = read_table(Path(inputs[f"examples:{source}"]) / "examples.parquet", EXAMPLES)
        known |= {(source, e): v for e, v in zip(frame["id"], frame[by], strict=True)}
    return [None if known.get(key) in (None, "") else str(known[key]) for key in keys]


def _top(spec: Mapping[str, Any], keys: Keys, inputs: Mapping[str, Path]) -> list[Copy]:
    counts, end, seed = [int(c) for c in spec.get("counts", ())], spec.get("end", "helpful"), int(spec.get("seed", 0))
    if end not in ("helpful", "harmful") or not counts or not all(0 < c < len(keys) for c in counts):
        raise StudyError(
            f"subsets: expected end helpful or harmful and counts from 1 to {len(keys) - 1}, found end {end!r}, counts {counts}"
        )
    if "influence" not in inputs:
        raise DataError(f"subsets.kind top: expected an input influence (a table of scores), found {', '.join(inputs)}")
    examples: dict[str, list[str]] = {}
    for source, example in keys:
        examples.setdefault(source, []).append(example)
    result = []
    for method in spec.get("methods") or [""]:
        for query in spec.get("queries") or [""]:
            scores = read_scores(Path(inputs["influence"]), examples, method, query)
            sign = -1 if end == "helpful" else 1
            ranked = sorted(range(len(keys)), key=lambda n: (sign * scores[keys[n]], n))
            result += [Copy(top_name(method, query, end, c), tuple(sorted(ranked[:c]))) for c in counts]
    for c in counts:
        draws = range(int(spec.get("controls", 8)))
        result += [Copy(f"random|{c}|{k}", _drawn(len(keys), c, seed, "retrain-control", c, k)) for k in draws]
    return result


def top_name(method: str, query: str, end: str, count: int) -> str:
    """Return the group name of a copy that leaves out the `count` most helpful or harmful examples of a query."""
    return f"top|{method}|{query}|{end}|{count}"


def _drawn(n: int, out: int, seed: int, *stream: str | int) -> tuple[int, ...]:
    return tuple(sorted(rng(seed, *stream).permutation(n)[:out].tolist()))
