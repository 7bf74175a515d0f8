"""A declared contrast + the RESULTS table -> paired scores -> one Effect, per level of `vary` and per difficulty.

Pairing is by seed value and by item; both sides must hold exactly the same items for every seed. What was not
measured (null score) in any run of a contrast is left out of all of them and counted. Unequal seeds are refused
unless the contrast says `common` or `welch`.
Not covered: the estimator (effect.py), what the interval means (rule.py), Holm over the family (run.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from leaven.analysis.effect import Effect, effect
from leaven.analysis.rule import Direction, direction_of
from leaven.errors import DataError, RefusedError, StudyError, did_you_mean

UnequalSeeds = Literal["refuse", "common", "welch"]
_WHERE = ("min_difficulty", "max_difficulty", "seen", "levels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One declared comparison of two conditions on one benchmark and metric.

    `where` restricts items (min_difficulty, max_difficulty, seen) and cells of vary (levels: name -> value or list of
    values). `margin` is the smallest difference that would matter, in score units; `direction` says whether more or
    less is better (default: by the metric's name). At most one contrast of a study is `primary`: it answers the
    question.
    """

    name: str
    treatment: str
    control: str
    benchmark: str
    metric: str = "accuracy"
    where: Mapping[str, Any] = field(default_factory=dict)
    primary: bool = False
    margin: float | None = None
    unequal_seeds: UnequalSeeds = "refuse"
    direction: Direction | None = None
    descriptive: bool = False

    @property
    def better(self) -> Direction:
        """Return whether more or less of the metric is better."""
        return self.direction or direction_of(self.metric)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Contrast:
        """Build a contrast from plain data; StudyError names an unknown key or value."""
        known = [f.name for f in dataclasses.fields(cls)]
        where = f"contrast {value.get('name', '?')!r}"
        for key in value:
            if key not in known:
                raise StudyError(f"{where}: unknown key {key!r}; expected one of {known}.{did_you_mean(key, known)}")
        missing = [k for k in ("name", "treatment", "control", "benchmark") if not value.get(k)]
        if missing:
            raise StudyError(f"{where}: missing {missing}")
        contrast = cls(**{k: v for k, v in value.items() if v is not None})
        if contrast.unequal_seeds not in ("refuse", "common", "welch"):
            raise StudyError(
                f"{where}: unequal_seeds: expected refuse, common or welch, found {contrast.unequal_seeds!r}"
            )
        if contrast.direction not in (None, "higher", "lower"):
            raise StudyError(f"{where}: direction: expected higher or lower, found {contrast.direction!r}")
        for key in contrast.where:
            if key not in _WHERE:
                raise StudyError(
                    f"{where}: where: unknown key {key!r}; expected one of {list(_WHERE)}.{did_you_mean(key, _WHERE)}"
                )
        return contrast


@dataclass(frozen=True, slots=True)
class Paired:
    """Scores of both sides on the same items: arrays [seeds, items] with items in sorted order."""

    treatment_SN: np.ndarray
    control_SN: np.ndarray
    seeds: tuple[int, ...]
    control_seeds: tuple[int, ...]
    items: tuple[str, ...]
    clusters: tuple[str, ...]
    binary: bool
    notes: tuple[str, ...] = ()

    def effect(self, confidence: float = 0.95) -> Effect:
        """Return the effect of these scores, with the pairing's notes in front of the estimator's."""
        result = effect(
            self.treatment_SN,
            self.control_SN,
            self.clusters,
            seeds=self.seeds,
            control_seeds=self.control_seeds,
            binary=self.binary,
            confidence=confidence,
        )
        return _with_notes(result, self.notes)


