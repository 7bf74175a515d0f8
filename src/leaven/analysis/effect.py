"""Scores of treatment and control per (seed, item) -> THE effect: estimate, 95 % interval, p, and where its
uncertainty comes from.

The estimand is the mean difference over *new seeds and new item clusters*, so both are random. All seeds meet the
same items, hence the variance of the mean is crossed: seeds + clusters - (seeds x clusters), the last being counted
twice (Cameron, Gelbach & Miller 2011). The three parts rest on very different degrees of freedom (2 to 9 for seeds,
dozens for clusters), where one t quantile for their sum (Satterthwaite) covers too little or too much. So each part
keeps its own t quantile and the half-widths add in quadrature (modified large-sample intervals, Graybill & Wang
1980):

    half^2 = ts^2 max(V_seeds - 0.72 V_both, 0) + tb^2 V_both + max(tc^2 (V_clusters - V_both), -0.5 tb^2 V_both)

with ts, tc, tb the t quantiles at S - 1, G - 1 and (S - 1)(G - 1) degrees of freedom. It is exactly the paired t
interval over seeds when items add nothing, and exactly the clustered paired t over items when seeds add nothing. The
shares 0.72 and 0.5 (how far noise may be subtracted from a part that chance has made small) were calibrated by
simulation: benchmarks/coverage.py shows 93-97 % at 3, 4, 5 and 10 seeds (docs/statistics.md).
Not covered: choosing,
pairing and checking the scores (contrasts.py); what the interval means for the answer (rule.py).

Shape legend: S seeds, N items, G clusters; leading axes (...) are independent replications.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy import stats as scipy_stats

from leaven.errors import DataError, RefusedError

Floats = NDArray[np.float64]

FROM_SEEDS, BELOW_BOTH = 0.72, 0.5
"""How much of V_both is taken out of V_seeds, and how far V_clusters may cancel it; chosen by
benchmarks/coverage.py."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Variance parts of a mean difference and the degrees of freedom each rests on; arrays when replications are
    batched.

    `seeds` and `clusters` both contain `both` (the seed-by-cluster noise) in expectation. `None` degrees of freedom:
    the part cannot be estimated (one seed, or one cluster) and is left out.
    """

    seeds: Any
    clusters: Any
    both: Any
    df_seeds: Any
    df_clusters: float | None
    df_both: Any

    def variance(self) -> Any:
        """Return the estimated variance of the mean difference (seeds + clusters - both, truncated)."""
        return (
            np.maximum(self.seeds - self.both, 0)
            + self.both
            + np.maximum(self.clusters - self.both, -BELOW_BOTH * self.both)
        )

    def half_width(self, alpha: float = 0.05) -> Any:
        """Return half the width of the 1 - alpha interval; the formula of this module's docstring."""
        seeds, clusters, both = (
            0.0 if df is None else scipy_stats.t.isf(alpha / 2, df) ** 2
            for df in (self.df_seeds, self.df_clusters, self.df_both)
        )
        total = seeds * np.maximum(self.seeds - FROM_SEEDS * self.both, 0) + both * self.both
        return np.sqrt(total + np.maximum(clusters * (self.clusters - self.both), -BELOW_BOTH * both * self.both))


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A paired difference treatment - control with its interval; `sd_*` are standard deviations of the difference.

    `sd_seeds`: of one seed's true difference around the mean; `sd_clusters`: of one item cluster's; `sd_both`: of
    what is left per (seed, cluster). `df` is effective: t[df] x se is the half-width. `notes` are plain warnings
    about this estimate.
    """

    estimate: float
    low: float
    high: float
    se: float
    df: float
    p: float
    mean_treatment: float
    mean_control: float
    n_items: int
    n_clusters: int
    n_clusters_effective: float
    seeds: tuple[int, ...]
    control_seeds: tuple[int, ...]
    seed_differences: tuple[float, ...]
    sd_seeds: float
    sd_clusters: float
    sd_both: float
    binary: bool
    notes: tuple[str, ...] = ()


def cluster_index(clusters: Sequence[Any]) -> tuple[NDArray[np.int64], int]:
    """Return the cluster number of each item and how many clusters there are."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index.astype(np.int64).reshape(-1), int(index.max()) + 1


def paired_parts(difference_SN: Floats, clusters: Sequence[Any]) -> Parts:
    """Return the variance parts of the mean of `difference_SN` [..., S, N], items grouped by `clusters` [N].

    Clusters weigh by their number of items; the finite-sample factor of the cluster part is exact when cluster
    effects dominate.
    """
    index, n_clusters = cluster_index(clusters)
    return _parts_of(_cluster_sums(difference_SN, index, n_clusters), np.bincount(index) / len(index))


