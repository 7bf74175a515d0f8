"""Scores of texts + labels -> mean influence by group, by difficulty with its slope, and who stands among the top.

Three forms of every mean: raw (nats per removed text), per learned token, and regressed (the residual of a line in
learned tokens, per model and target, plus the mean), because long texts accumulate influence. Training domain x target
is the influence matrix (Kou et al. 2025, figures 2 and 3); `within` restricts a grouping to one domain (figure 5 left:
four arrows). Composition counts texts, so it needs no scale (figure 2).
Not covered: the intervals (influence_means.py), segments and tokens (influence_tokens.py).

Shapes: S seeds, N texts, G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from leaven.analysis.influence_means import Estimate, Sums, difference, mean, over_seeds, slope, sums_of
from leaven.analysis.influence_tables import TEXT, Cell, Scores
from leaven.errors import DataError

Row = dict[str, Any]
Floats = NDArray[np.float64]
Length = Literal["raw", "per_token", "regressed"]
LENGTHS: tuple[Length, ...] = ("raw", "per_token", "regressed")
PERCENTS = (1.0, 5.0, 10.0)
"""Sizes of the top and bottom whose composition is counted, per cent of the texts."""
FEWEST = 5
"""Smaller tops than this are left out, except the widest."""
MOST_GROUPS = 40
"""Groupings with more values than this say nothing a table could show and are left out."""
BY_DOMAIN = ("family", "language")


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Texts with their labels, and the cluster of each: `frame` has a row per text in the order of the scores."""

    frame: pl.DataFrame
    cluster_N: NDArray[np.int64]
    n_clusters: int

    def values(self, column: str) -> list[Any]:
        """Return a label of every text."""
        return self.frame[column].to_list()

    def has(self, column: str) -> bool:
        """Return whether any text has this label."""
        return column in self.frame.columns and any(v not in (None, "") for v in self.values(column))

    def where(self, **wanted: Any) -> NDArray[np.bool_]:
        """Return which texts have these labels [N]."""
        keep = np.ones(self.frame.height, bool)
        for column, value in wanted.items():
            keep &= self.frame.select((pl.col(column) == value).fill_null(False)).to_series().to_numpy()
        return keep

    def numbers(self, column: str) -> Floats:
        """Return a numeric label of every text, NaN where there is none [N]."""
        return np.array([math.nan if v is None else float(v) for v in self.values(column)])


def labelled(units: pl.DataFrame, labels: pl.DataFrame) -> Labelled:
    """Return units with the labels of their texts.

    Raises:
        DataError: no text has a label: they belong to other data.
    """
    missing = [c for c in TEXT if c not in labels.columns]
    if missing:
        raise DataError(f"influence: expected labels with the columns {TEXT}, found {labels.columns}")
    joined = units.join(labels.unique(TEXT, keep="first"), on=TEXT, how="left", maintain_order="left")
    known = units.join(labels, on=TEXT, how="semi").height
    if units.height and not known:
        raise DataError(
            f"influence: expected labels for {units.height} texts such as {units.row(0)[:2]}, found none that match by {TEXT} among "
            f"{labels.height}; give the labels of the data that these models were trained on"
        )
    own = pl.concat_str(TEXT, separator="\x1f")
    cluster = pl.when(pl.col("cluster").fill_null("") == "").then(own).otherwise(pl.col("cluster")) if "cluster" in joined.columns else own
    numbers = joined.select(cluster.alias("c"))["c"].rank("dense").to_numpy().astype(np.int64) - 1
    return Labelled(joined, numbers, int(numbers.max()) + 1 if len(numbers) else 0)


def controlled(values_SN: Floats, tokens_N: Floats, length: Length) -> tuple[Floats, NDArray[np.bool_]]:
    """Return scores in one of the three forms, and which units have it (per token needs a learned token)."""
    every = np.ones(values_SN.shape[1], bool)
    if length == "per_token":
        keep = tokens_N > 0
        return values_SN / np.where(keep, tokens_N, 1.0), keep
    if length == "regressed":
        centred = tokens_N - tokens_N.mean()
        square = float((centred**2).sum())
        return (values_SN - np.outer(values_SN @ centred / square, centred), every) if square > 0 else (values_SN, every)
    return values_SN, every


def group_means(cell: Cell, scores: Scores, texts: Labelled, main: bool) -> list[Row]:
    """Return the mean of every group in all three forms: domains for every method, the rest for the main one."""
    found: list[Row] = []
    for by, within, groups in _groupings(texts, main):
        for length in LENGTHS:
            values, there = controlled(scores.values, scores.tokens, length)
            for group, keep in groups.items():
                if not (keep & there).any():
                    continue
                est = mean(sums_of(values, texts.cluster_N, texts.n_clusters, keep & there))
                found.append(record_of(cell, scores, est, by=by, within=within, group=group, length=length))
    return found


