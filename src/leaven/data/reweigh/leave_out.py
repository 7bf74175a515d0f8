"""Labels, influence or names -> the examples that a stage does not draw: leave-group-out, top-k removal, random removal.

The draw goes on as if the examples were not there: the others keep their order, later ones move up. The control leaves
out as many examples of each source at random, so that it has as many slots and as many distinct examples.
Not covered: slots that keep their place with weight 0 (reweigh with how: target and a share of 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.rng import rng
from leaven.core.tables import EXAMPLES, LEFT_OUT, read_table
from leaven.data.reweigh.influence import read_scores
from leaven.data.sources.rows import read_rows
from leaven.errors import DataError


def choose_left_out(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> pl.DataFrame:
    """Return the examples to leave out, LEFT_OUT rows sorted by source and example.

    Args:
        spec: stage, seed, mixture, and leave_out (the fields of spec.data.LeaveOut).
        inputs: "examples:SOURCE" for every source; "influence" or "left_out" (files), where they decide.

    Raises:
        DataError: a group, an example or a score is not there, nothing would be left out, or nothing would be left.
    """
    asked = spec["leave_out"]
    sources = asked["sources"] or list(spec["mixture"])
    frames = {s: read_table(Path(inputs[f"examples:{s}"]) / "examples.parquet", EXAMPLES) for s in sources}
    where = f"stage {spec['stage']!r}: leave_out"
    if asked["groups"]:
        chosen = _by_group(frames, asked["by"], asked["groups"], where)
    elif "influence" in inputs:
        chosen = _by_influence(frames, Path(inputs["influence"]), asked, where)
    else:
        chosen = _by_name(frames, Path(inputs["left_out"]), where)
    if asked["control"] == "random":
        chosen = _as_many(frames, chosen, int(spec["seed"]), str(spec["stage"]))
    for source, frame in frames.items():
        if spec["mixture"][source] > 0 and sum(s == source for s, _ in chosen) == frame.height:
            raise DataError(
                f"{where}: expected examples of {source!r} to stay, found that all {frame.height} go; take it out of the mixture instead"
            )
    rows = [(source, example, score) for (source, example), score in sorted(chosen.items())]
    return pl.DataFrame(rows, schema=LEFT_OUT, orient="row")


Chosen = dict[tuple[str, str], float | None]


def _by_group(frames: Mapping[str, pl.DataFrame], by: str, groups: list[str], where: str) -> Chosen:
    found: Chosen = {}
    known: set[str] = set()
    for source, frame in frames.items():
        values = [source] * frame.height if by == "source" else [None if v in (None, "") else str(v) for v in frame[by]]
        known |= {v for v in values if v is not None}
        found |= {(source, e): None for e, v in zip(frame["id"], values, strict=True) if v in groups}
    missing = [g for g in groups if g not in known]
    if missing:
        there = ", ".join(sorted(known)) or "none"
        raise DataError(f"{where}.groups: expected values of {by}, found no example of {', '.join(missing)}. Known: {there}")
    return found


def _by_influence(frames: Mapping[str, pl.DataFrame], path: Path, asked: Mapping[str, Any], where: str) -> Chosen:
    scores = read_scores(path, {s: f["id"].to_list() for s, f in frames.items()}, asked["method"], asked["query"])
    sign = -1 if asked["end"] == "helpful" else 1
    ranked = sorted(scores, key=lambda e: (sign * scores[e], e))
    if asked["count"] > len(ranked):
        raise DataError(f"{where}.count: expected at most the {len(ranked)} examples there are, found {asked['count']}")
    return {e: scores[e] for e in ranked[: asked["count"]]}


def _by_name(frames: Mapping[str, pl.DataFrame], path: Path, where: str) -> Chosen:
    known = {s: set(f["id"]) for s, f in frames.items()}
    found: Chosen = {}
    for row in read_rows(path):
        value = row.value if isinstance(row.value, Mapping) else {}
        name = str(value.get("id", value.get("example", "")))
        owners = [s for s in known if name in known[s] and value.get("source") in (None, "", s)]
        if row.problem or len(owners) != 1:
            told = f"{name!r} in {', '.join(owners)}: name the source" if owners else f"{row.start!r}, which is none of them"
            raise DataError(
                f"{where}.ids: {path.name}, {row.where}: expected {{source, id}} of an example of {', '.join(known)}, found "
                f"{row.problem or told}"
            )
        found[owners[0], name] = None
    return found


def _as_many(frames: Mapping[str, pl.DataFrame], chosen: Chosen, seed: int, stage: str) -> Chosen:
    """Return as many random examples of each source."""
    found: Chosen = {}
    for source, frame in frames.items():
        ids = sorted(frame["id"])
        n = sum(s == source for s, _ in chosen)
        found |= {(source, ids[i]): None for i in rng(seed, "leave-out", stage, source).permutation(len(ids))[:n].tolist()}
    return found