def unpaired_parts(treatment_SN: Floats, control_SN: Floats, clusters: Sequence[Any]) -> Parts:
    """Return the variance parts of mean(treatment) - mean(control) when seeds do not pair (Welch over seeds, items
    still paired)."""
    index, n_clusters = cluster_index(clusters)
    share_G = np.bincount(index) / len(index)
    sums_t, sums_c = (_cluster_sums(x, index, n_clusters) for x in (treatment_SN, control_SN))
    side_t, side_c = _parts_of(sums_t, share_G), _parts_of(sums_c, share_G)
    if side_t.df_seeds is None or side_c.df_seeds is None:
        raise RefusedError(
            "unequal seeds compared by Welch need at least 2 seeds on each side; "
            "run more seeds, or compare the common ones with unequal_seeds: common"
        )
    both_sides = _parts_of((sums_t.mean(-2) - sums_c.mean(-2))[..., None, :], share_G)
    n_t, n_c = treatment_SN.shape[-2], control_SN.shape[-2]
    return Parts(
        seeds=side_t.seeds + side_c.seeds,
        clusters=both_sides.clusters,
        both=side_t.both + side_c.both,
        df_seeds=_welch_df(side_t.seeds, side_c.seeds, n_t - 1, n_c - 1),
        df_clusters=both_sides.df_clusters,
        df_both=None if side_t.df_both is None else side_t.df_both + side_c.df_both,
    )


def effect(
    treatment_SN: Floats,
    control_SN: Floats,
    clusters: Sequence[Any],
    *,
    seeds: Sequence[int],
    control_seeds: Sequence[int] | None = None,
    binary: bool = False,
    confidence: float = 0.95,
) -> Effect:
    """Estimate the effect of the treatment on the mean score, for new seeds and new item clusters.

    Args:
        treatment_SN: scores [S, N]; row s is seed `seeds[s]`, column i one item (mean over its samples).
        control_SN: the same items; the same seeds in the same order, unless `control_seeds` says otherwise (then
            Welch over seeds).
        clusters: one label per item; items of one cluster are not independent.
        binary: every single score is 0 or 1; then identical outcomes everywhere still leave a finite interval.

    Raises:
        DataError: shapes do not match, a score is not finite, or there is no item.
        RefusedError: one seed and one cluster (nothing to estimate the spread from), or Welch with a single seed.
    """
    treatment_SN, control_SN = np.asarray(treatment_SN, float), np.asarray(control_SN, float)
    paired = control_seeds is None or tuple(control_seeds) == tuple(seeds)
    _check(treatment_SN, control_SN, clusters, paired)
    notes: list[str] = []
    if paired:
        parts = paired_parts(treatment_SN - control_SN, clusters)
    else:
        parts = unpaired_parts(treatment_SN, control_SN, clusters)
        notes.append("seeds differ between the sides: compared without pairing them (Welch)")
    index, n_clusters = cluster_index(clusters)
    effective = float(1 / ((np.bincount(index) / len(index)) ** 2).sum())
    parts = _guard(parts, binary, effective, notes)
    means_t, means_c = treatment_SN.mean(1), control_SN.mean(1)
    estimate = float(means_t.mean() - means_c.mean())
    half, se = float(parts.half_width(1 - confidence)), math.sqrt(float(parts.variance()))
    n_seeds = len(seeds) if paired else 1 / (0.5 * (1 / len(seeds) + 1 / len(control_seeds or seeds)))
    return Effect(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        se=se,
        df=effective_df(half, se, 1 - confidence),
        p=_p_value(abs(estimate), parts),
        mean_treatment=float(means_t.mean()),
        mean_control=float(means_c.mean()),
        n_items=len(index),
        n_clusters=n_clusters,
        n_clusters_effective=effective,
        seeds=tuple(seeds),
        control_seeds=tuple(seeds if control_seeds is None else control_seeds),
        seed_differences=tuple(float(x) for x in means_t - means_c) if paired else (),
        sd_seeds=math.sqrt(max(float(parts.seeds - parts.both), 0.0) * n_seeds),
        sd_clusters=math.sqrt(max(float(parts.clusters - parts.both), 0.0) * effective),
        sd_both=math.sqrt(float(parts.both) * n_seeds * effective),
        binary=binary,
        notes=tuple(notes),
    )


def _cluster_sums(values_SN: Floats, index: NDArray[np.int64], n_clusters: int) -> Floats:
    """Return each cluster's contribution to the mean over items: [..., S, G], summing to that mean."""
    n_items = len(index)
    if n_clusters == n_items and (np.diff(index) == 1).all():
        return values_SN / n_items
    member_NG = np.zeros((n_items, n_clusters), values_SN.dtype)
    member_NG[np.arange(n_items), index] = 1.0 / n_items
    return values_SN @ member_NG


