"""RESULTS rows -> mean scores with intervals: one model's score, a condition's score over seeds, by difficulty or any
other column.

One model on 0/1 scores of independent items: Wilson. Anything with several seeds or item clusters: the variance rule
of effect.py against zero, so that a condition's interval speaks for new seeds and new items as a contrast's does.
Bounds of pass rates stay in [0, 1].
Not covered: comparing conditions (contrasts.py): overlapping intervals of two scores say little about their paired
difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from leaven.analysis.effect import effect
from leaven.analysis.stats import wilson
from leaven.errors import RefusedError, StudyError, did_you_mean

SCORES: dict[str, Any] = {
    "condition": pl.String,
    "level": pl.String,
    "benchmark": pl.String,
    "metric": pl.String,
    "seed": pl.Int32,
    "difficulty": pl.Int32,
    "seen": pl.Boolean,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "sd_seeds": pl.Float64,
    "k": pl.Int64,
    "n": pl.Int64,
    "n_items": pl.Int64,
    "n_distinct": pl.Int64,
    "n_clusters": pl.Int64,
    "n_not_measured": pl.Int64,
    "seeds": pl.List(pl.Int32),
    "interval": pl.String,
    "runs": pl.List(pl.String),
}
"""Mean scores. `seed`, `difficulty` and `seen` are null where a row covers all of them; `k` of `n` single scores are
1 (null unless every score is 0 or 1); `interval` is wilson, seeds_and_items, items, seeds or none; `n_distinct`
counts items that differ in their text."""

ALWAYS = ("condition", "level", "benchmark", "metric")
_KEYS = (*ALWAYS, "seed", "difficulty", "seen", "cluster", "item", "status", "study")


def score_table(
    results: pl.DataFrame, by: Sequence[str] = (), texts: Mapping[tuple[str, str], str] | None = None
) -> pl.DataFrame:
    """Return one row per group of `by` (condition, level, benchmark and metric always group too), in SCORES plus
    extra columns of `by`.

    `texts` maps (benchmark, item) to the item's content, to count distinct items; without it every item id counts.
    Raises StudyError for a column that RESULTS lacks.
    """
    for name in by:
        if name not in _KEYS:
            raise StudyError(
                f"by: cannot group by {name!r}; expected some of {list(_KEYS)}.{did_you_mean(name, _KEYS)}"
            )
    keys = list(dict.fromkeys([*ALWAYS, *by]))
    rows = []
    for values, part in results.sort(keys, maintain_order=True, nulls_last=True).group_by(keys, maintain_order=True):
        rows.append({**dict(zip(keys, values, strict=True)), **summarise(part, texts)})
    schema = {**SCORES, **{k: results.schema[k] for k in keys if k not in SCORES}}
    return pl.DataFrame([{c: row.get(c) for c in schema} for row in rows], schema=schema, orient="row")


def summarise(part: pl.DataFrame, texts: Mapping[tuple[str, str], str] | None = None) -> dict[str, Any]:
    """Return mean, interval and counts of one group of RESULTS rows; items not measured in some seed are left out and
    counted."""
    lost = set(part.filter(pl.col("score").is_null() | pl.col("score").is_nan())["item"].to_list())
    measured = part.filter(~pl.col("item").is_in(list(lost))) if lost else part
    seeds = sorted(part["seed"].unique().to_list())
    items = sorted(measured["item"].unique().to_list())
    benchmark = part["benchmark"][0]
    binary = bool(measured["score"].is_in([0.0, 1.0]).all()) and measured.height > 0
    out: dict[str, Any] = {
        "mean": None,
        "low": None,
        "high": None,
        "sd_seeds": None,
        "interval": "none",
        "seeds": seeds,
        "n": measured.height,
        "k": int(measured["score"].sum()) if binary else None,
        "n_items": len(items),
        "n_not_measured": len(lost),
        "n_distinct": len({texts.get((benchmark, i), i) for i in items}) if texts else len(items),
        "n_clusters": measured["cluster"].n_unique(),
        "runs": sorted(part["run"].drop_nulls().unique().to_list()),
    }
    if items:
        out.update(_mean_and_interval(measured, seeds, items, binary))
    return out


def _mean_and_interval(rows: pl.DataFrame, seeds: list[int], items: list[str], binary: bool) -> dict[str, Any]:
    """Return mean, low, high, sd_seeds and the interval's name for measured rows of one group."""
    means = (
        rows.sort("seed", "item", "index")
        .group_by("seed", "item", maintain_order=True)
        .agg(pl.col("score").mean(), pl.col("cluster").first())
    )
    cluster_of = dict(zip(means["item"].to_list(), means["cluster"].to_list(), strict=True))
    per_seed = means.group_by("seed", maintain_order=True).agg(pl.col("score").mean())["score"]
    spread = {"sd_seeds": float(per_seed.std()) if len(seeds) > 1 else None}
    clusters = len(set(cluster_of.values()))
    if means.height != len(seeds) * len(items):
        # ragged seeds (an interrupted evaluation): a mean, but no interval that would pretend to be balanced
        return {"mean": float(per_seed.mean()), **spread}
    overall = float(np.mean(means["score"].to_numpy()))
    independent = len(seeds) == 1 and clusters == len(items) == rows.height
    if binary and (independent or overall in (0.0, 1.0)):
        trials = len(items) if independent else clusters
        bounds = wilson(overall * trials, trials)
        return {"mean": overall, "low": bounds.low, "high": bounds.high, "interval": "wilson", **spread}
    row, column = {s: i for i, s in enumerate(seeds)}, {x: i for i, x in enumerate(items)}
    array = np.zeros((len(seeds), len(items)))
    for seed, item, score in means.select("seed", "item", "score").iter_rows():
        array[row[seed], column[item]] = score
    try:
        result = effect(array, np.zeros_like(array), [cluster_of[i] for i in items], seeds=seeds)
    except RefusedError:
        return {"mean": overall, **spread}
    name = "items" if len(seeds) == 1 else "seeds" if clusters == 1 else "seeds_and_items"
    low, high = (max(0.0, result.low), min(1.0, result.high)) if binary else (result.low, result.high)
    return {"mean": overall, "low": low, "high": high, "interval": name, **spread}