def record_of(cell: Cell, scores: Scores, est: Estimate, **more: Any) -> Row:
    """Return one number with what it speaks of."""
    about = {"method": scores.method, "target": scores.target, "decomposition": scores.decomposition}
    return {**cell.about(), **about, **more, "n_clusters": est.n_clusters, "mean": est.record(cell.seeds, cell.nodes)}


def difficulty_slopes(cell: Cell, scores: Scores, texts: Labelled) -> list[Row]:
    """Return the change of influence per level of difficulty, and per unit of `symbolic`, within every domain."""
    found = []
    for x in ("difficulty", "symbolic"):
        if not texts.has(x):
            continue
        level_N = texts.numbers(x)
        for domain in _named(texts, "domain") or [""]:
            inside = (texts.where(domain=domain) if domain else np.ones(len(level_N), bool)) & np.isfinite(level_N)
            for length in LENGTHS:
                values, there = controlled(scores.values, scores.tokens, length)
                keep = inside & there
                if keep.sum() < 3:
                    continue
                est = slope(values[:, keep], level_N[keep], texts.cluster_N[keep], texts.n_clusters)
                if est is not None:
                    found.append(record_of(cell, scores, est, by=x, within=domain, group="slope", length=length))
    return found


def compositions(cell: Cell, scores: Scores, texts: Labelled) -> list[Row]:
    """Return every group's share among the most and least helpful texts, and among all; ranked within each seed's model."""
    found = []
    size = scores.values.shape[1]
    ranks = np.argsort(-scores.values, axis=1, kind="stable")
    for by in ("domain", *BY_DOMAIN, "difficulty"):
        names = _named(texts, by)
        if not 1 < len(names) <= MOST_GROUPS:
            continue
        for group in names:
            member = texts.where(**{by: group})
            for percent in PERCENTS:
                k = max(1, math.ceil(size * percent / 100))
                if k >= size or (k < FEWEST and percent < PERCENTS[-1]):
                    continue
                ends = {"top": ranks[:, :k], "bottom": ranks[:, -k:]}
                shares = {side: over_seeds([float(member[row].mean()) for row in chosen], k, whole=k) for side, chosen in ends.items()}
                found.append(
                    {
                        **cell.about(),
                        "method": scores.method,
                        "target": scores.target,
                        "by": by,
                        "group": str(group),
                        "percent": percent,
                        "k": k,
                        "base": float(member.mean()),
                        "top": shares["top"].record(cell.seeds, cell.nodes),
                        "bottom": shares["bottom"].record(cell.seeds, cell.nodes),
                    }
                )
    return found


def domain_sums(scores: Scores, texts: Labelled, length: Length = "raw") -> dict[str, Sums]:
    """Return the sums of every training domain."""
    values, there = controlled(scores.values, scores.tokens, length)
    found = {}
    for domain in _named(texts, "domain"):
        keep = texts.where(domain=domain) & there
        if keep.any():
            found[str(domain)] = sums_of(values, texts.cluster_N, texts.n_clusters, keep)
    return found


def domain_difference(scores: Scores, texts: Labelled, length: Length = "raw") -> Estimate | None:
    """Return mean influence of the target's own domain minus that of all others; None without both."""
    values, there = controlled(scores.values, scores.tokens, length)
    own = texts.where(domain=scores.target) & there if texts.has("domain") else np.zeros(len(there), bool)
    other = there & ~own
    if not own.any() or not other.any():
        return None
    return difference(*(sums_of(values, texts.cluster_N, texts.n_clusters, keep) for keep in (own, other)))


def _groupings(texts: Labelled, main: bool) -> Iterator[tuple[str, str, Mapping[str, NDArray[np.bool_]]]]:
    """Yield (by, within domain, group -> its texts)."""
    domains = _named(texts, "domain")
    if domains:
        yield "domain", "", {str(d): texts.where(domain=d) for d in domains}
    if not main:
        return
    for domain in domains or [""]:
        inside = texts.where(domain=domain) if domain else np.ones(texts.frame.height, bool)
        for by in ("difficulty", *BY_DOMAIN):
            names = [v for v in _named(texts, by) if (inside & texts.where(**{by: v})).any()]
            if (1 if by == "difficulty" else 2) <= len(names) <= MOST_GROUPS:
                yield by, str(domain), {str(v): inside & texts.where(**{by: v}) for v in names}
    sources = _named(texts, "source")
    if 1 < len(sources) <= MOST_GROUPS:
        yield "source", "", {str(s): texts.where(source=s) for s in sources}


def _named(texts: Labelled, column: str) -> Sequence[Any]:
    """Return the values of a label, numbers by size and words by name."""
    if not texts.has(column):
        return []
    found = {v for v in texts.values(column) if v not in (None, "")}
    return sorted(found) if all(isinstance(v, (int, float)) for v in found) else sorted(map(str, found))