def select_rows(
    results: pl.DataFrame, contrast: Contrast, level: str | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the RESULTS rows of treatment and control that the contrast speaks of.

    Raises StudyError when a condition, benchmark or metric does not occur, naming what does.
    """
    rows = results if level is None else results.filter(pl.col("level") == level)
    for column, wanted in (("benchmark", contrast.benchmark), ("metric", contrast.metric)):
        rows = rows.filter(pl.col(column) == wanted)
        if rows.is_empty():
            found = sorted(results[column].unique().to_list())
            raise StudyError(
                f"contrast {contrast.name!r}: no results for {column} {wanted!r}; found "
                f"{found}.{did_you_mean(wanted, found)}"
            )
    where = contrast.where
    if where.get("min_difficulty") is not None:
        rows = rows.filter(pl.col("difficulty") >= int(where["min_difficulty"]))
    if where.get("max_difficulty") is not None:
        rows = rows.filter(pl.col("difficulty") <= int(where["max_difficulty"]))
    if where.get("seen") is not None:
        rows = rows.filter(pl.col("seen") == bool(where["seen"]))
    if rows.is_empty():
        raise StudyError(f"contrast {contrast.name!r}: no item of {contrast.benchmark} meets where {dict(where)}")
    sides = []
    for side, condition in (("treatment", contrast.treatment), ("control", contrast.control)):
        part = rows.filter(pl.col("condition") == condition)
        if part.is_empty():
            found = sorted(rows["condition"].unique().to_list())
            raise StudyError(
                f"contrast {contrast.name!r}: {side} {condition!r} has no results; found "
                f"{found}.{did_you_mean(condition, found)}"
            )
        sides.append(part)
    return sides[0], sides[1]


def pair(
    treatment: pl.DataFrame,
    control: pl.DataFrame,
    *,
    names: tuple[str, str] = ("treatment", "control"),
    unequal_seeds: UnequalSeeds = "refuse",
    where: str = "contrast",
) -> Paired:
    """Pair two sides by seed and item; rows need the columns seed, item, cluster, score (several samples of an item
    are averaged).

    Raises:
        RefusedError: the sides have different seeds and `unequal_seeds` is "refuse" (or leaves none in common).
        DataError: an item is missing on one side or in one seed, or an item lies in two clusters; names examples.
    """
    seeds, control_seeds, notes = _match_seeds(treatment, control, names, unequal_seeds, where)
    sides = [s.filter(pl.col("seed").is_in(list(k))) for s, k in ((treatment, seeds), (control, control_seeds))]
    clusters = _clusters(sides, where)
    _same_items(sides, names, where)
    every = pl.concat([s.select("item", "score") for s in sides])
    lost = sorted(every.filter(pl.col("score").is_null() | pl.col("score").is_nan())["item"].unique().to_list())
    if lost:
        notes.append(
            f"{len(lost)} of {len(clusters)} items were not measured in every run and are left out on both sides: "
            f"{_some(lost)}"
        )
    items = tuple(i for i in sorted(clusters) if i not in set(lost))
    if not items:
        raise DataError(f"{where}: no item was measured in every run of both sides")
    binary = bool(every.filter(pl.col("score").is_not_null())["score"].is_in([0.0, 1.0]).all())
    arrays = [_array(s, k, items) for s, k in zip(sides, (seeds, control_seeds), strict=True)]
    return Paired(
        arrays[0], arrays[1], seeds, control_seeds, items, tuple(clusters[i] for i in items), binary, tuple(notes)
    )


def _match_seeds(
    treatment: pl.DataFrame, control: pl.DataFrame, names: tuple[str, str], policy: UnequalSeeds, where: str
) -> tuple[tuple[int, ...], tuple[int, ...], list[str]]:
    """Return the seeds to use on each side under the declared policy."""
    a, b = (tuple(sorted(s["seed"].unique().to_list())) for s in (treatment, control))
    if a == b:
        return a, b, []
    both = tuple(s for s in a if s in b)
    found = f"{names[0]} has seeds {list(a)}, {names[1]} has {list(b)}"
    if policy == "welch":
        return a, b, [found]
    if policy == "common" and both:
        return both, both, [f"{found}: compared on the common seeds {list(both)}"]
    raise RefusedError(
        f"{where}: expected the same seeds on both sides, found that {found} (in common: {list(both)}). "
        "Run the missing ones, or declare unequal_seeds: common (use those in common) or welch (do not pair)"
    )


def _clusters(sides: list[pl.DataFrame], where: str) -> dict[str, str]:
    """Return each item's cluster; DataError when the sides or seeds disagree."""
    pairs = pl.concat([s.select("item", "cluster") for s in sides]).with_columns(
        pl.when(pl.col("cluster").is_null() | (pl.col("cluster") == ""))
        .then(pl.col("item"))
        .otherwise(pl.col("cluster"))
        .alias("cluster")
    )
    pairs = pairs.unique()
    clashes = pairs.filter(pl.col("item").is_duplicated())
    if not clashes.is_empty():
        item = clashes["item"][0]
        raise DataError(
            f"{where}: item {item!r} lies in several clusters: "
            f"{sorted(clashes.filter(pl.col('item') == item)['cluster'])}"
        )
    return dict(zip(pairs["item"].to_list(), pairs["cluster"].to_list(), strict=True))


def _same_items(sides: list[pl.DataFrame], names: tuple[str, str], where: str) -> None:
    """Raise DataError unless every seed of both sides holds the same items."""
    groups = {
        (name, seed): set(part["item"].to_list())
        for name, side in zip(names, sides, strict=True)
        for (seed,), part in side.group_by("seed")
    }
    wanted = set().union(*groups.values())
    for (name, seed), items in sorted(groups.items(), key=lambda pair: str(pair[0])):
        missing = sorted(wanted - items)
        if missing:
            raise DataError(
                f"{where}: expected the same {len(wanted)} items in every run, but {name} seed {seed} has "
                f"{len(items)}; "
                f"missing: {_some(missing)}. Evaluate it on the same benchmark, or restrict the contrast with where"
            )


def _array(side: pl.DataFrame, seeds: tuple[int, ...], items: tuple[str, ...]) -> np.ndarray:
    """Return mean scores [seeds, items] of one side; every cell exists by now."""
    means = side.group_by("seed", "item", maintain_order=True).agg(pl.col("score").mean())
    row, column = {s: i for i, s in enumerate(seeds)}, {x: i for i, x in enumerate(items)}
    out = np.full((len(seeds), len(items)), np.nan)
    for seed, item, score in means.iter_rows():
        if item in column:
            out[row[seed], column[item]] = score
    return out


def _with_notes(result: Effect, notes: tuple[str, ...]) -> Effect:
    """Return the effect with more notes in front."""
    return dataclasses.replace(result, notes=notes + result.notes) if notes else result


def _some(names: list[str], most: int = 5) -> str:
    """Return up to `most` names and how many more there are."""
    shown = ", ".join(repr(n) for n in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
