"""Families, difficulties, n, seed, split -> distinct problems as Examples; `build_world` is the step that writes them.

A problem belongs to "test" or "train" by a hash of its question, so no seed can carry a test problem into training.
Where a difficulty has at most FEW problems in all (list_program with 1-2 operations) holding some out would leave
nothing to learn from: those are given whole to both splits and marked `meta["enumerated"]`, and benchmarks mark such
items as seen.
Not covered: mixing and ordering (data/mixture.py, data/build.py), response formats (data/formats.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from leaven.core.registry import load_plugins
from leaven.core.rng import python_rng
from leaven.core.step import StepContext, step
from leaven.core.tables import write_examples
from leaven.core.types import Example
from leaven.data.sources.world.families import FAMILIES
from leaven.data.sources.world.family import Family, Problem
from leaven.data.sources.world.render import Rendering, render
from leaven.data.sources.world.thoughts import Length, with_thought
from leaven.errors import DataError, StudyError, did_you_mean

__all__ = ["FAMILIES", "Family", "Problem", "build_world", "generate", "render", "split_of"]

Split = Literal["train", "test"]

FEW = 64
"""A difficulty with at most this many problems is given whole to both splits."""

TEST_SHARE = 8
"""One problem in this many belongs to the test split."""

STALL = 2000
"""A difficulty counts as exhausted after this many draws in a row that gave nothing new."""


def split_of(question: str) -> Split:
    """Return the split a question belongs to, by its text alone (about 1 in 8 to test)."""
    first = hashlib.sha256(b"world-split\x1f" + question.encode()).digest()[0]
    return "test" if first % TEST_SHARE == 0 else "train"


def family_named(name: str) -> Family:
    """Return the family called `name`; raise StudyError with a suggestion when there is none."""
    if name not in FAMILIES:
        raise StudyError(f"families: no task family is called {name!r}.{did_you_mean(name, list(FAMILIES))} "
                         f"Known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def generate(family: str, difficulties: Sequence[int] | None, n: int, seed: int, split: Split) -> Iterator[Example]:
    """Yield `n` distinct problems of a family, by difficulty, the same ones for the same arguments.

    Args:
        family: name in FAMILIES.
        difficulties: in the family's unit; None means all it supports.
        n: number of problems, spread evenly (largest remainder, earlier difficulties first); a difficulty with fewer
            problems than its share gives all it has and the others take over the rest.
        seed: another seed draws other problems of the same split.
        split: "train" or "test"; disjoint except for problems marked `meta["enumerated"]`.

    Raises:
        StudyError: unknown family, difficulty or split, negative `n`.
        DataError: `n` is more than exist; the message says how many do.
    """
    chosen = family_named(family)
    levels = _levels(chosen, difficulties)
    if split not in ("train", "test"):
        raise StudyError(f"split: expected train or test, found {split!r}")
    if n < 0:
        raise StudyError(f"n: expected a number of problems, found {n}")
    streams = {level: _distinct(chosen, level, seed, split) for level in levels}
    taken: dict[int, list[Example]] = {level: [] for level in levels}
    missing, open_levels = n, list(levels)
    while missing and open_levels:
        for level, quota in zip(list(open_levels), even_shares(missing, len(open_levels)), strict=True):
            new = list(islice(streams[level], quota))
            taken[level] += new
            missing -= len(new)
            if len(new) < quota:
                open_levels.remove(level)
    if missing:
        raise DataError(f"world: expected {n} distinct {split} problems of {family} at difficulties {levels}, "
                        f"found {n - missing} ({', '.join(f'{len(v)} at {k}' for k, v in taken.items())}); "
                        "lower n or add difficulties")
    for level in levels:
        yield from taken[level]


def even_shares(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` whole numbers that differ by at most one, larger ones first."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _levels(family: Family, difficulties: Sequence[int] | None) -> list[int]:
    levels = sorted(set(family.difficulties if difficulties is None else difficulties))
    unknown = [level for level in levels if level not in family.difficulties]
    if unknown or not levels:
        raise StudyError(f"difficulties: {family.name} has {list(family.difficulties)} ({family.difficulty_unit}), "
                         f"found {unknown or 'none'}")
    return levels


def _distinct(family: Family, difficulty: int, seed: int, split: Split) -> Iterator[Example]:
    """Yield distinct problems of one difficulty and split until no more are found."""
    random = python_rng(seed, "world", family.name, difficulty, split)
    listed = family.enumerate(difficulty)
    if listed is not None:
        problems = list(listed)
        few = len(problems) <= FEW
        random.shuffle(problems)
        for problem in problems:
            if few or split_of(problem.question) == split:
                yield _example(family, difficulty, problem, enumerated=few)
        return
    seen: set[str] = set()
    misses = 0
    while misses < STALL:
        problem = family.generate(random, difficulty)
        if problem.question in seen or (family.answers == "open" and names_answer(problem)):
            misses += 1
            continue
        seen.add(problem.question)
        misses = 0
        if split_of(problem.question) == split:
            yield _example(family, difficulty, problem, enumerated=False)


def names_answer(problem: Problem) -> bool:
    """Return whether the answer stands in the question as a word or number of its own (copying would then solve it)."""
    return re.search(rf"(?<!\w){re.escape(problem.answer)}(?!\w)", problem.question) is not None


def _example(family: Family, difficulty: int, problem: Problem, *, enumerated: bool) -> Example:
    key = hashlib.sha256(problem.question.encode()).hexdigest()[:16]
    return Example(
        id=f"{family.name}-{difficulty}-{key}", source="world", domain=family.domain, family=family.name,
        difficulty=difficulty, difficulty_unit=family.difficulty_unit, licence="Apache-2.0",
        meta={"enumerated": True} if enumerated else {},
        **{f.name: getattr(problem, f.name) for f in dataclasses.fields(Problem)},
    )


@step(version=2)
def build_world(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write examples.parquet (EXAMPLES) and report.json (counts) for a set of families.

    `spec`: families (names), difficulties (list, or null for all of each family), n (problems in all, spread evenly
    over the families), seed, split (train | test), thought (brief | full | long), rendering (default | text | code).
    Raises StudyError and DataError as `generate` does. Inputs called "plugin:..." are Python files that add task families to FAMILIES.
    """
    load_plugins(inputs)
    names = list(dict.fromkeys(spec["families"]))
    if not names:
        raise StudyError(f"families: expected at least one of {', '.join(FAMILIES)}, found none")
    rendering: Rendering = spec.get("rendering", "default")
    length: Length = spec.get("thought", "full")
    examples: list[Example] = []
    for index, (name, share) in enumerate(zip(names, even_shares(spec["n"], len(names)), strict=True)):
        ctx.check_stop()
        found = generate(name, spec.get("difficulties"), share, spec["seed"], spec["split"])
        examples += [render(with_thought(e, FAMILIES[name], length), rendering) for e in found]
        ctx.progress(index + 1, len(names), name)
    write_examples(out / "examples.parquet", examples)
    (out / "report.json").write_text(json.dumps(_report(examples), indent=1, sort_keys=True) + "\n")


def _report(examples: Sequence[Example]) -> dict[str, Any]:
    cells = Counter((e.family, e.difficulty) for e in examples)
    counts: dict[str, dict[str, int]] = {}
    for (family, difficulty), count in sorted(cells.items()):
        counts.setdefault(family, {})[str(difficulty)] = count
    return {"n": len(examples), "distinct": len({e.id for e in examples}), "counts": counts,
            "enumerated": sum(bool(e.meta.get("enumerated")) for e in examples)}
