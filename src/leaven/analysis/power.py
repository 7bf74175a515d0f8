"""Standard errors (observed or planned) -> minimum detectable effect, and the seeds or items needed to see a given one.

Before a study: planned seeds and item clusters with assumed standard deviations. After it: the observed standard
error and effective degrees of freedom. Both use the noncentral t distribution at 80 % power and a two-sided 5 % level
unless told otherwise, and the same variance parts as the effect rule (effect.py), so a plan and its result speak the
same language.
Not covered: guessing the standard deviations; take them from a pilot's Effect (`sd_seeds`, `sd_clusters`, `sd_both`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy import stats as scipy_stats

from leaven.analysis.effect import Effect, Parts, effective_df
from leaven.errors import DataError


@dataclass(frozen=True, slots=True)
class Spread:
    """Assumed standard deviations of the paired difference, in score units, per seed, per item cluster, and per
    (seed, cluster)."""

    seeds: float
    clusters: float
    both: float

    @classmethod
    def of(cls, effect: Effect) -> Spread:
        """Return the spread that an observed effect showed."""
        return cls(effect.sd_seeds, effect.sd_clusters, effect.sd_both)


def minimum_detectable_effect(se: float, df: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest true effect that a two-sided t test with this standard error finds with probability
    `power`."""
    if se < 0 or not 0 < alpha < power < 1:
        raise DataError(f"expected se >= 0 and 0 < alpha < power < 1, found se={se}, alpha={alpha}, power={power}")
    if se == 0:
        return 0.0
    if not math.isfinite(df) or df > 1000:
        return se * float(scipy_stats.norm.isf(alpha / 2) + scipy_stats.norm.ppf(power))
    critical = float(scipy_stats.t.isf(alpha / 2, df))
    # the noncentral t as a mixture over the observed standard error (scipy's own nct loses its tail far from zero)
    limits = critical * np.sqrt(scipy_stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, df) / df)

    def missing(shift: float) -> float:
        """Return how much power a noncentrality of `shift` lacks (the far tail counts too)."""
        return float((scipy_stats.norm.sf(limits - shift) + scipy_stats.norm.sf(limits + shift)).mean()) - power

    return se * float(optimize.brentq(missing, 0.0, float(limits[-1]) + 10.0))


def planned_mde(n_seeds: int, n_clusters: int, spread: Spread, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the minimum detectable effect of a planned contrast with paired seeds and equally large item clusters.

    Raises DataError when there are fewer than 2 seeds and fewer than 2 clusters.
    """
    if n_seeds < 1 or n_clusters < 1 or max(n_seeds, n_clusters) < 2:
        raise DataError(f"a contrast needs at least 2 seeds or 2 item clusters, found {n_seeds} and {n_clusters}")
    both = spread.both**2 / (n_seeds * n_clusters)
    parts = Parts(
        seeds=spread.seeds**2 / n_seeds + both,
        clusters=spread.clusters**2 / n_clusters + both,
        both=both,
        df_seeds=n_seeds - 1 if n_seeds > 1 else None,
        df_clusters=float(n_clusters - 1) if n_clusters > 1 else None,
        df_both=float((n_seeds - 1) * (n_clusters - 1)) if n_seeds > 1 and n_clusters > 1 else None,
    )
    se = math.sqrt(float(parts.variance()))
    return minimum_detectable_effect(se, effective_df(float(parts.half_width(alpha)), se, alpha), power, alpha)


def needed_seeds(wanted: float, n_clusters: int, spread: Spread, power: float = 0.8, most: int = 1000) -> int | None:
    """Return the fewest seeds whose minimum detectable effect is at most `wanted`; None when items alone already hide
    it."""
    return _fewest(lambda n: planned_mde(n, n_clusters, spread, power), wanted, most)


def needed_clusters(wanted: float, n_seeds: int, spread: Spread, power: float = 0.8, most: int = 100_000) -> int | None:
    """Return the fewest item clusters whose minimum detectable effect is at most `wanted`; None when seeds alone
    already hide it."""
    return _fewest(lambda n: planned_mde(n_seeds, n, spread, power), wanted, most)


def binary_difference_sd(p_treatment: float, p_control: float, correlation: float = 0.0) -> float:
    """Return the standard deviation of (treatment passes) - (control passes) on one item, for pass rates and their
    correlation."""
    for name, share in (("p_treatment", p_treatment), ("p_control", p_control)):
        if not 0 <= share <= 1:
            raise DataError(f"{name}: expected a share between 0 and 1, found {share}")
    variance_t, variance_c = p_treatment * (1 - p_treatment), p_control * (1 - p_control)
    return math.sqrt(max(0.0, variance_t + variance_c - 2 * correlation * math.sqrt(variance_t * variance_c)))


def _fewest(mde_of: Callable[[int], float], wanted: float, most: int) -> int | None:
    """Return the smallest n >= 2 with mde_of(n) <= wanted by bisection (it falls with n), or None above `most`."""
    if wanted <= 0:
        raise DataError(f"the effect to be seen must be positive, found {wanted}")
    low, high = 2, 2
    while mde_of(high) > wanted:
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if mde_of(middle) <= wanted else (middle + 1, high)
    return low
