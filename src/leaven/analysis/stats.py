"""Numbers -> textbook statistics: Wilson and t intervals, paired and Welch t tests, McNemar, Holm.

Small closed forms written out, so that a reader can check each against its source and the tests against scipy and
statsmodels.
Not covered: the effect of data on a model (effect.py), which none of these measures alone: a pooled Wilson interval
forgets seeds and clusters, a paired t over seeds forgets items. Reproduces Table 13 of the code-and-thought-order
paper (section 4.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from leaven.errors import DataError


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval; all three share one unit."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TTest:
    """A t test of a mean or a difference of means; `low` and `high` bound `estimate`."""

    estimate: float
    se: float
    t: float
    df: float
    p: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """Discordant pairs and three p values: exact binomial, mid-p, and chi-square with continuity correction."""

    only_a: int
    only_b: int
    p_exact: float
    p_mid: float
    p_chi2: float


def wilson(k: float, n: int, confidence: float = 0.95) -> Interval:
    """Return the score interval for a proportion of `k` successes in `n` trials (Wilson 1927).

    For one model on independent items; never for a comparison. Raises DataError unless 0 <= k <= n and n > 0.
    """
    if n <= 0 or not 0 <= k <= n:
        raise DataError(f"a proportion needs 0 <= k <= n and n > 0, found k={k}, n={n}")
    z = float(scipy_stats.norm.isf((1 - confidence) / 2))
    share = k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, 0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half)


def sample_sd(values: Sequence[float]) -> float:
    """Return the standard deviation with n - 1 in the denominator; DataError for fewer than two values."""
    if len(values) < 2:
        raise DataError(f"a standard deviation needs at least 2 values, found {len(values)}")
    return float(np.std(np.asarray(values, float), ddof=1))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of `values` with Student's t interval (n - 1 degrees of freedom)."""
    result = _t_test(float(np.mean(values)), sample_sd(values) / math.sqrt(len(values)), len(values) - 1, confidence)
    return Interval(result.estimate, result.low, result.high)


def paired_t(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> TTest:
    """Test mean(a - b) = 0 for values paired by position; DataError when the lengths differ."""
    if len(a) != len(b):
        raise DataError(f"a paired test needs as many values on both sides, found {len(a)} and {len(b)}")
    difference = np.asarray(a, float) - np.asarray(b, float)
    se = sample_sd(difference) / math.sqrt(len(difference))
    return _t_test(float(difference.mean()), se, len(difference) - 1, confidence)


def welch_t(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> TTest:
    """Test mean(a) = mean(b) for independent samples with unequal variances (Welch 1947)."""
    va, vb = sample_sd(a) ** 2 / len(a), sample_sd(b) ** 2 / len(b)
    total = va + vb
    df = total**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if total > 0 else len(a) + len(b) - 2
    return _t_test(float(np.mean(a) - np.mean(b)), math.sqrt(total), df, confidence)


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Compare two models on the same items from the counts that only one of them passed (McNemar 1947; mid-p:
    Fagerland 2013).

    Treats items as independent; with clustered items trust the clustered interval instead.
    """
    if only_a < 0 or only_b < 0:
        raise DataError(f"counts of discordant items cannot be negative, found {only_a} and {only_b}")
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return McNemar(only_a, only_b, 1.0, 1.0, 1.0)
    exact = min(1.0, 2 * float(scipy_stats.binom.cdf(k, n, 0.5)))
    mid = min(1.0, 2 * float(scipy_stats.binom.cdf(k, n, 0.5)) - float(scipy_stats.binom.pmf(k, n, 0.5)))
    chi2 = max(0.0, abs(only_a - only_b) - 1.0) ** 2 / n
    return McNemar(only_a, only_b, exact, mid, float(scipy_stats.chi2.sf(chi2, 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for testing all of them, in the given order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _t_test(estimate: float, se: float, df: float, confidence: float) -> TTest:
    """Return the two-sided t test of estimate = 0; a zero standard error gives p = 0, or 1 when the estimate is 0
    too."""
    half = float(scipy_stats.t.isf((1 - confidence) / 2, df)) * se
    if se > 0:
        t = estimate / se
        p = float(2 * scipy_stats.t.sf(abs(t), df))
    else:
        t, p = (math.copysign(math.inf, estimate), 0.0) if estimate else (0.0, 1.0)
    return TTest(estimate, se, t, float(df), p, estimate - half, estimate + half)