def _parts_of(sums_SG: Floats, share_G: Floats) -> Parts:
    """Return the variance parts from cluster contributions [..., S, G] and the clusters' shares of the items [G]."""
    n_seeds, n_clusters = sums_SG.shape[-2:]
    means_S = sums_SG.sum(-1)
    mean = means_S.mean(-1)
    zero = np.zeros_like(mean)
    squares, cubes = float((share_G**2).sum()), float((share_G**3).sum())
    effective = 1 / squares
    # E[sum (w_g (b_g - mean b))^2] = correction x variance of the mean, for independent cluster effects b
    correction = 1 - 2 * cubes / squares + squares
    seeds = means_S.var(-1, ddof=1) / n_seeds if n_seeds > 1 else zero
    df_clusters = max(effective - 1, 1.0) if n_clusters > 1 else None
    clusters = both = zero
    if df_clusters is not None:
        around_G = sums_SG.mean(-2) - share_G * mean[..., None]
        clusters = (around_G**2).sum(-1) / correction
        if n_seeds > 1:
            rest_SG = sums_SG - sums_SG.mean(-2, keepdims=True) - share_G * (means_S - mean[..., None])[..., None]
            both = (rest_SG**2).sum((-1, -2)) / (n_seeds * (n_seeds - 1)) / correction
    return Parts(
        seeds=seeds,
        clusters=clusters,
        both=both,
        df_seeds=n_seeds - 1 if n_seeds > 1 else None,
        df_clusters=df_clusters,
        df_both=(n_seeds - 1) * df_clusters if n_seeds > 1 and df_clusters is not None else None,
    )


def _guard(parts: Parts, binary: bool, effective: float, notes: list[str]) -> Parts:
    """Refuse what has no spread to estimate, and keep identical 0/1 outcomes from looking like certainty."""
    if parts.df_seeds is None and parts.df_clusters is None:
        raise RefusedError(
            "expected at least 2 seeds or 2 item clusters, found one of each: nothing to estimate the spread from; "
            "run more seeds or measure more items"
        )
    if parts.df_seeds is None:
        notes.append("one seed: the interval speaks for other items, not for other training runs")
    if parts.df_clusters is None:
        notes.append("one item cluster: the interval speaks for other training runs, not for other items")
    if float(parts.seeds + parts.clusters) == 0.0:
        if not binary:
            notes.append("every paired difference is the same: the interval has no width")
            return parts
        notes.append(
            "every paired difference is the same: the interval assumes one discordant cluster more than was seen"
        )
        # Agresti & Min 2005 for zero discordant pairs: half a pseudo-count in each cell of the 2x2 table
        return Parts(
            seeds=parts.seeds,
            clusters=np.float64(1 / (effective + 2) ** 2),
            both=parts.both,
            df_seeds=parts.df_seeds,
            df_clusters=parts.df_clusters or 1.0,
            df_both=parts.df_both,
        )
    return parts


def _check(treatment_SN: Floats, control_SN: Floats, clusters: Sequence[Any], paired: bool) -> None:
    """Raise DataError unless both sides hold finite scores of the same items (and as many seeds when paired)."""
    n_items = len(clusters)
    for side, values in (("treatment", treatment_SN), ("control", control_SN)):
        if values.ndim != 2 or values.shape[1] != n_items or not n_items or not values.shape[0]:
            raise DataError(
                f"{side}: expected scores [seeds, items] with {n_items} items as in clusters, found shape "
                f"{values.shape}"
            )
        if not np.isfinite(values).all():
            raise DataError(
                f"{side}: {int((~np.isfinite(values)).sum())} scores are not finite; drop those items on both sides"
            )
    if paired and treatment_SN.shape != control_SN.shape:
        raise DataError(f"paired seeds need equal shapes, found {treatment_SN.shape} and {control_SN.shape}")


def _welch_df(a: Any, b: Any, df_a: float, df_b: float) -> Any:
    """Return Welch's degrees of freedom for the sum of two variances of means."""
    below = a**2 / df_a + b**2 / df_b
    return np.where(below > 0, (a + b) ** 2 / np.where(below > 0, below, 1.0), df_a + df_b)


def _p_value(size: float, parts: Parts) -> float:
    """Return the alpha whose interval ends exactly at zero, so that p < 0.05 if and only if the 95 % interval
    excludes it."""
    if size == 0.0:
        return 1.0
    smallest = 1e-100  # t quantiles at 1 degree of freedom stay finite when squared
    if float(parts.half_width(smallest)) <= size:
        return 0.0
    root = optimize.brentq(
        lambda log_alpha: float(parts.half_width(math.exp(log_alpha))) - size, math.log(smallest), 0.0, xtol=1e-12
    )
    return math.exp(root)


def effective_df(half: float, se: float, alpha: float) -> float:
    """Return the degrees of freedom at which t x se is the half-width; infinite when the normal quantile already
    reaches it."""
    if se == 0.0:
        return math.inf
    ratio, limit = half / se, 1e6
    if ratio <= float(scipy_stats.t.isf(alpha / 2, limit)):
        return math.inf
    return float(optimize.brentq(lambda df: float(scipy_stats.t.isf(alpha / 2, df)) - ratio, 0.05, limit))
