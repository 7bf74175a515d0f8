"""Quantities of probes -> their distributions over examples: histograms on shared bins, Gaussian fits, KS distances, attention maps.

Bins are shared by all conditions of a level, so that histograms can be laid over each other (Liu et al. 2025, figures 3, 4, 11).
Not covered: means and contrasts (order.py), drawing (reporting/).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import stats as scipy_stats

from leaven.analysis.levels import at_level
from leaven.analysis.probe_tables import PLACES, absent, runs_of
from leaven.analysis.stats import t_interval
from leaven.core.types import Finding

BINS = 30
_TAIL = 0.005


def histogram_finding(rows: pl.DataFrame, where: str, bins: int = BINS) -> Finding:
    """Return the distribution over examples of one quantity in every condition, on shared bins, with Gaussian fits.

    Seeds are pooled: `n` counts (seed, example) values. Values beyond the 0.5th and 99.5th percentile of all conditions
    are counted in `below` and `above`, so that a few of them do not squeeze the rest into one bin; fits use all values.
    """
    quantity = rows["quantity"][0]
    series = {c: part["value"].to_numpy() for (c,), part in rows.group_by("condition", maintain_order=True)}
    return _histogram(f"{where}/histogram/{quantity}", quantity, series, rows, bins)


def place_histogram(rows: pl.DataFrame, where: str, bins: int = BINS) -> list[Finding]:
    """Return, for a perplexity probe, the two distributions of Liu et al. 2025, figure 3: first and second part per condition."""
    chosen = rows.filter(pl.col("quantity").is_in([f"perplexity of the {p} part" for p in PLACES[:2]]))
    if chosen.is_empty():
        return []
    keys = chosen.select("condition", "quantity", "part").unique(maintain_order=True).sort("condition", "quantity")
    series = {}
    for condition, quantity, part in keys.iter_rows():
        of = (pl.col("condition") == condition) & (pl.col("quantity") == quantity) & (pl.col("part") == part)
        place = quantity.removeprefix("perplexity of the ").removesuffix(" part")
        series[f"{condition}: {part} ({place})"] = chosen.filter(of)["value"].to_numpy()
    return [_histogram(f"{where}/histogram/parts", "conditional perplexity of the parts", series, chosen, bins)]


def _histogram(identity: str, title: str, series: Mapping[str, np.ndarray], rows: pl.DataFrame, bins: int) -> Finding:
    edges = shared_edges(list(series.values()), bins)
    return Finding(
        id=identity,
        kind="table",
        title=f"Distribution over examples: {title}",
        unit=rows["unit"][0],
        n_items=rows["example"].n_unique(),
        seeds=tuple(sorted(rows["seed"].unique().to_list())),
        runs=runs_of(rows),
        data={"edges": edges.tolist(), "series": [{"name": n, **binned(v, edges)} for n, v in series.items()]},
    )


def shared_edges(series: Sequence[np.ndarray], bins: int = BINS) -> np.ndarray:
    """Return bin edges [bins + 1] from the 0.5th to the 99.5th percentile of all values together."""
    low, high = np.quantile(np.concatenate(series), [_TAIL, 1 - _TAIL])
    return np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)


def binned(values: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Return counts per bin (the last one closed), counts beyond both ends, and the Gaussian with the values' moments."""
    counts, _ = np.histogram(values, edges)
    return {
        "counts": counts.tolist(),
        "below": int((values < edges[0]).sum()),
        "above": int((values > edges[-1]).sum()),
        "n": len(values),
        "gaussian": {"mean": float(values.mean()), "sd": float(values.std())},
    }


def ks_findings(rows: pl.DataFrame, pairs: Sequence[tuple[str, str]], where: str) -> list[Finding]:
    """Return the Kolmogorov-Smirnov distance between conditions of every quantity, and of first and second part within each.

    D is taken seed by seed (distributions over examples) and averaged, with a t interval over seeds. Both sides hold the same
    examples, so the usual p value, which wants independent ones, is not given.
    """
    out = []
    for (quantity,), part in rows.group_by("quantity", maintain_order=True):
        for a, b in pairs:
            sides = [part.filter(pl.col("condition") == c) for c in (a, b)]
            out += _ks(sides, f"{where}/ks/{quantity}/{a} vs {b}", f"{quantity}: {a} against {b}")
    for (condition,), part in rows.group_by("condition", maintain_order=True):
        sides = [part.filter(pl.col("quantity") == f"perplexity of the {p} part") for p in PLACES[:2]]
        out += _ks(
            sides, f"{where}/ks/parts/{condition}", f"{condition}: perplexity of the first against the second part"
        )
    return out


def _ks(sides: Sequence[pl.DataFrame], identity: str, title: str) -> list[Finding]:
    """Return one KS finding, none when a side is empty or no seed is on both."""
    if any(absent(side) for side in sides):
        return []
    by_seed = [{s: p["value"].to_numpy() for (s,), p in side.group_by("seed")} for side in sides]
    seeds = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not seeds:
        return []
    distances = [float(scipy_stats.ks_2samp(by_seed[0][s], by_seed[1][s]).statistic) for s in seeds]
    interval = t_interval(distances) if len(seeds) > 1 else None
    return [
        Finding(
            id=identity,
            kind="score",
            title=f"KS distance of {title}",
            estimate=float(np.mean(distances)),
            low=None if interval is None else max(0.0, interval.low),
            high=None if interval is None else min(1.0, interval.high),
            unit="largest difference of the cumulative shares",
            n_items=min(len(v) for side in by_seed for v in side.values()),
            seeds=tuple(seeds),
            runs=tuple(sorted({r for s in sides for r in s["run"].unique().to_list()})),
            data={"per_seed": distances},
        )
    ]


def grid_findings(grids: pl.DataFrame) -> list[Finding]:
    """Return the mean attention map over seeds of every probe, level, condition and layer: data {layer, cells: [[...]]}."""
    out = []
    keys = ["probe", "level", "condition", "layer"]
    for (probe, level, condition, layer), part in grids.sort(keys).group_by(keys, maintain_order=True):
        cells = part.group_by("row", "col").agg(pl.col("value").mean()).sort("row", "col")
        size = int(cells["row"].max() or 0) + 1  # type: ignore[operator]
        out.append(
            Finding(
                id=f"probe/{probe}{at_level(str(level))}/map/{condition}/layer={layer}",
                kind="table",
                title=f"Attention map of {condition}, layer {layer}{at_level(str(level))}",
                unit="share of attention",
                n_items=int(part["n"].min() or 0),
                seeds=tuple(sorted(part["seed"].unique().to_list())),
                runs=runs_of(part),
                data={
                    "layer": layer,
                    "condition": condition,
                    "cells": cells["value"].to_numpy().reshape(size, size).tolist(),
                },
            )
        )
    return out
