"""Influence scores of several models on the same texts -> means of groups, differences of groups and slopes, with intervals.

Seeds (models) and clusters of texts are both random: the interval is the crossed one of effect.py, so it speaks of other
training runs and other texts at once; nothing is averaged over seeds first. With one seed it speaks of other texts only.
A group's mean is a ratio (sum over its texts, segments or tokens by their number); a cluster counts by what it holds of
the group. Of a difference or slope the same formula takes the linearised share of every cluster.
Not covered: which rows form a group (influence_groups.py), contrasts of conditions (effect.py).

Shapes: S seeds, G clusters, N units (texts, segments or tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaven.analysis.effect import Parts
from leaven.analysis.stats import t_interval, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """One group: `sums` [S,G] of its scores by cluster, `counts` [G] of its units by cluster."""

    sums: Floats
    counts: Floats

    @property
    def n(self) -> int:
        """Return how many units the group has."""
        return int(self.counts.sum())

    @property
    def means(self) -> Floats:
        """Return the mean of every seed [S]."""
        return self.sums.sum(1) / self.counts.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval (None: nothing to estimate a spread from), its units and clusters."""

    estimate: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_clusters: int = 0

    def record(self, seeds: Sequence[int], runs: Sequence[str] = ()) -> dict[str, Any]:
        """Return the fields of a Measured record."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "seeds": list(seeds),
            "runs": list(runs),
        }


def sums_of(values_SN: Floats, cluster_N: Ints, n_clusters: int, keep_N: NDArray[np.bool_] | None = None) -> Sums:
    """Return a group's sums by cluster; `keep_N` marks its units (default: all)."""
    if keep_N is not None:
        values_SN, cluster_N = values_SN[:, keep_N], cluster_N[keep_N]
    sums = np.stack([np.bincount(cluster_N, row, n_clusters) for row in values_SN])
    return Sums(sums, np.bincount(cluster_N, minlength=n_clusters).astype(float))


def mean(group: Sums) -> Estimate:
    """Return the mean of a group over new seeds and new clusters."""
    share_G = group.counts / group.counts.sum()
    fitted_SG = share_G * group.means[:, None]
    return _estimate(group.sums / group.counts.sum(), fitted_SG, share_G, group.n, int((group.counts > 0).sum()))


def difference(a: Sums, b: Sums) -> Estimate:
    """Return mean(a) - mean(b); clusters that hold units of both count on both sides."""
    shares = [g.counts / g.counts.sum() for g in (a, b)]
    given = a.sums / a.counts.sum() - b.sums / b.counts.sum()
    fitted = shares[0] * a.means[:, None] - shares[1] * b.means[:, None]
    present = int(((a.counts > 0) | (b.counts > 0)).sum())
    return _estimate(given, fitted, (shares[0] + shares[1]) / 2, a.n + b.n, present)


def slope(values_SN: Floats, x_N: Floats, cluster_N: Ints, n_clusters: int) -> Estimate | None:
    """Return the least-squares slope of values on x; None where x does not vary."""
    centred = x_N - x_N.mean()
    square = float((centred**2).sum())
    if not square > 1e-12:
        return None
    weight_N = centred / square
    slopes_S = values_SN @ weight_N
    line_SN = values_SN.mean(1, keepdims=True) + slopes_S[:, None] * centred
    given, fitted = (np.stack([np.bincount(cluster_N, row * weight_N, n_clusters) for row in m]) for m in (values_SN, line_SN))
    leverage = np.bincount(cluster_N, centred**2 / square, n_clusters)
    return _estimate(given, fitted, leverage, len(x_N), len(np.unique(cluster_N)))


def over_seeds(values: Sequence[float], n: int, whole: int | None = None) -> Estimate:
    """Return the mean of one value per seed with Student's t interval over seeds.

    Where seeds do not differ, or there is one, a share of `whole` units gets Wilson's interval and anything else none.
    """
    centre = float(np.mean(values))
    if len(values) > 1 and (np.ptp(values) > 0 or not whole):
        found = t_interval(list(values))
        low, high = (max(found.low, 0.0), min(found.high, 1.0)) if whole else (found.low, found.high)
        return Estimate(estimate=centre, low=low, high=high, n=n)
    if whole:
        found = wilson(round(centre * whole), whole)
        return Estimate(estimate=centre, low=found.low, high=found.high, n=n)
    return Estimate(estimate=centre, n=n)


def _estimate(given_SG: Floats, fitted_SG: Floats, share_G: Floats, n: int, present: int) -> Estimate:
    """Return the sum over clusters, mean over seeds, with the crossed interval.

    Args:
        given_SG: what every cluster contributes to the estimate.
        fitted_SG: what it would contribute if it were like all others.
        share_G: how much of the estimate rests on each cluster, summing to 1.
        n: units.
        present: clusters that hold any.
    """
    per_seed = given_SG.sum(1)
    centre = float(per_seed.mean())
    parts = _parts(given_SG - fitted_SG, per_seed, share_G)
    if parts.df_seeds is None and parts.df_clusters is None:
        return Estimate(estimate=centre, n=n, n_clusters=present)
    half = float(parts.half_width())
    return Estimate(estimate=centre, low=centre - half, high=centre + half, n=n, n_clusters=present)


def _parts(rest_SG: Floats, per_seed: Floats, share_G: Floats) -> Parts:
    """Return the variance parts as effect.py takes them, from residuals instead of contributions."""
    n_seeds = len(rest_SG)
    squares, cubes = float((share_G**2).sum()), float((share_G**3).sum())
    effective = 1 / squares
    correction = 1 - 2 * cubes / squares + squares
    df_clusters = max(effective - 1, 1.0) if effective > 1.5 else None
    seeds = np.float64(per_seed.var(ddof=1) / n_seeds if n_seeds > 1 else 0.0)
    clusters = both = np.float64(0.0)
    if df_clusters is not None:
        around_G = rest_SG.mean(0)
        clusters = (around_G**2).sum() / correction
        if n_seeds > 1:
            both = ((rest_SG - around_G) ** 2).sum() / (n_seeds * (n_seeds - 1)) / correction
    return Parts(
        seeds=seeds,
        clusters=clusters,
        both=both,
        df_seeds=n_seeds - 1 if n_seeds > 1 else None,
        df_clusters=df_clusters,
        df_both=(n_seeds - 1) * df_clusters if n_seeds > 1 and df_clusters is not None else None,
    )
