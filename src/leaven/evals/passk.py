"""Verdicts of n samples per item -> pass@k, unbiased, with an interval; generation sets at several temperatures -> a table T x k.

pass@k of an item is 1 - C(n-c, k) / C(n, k) for c passes among n samples (Chen et al. 2021, eq. 1; Liu et al. 2025, eq. 1), the share of
k-subsets that hold a pass; the score is the mean over items. Samples that are missing count as failures, samples without a measured
verdict (no toolchain, harness error) are left out of n; an item with fewer than k measured samples is left out and counted.
Not covered: comparing models (analysis/), which treats the per-item values as any other score.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leaven.core.types import Sample, Verdict
from leaven.errors import DataError, StudyError

METRIC = re.compile(r"pass@([1-9]\d*)")


def k_of(metric: str) -> int | None:
    """Return k of a metric called pass@k, None for any other."""
    found = METRIC.fullmatch(metric)
    return int(found[1]) if found else None


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of pass@k from c passes among n samples, as a product that stays exact for large n.

    Raises:
        DataError: Unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise DataError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, found n={n}, c={c}, k={k}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def check_k(metrics: Sequence[str], n: int, temperature: float, where: str = "") -> None:
    """Raise StudyError when a metric asks for more samples than there will be, or for several samples that cannot differ."""
    said = f"{where}: " if where else ""
    for metric in metrics:
        k = k_of(metric) or 0
        if k > n:
            raise StudyError(f"{said}{metric} needs at least {k} samples per item, found n: {n}; raise n or ask for a smaller k")
        if k > 1 and temperature == 0:
            raise StudyError(f"{said}{metric} needs samples that differ, found temperature: 0 (greedy); set a temperature")


@dataclass(frozen=True, slots=True)
class Share:
    """A mean over items in [0, 1] with its 95 % interval; `n_items` measured items in `n_clusters` clusters."""

    estimate: float | None
    low: float | None
    high: float | None
    n_items: int
    n_clusters: int
    n_not_measured: int = 0


def item_values(verdicts: Sequence[Verdict], items: Sequence[str], n: int, k: int) -> dict[str, float | None]:
    """Return item -> pass@k; None where fewer than k of its samples could be measured.

    Args:
        verdicts: One per (item, sample) of one metric; items without any count as n failures.
        items: Every item of the benchmark.
        n: Samples planned per item; an item with more uses all it has.
        k: Samples drawn.
    """
    scores: dict[str, list[float | None]] = defaultdict(list)
    for verdict in verdicts:
        scores[verdict.item].append(verdict.score)
    found: dict[str, float | None] = {}
    for item in items:
        own = scores.get(item, [])
        measured = max(n, len(own)) - sum(score is None for score in own)
        passes = sum(score == 1.0 for score in own)
        found[item] = pass_at_k(measured, passes, k) if measured >= k else None
    return found


def share(values: Mapping[str, float | None], clusters: Mapping[str, str] | None = None, n_samples: int = 1) -> Share:
    """Return the mean of per-item values in [0, 1] with a 95 % interval that treats clusters of items as one draw.

    The interval is Wilson's for the effective number of items n_items / deff (Korn and Graubard 1998; compared in Franco et al. 2019).
    deff is the variance of the mean over clusters, G/(G-1) * sum over clusters of (sum of deviations)^2 / n_items^2, divided by that of
    n_items independent 0/1 items, p(1-p)/(n_items-1): so one greedy sample per independent item gives exactly Wilson's interval, several
    samples per item narrow it and clusters of items that pass together widen it. With clusters of several items the normal quantile is
    replaced by Student's t with G-1 degrees of freedom. The variance is taken over items, so the interval speaks for new items and new
    samples alike. Where all values are equal nothing can be estimated: the clusters count as independent items. The effective number
    never exceeds the number of samples.

    Args:
        values: Item -> value, None for items that were not measured.
        clusters: Item -> cluster; each item is its own without it.
        n_samples: Samples per item.
    """
    items = [item for item, value in values.items() if value is not None]
    lost = len(values) - len(items)
    groups = [(clusters or {}).get(item, item) for item in items]
    n, count = len(items), len(set(groups))
    if not n:
        return Share(None, None, None, 0, 0, lost)
    scores = np.array([values[item] for item in items], float)
    p = float(scores.mean())
    sums: dict[str, float] = defaultdict(float)
    for group, score in zip(groups, scores, strict=True):
        sums[group] += score - p
    spread = float(sum(s * s for s in sums.values()))
    effective = float(count)
    if spread > 1e-12 and count > 1:
        deff = (count / (count - 1) * spread / n**2) / (p * (1 - p) / (n - 1))
        effective = min(n / deff, float(n * n_samples))
    low, high = _wilson(p, effective, count - 1 if count < n else None)
    return Share(p, low, high, n, count, lost)


def _wilson(p: float, n: float, df: int | None) -> tuple[float, float]:
    """Return Wilson's 95 % interval for a share p of n items; with `df`, Student's t takes the place of the normal quantile."""
    from scipy import stats

    if df == 0:
        return 0.0, 1.0
    z = float(stats.norm.isf(0.025)) if df is None else float(stats.t.isf(0.025, df))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


@dataclass(frozen=True, slots=True)
class GenerationSet:
    """One model's samples at one temperature (None: unknown) and what was said of them; `n` is the number planned per item."""

    temperature: float | None
    n: int
    samples: Sequence[Sample]
    verdicts: Sequence[Verdict]


def sweep(
    sets: Sequence[GenerationSet],
    items: Sequence[str],
    ks: Sequence[int],
    clusters: Mapping[str, str] | None = None,
    metric: str = "accuracy",
) -> list[dict[str, Any]]:
    """Return the table T x k: one row per generation set and k that its n allows.

    Each row has temperature, k, n, pass@k as estimate, low and high, n_items, n_clusters, n_not_measured, and of the whole set
    `no_answer` (share of samples in which no program was found), `missing` (samples planned and not there, counted as failures)
    and `tokens` (mean length of a completion, None where unknown).

    Args:
        sets: Generation sets; several of one temperature are several rows.
        items: Every item of the benchmark.
        ks: Values of k; a set with n < k has no row for it.
        clusters: Item -> cluster, as in `share`.
        metric: Which verdicts are counted.
    """
    rows = []
    for one in sets:
        own = [v for v in one.verdicts if v.metric == metric]
        planned = one.n * len(items)
        lengths = [s.n_tokens for s in one.samples if s.n_tokens]
        for k in (k for k in ks if k <= one.n):
            found = share(item_values(own, items, one.n, k), clusters, one.n)
            rows.append(
                {
                    "temperature": one.temperature,
                    "k": k,
                    "n": one.n,
                    "estimate": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "n_items": found.n_items,
                    "n_clusters": found.n_clusters,
                    "n_not_measured": found.n_not_measured,
                    "no_answer": sum(v.status == "no_answer" for v in own) / len(own) if own else None,
                    "missing": max(0, planned - len(own)),
                    "tokens": sum(lengths) / len(lengths) if lengths else None,
                }
            )
    return rows
