"""Predictions and what retraining showed -> how well they agree, with bootstrap intervals and paired differences.

The linear datamodelling score (Park et al. 2023, TRAK, eq. 2) of a query is Spearman's rank correlation over random
subsets between the summed scores of the examples kept and the value realised. Intervals resample subsets (or groups)
and queries together, 95 % percentile; a difference from the reference method uses the same resamples. They do not cover
new training seeds, models or corpora. A prediction without variation has correlation 0. Only numpy and scipy.
Not covered: reading tables (validate.py).

Shapes: K subsets or groups, S seeds, Q queries, M models that were scored, N examples, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from leaven.core.rng import rng
from leaven.errors import DataError, did_you_mean

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Validation:
    """How well one method predicts retraining.

    `kind` lds (subsets), group (groups left out), auc (planted helpful against harmful examples) or top (drop of the
    target, in nats, when a method's top examples are removed); `statistic` what is averaged; `query` a name or "all"
    (mean over queries); `models_averaged` 1 = each model scored alone, then averaged; else scores are averaged over so
    many models first. `minus_reference` is the difference from `reference` (method of the same models_averaged, or
    random removal). `ceiling` is the square root of the reliability of the realised values (Spearman-Brown over
    seeds): what a perfect predictor would reach.
    """

    kind: str
    statistic: str
    method: str
    query: str
    step: int
    n_subsets: int
    n_seeds: int
    models_averaged: int
    value: float
    low: float | None
    high: float | None
    reference: str
    minus_reference: float | None
    minus_low: float | None
    minus_high: float | None
    ceiling: float | None


Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(predicted [K,X], realised [K,X], how often each row counts [K]) -> [X]."""


def agreements(
    kind: str,
    statistic: str,
    predicted: Mapping[str, np.ndarray],
    realised_KSQ: np.ndarray,
    queries: list[str],
    *,
    step: int = -1,
    reference: str = "ekfac",
    draws: int = 1000,
    seed: int = 0,
) -> list[Validation]:
    """Return records of every method: mean over queries for one model and for the mean over models, and per query.

    Args:
        kind: lds or group.
        statistic: spearman, pearson or sign (share of equal signs).
        predicted: method -> float[M,K,Q], the same M for all.
        realised_KSQ: realised values per seed.
        queries: names of the queries.
        step: the measuring point (optimiser steps).
        reference: the method that differences are taken from.
        draws: resamples.
        seed: of the resampling.

    Raises:
        DataError: no such reference or statistic, or fewer than 3 subsets.
    """
    if statistic not in STATISTICS or reference not in predicted:
        known = list(STATISTICS) if statistic not in STATISTICS else list(predicted)
        wrong = statistic if statistic not in STATISTICS else reference
        raise DataError(f"validation: expected one of {', '.join(known)}, found {wrong!r}.{did_you_mean(wrong, known)}")
    n_subsets, n_seeds, n_queries = realised_KSQ.shape
    if n_subsets < 3:
        raise DataError(f"validation: expected at least 3 subsets or groups, found {n_subsets}")
    target = realised_KSQ.mean(1)
    ceiling = reliability_ceiling(realised_KSQ) if statistic == "spearman" else None
    names = list(predicted)
    models = len(predicted[reference])
    columns = {m: np.concatenate([p, p.mean(0, keepdims=True)]) for m, p in predicted.items()}  # [M+1,K,Q]
    found = {m: _per_query(STATISTICS[statistic], c, target, np.ones(n_subsets)) for m, c in columns.items()}  # [M+1,Q]
    resampled: dict[str, list[np.ndarray]] = {m: [] for m in names}
    means: dict[str, list[np.ndarray]] = {m: [] for m in names}
    draw = rng(seed, "validation-bootstrap")
    for _ in range(draws):
        counts = np.bincount(draw.integers(n_subsets, size=n_subsets), minlength=n_subsets).astype(float)
        chosen = draw.integers(n_queries, size=n_queries)
        for method in names:
            each = _per_query(STATISTICS[statistic], columns[method], target, counts)
            resampled[method].append(each[-1])
            means[method].append(_one_and_mean(each[:, chosen]))
    result = []
    for method in names:
        point, spread = _one_and_mean(found[method]), np.array(means[method])
        base, base_spread = _one_and_mean(found[reference]), np.array(means[reference])
        shared = {"kind": kind, "statistic": statistic, "method": method, "step": step, "n_subsets": n_subsets, "n_seeds": n_seeds}
        for at, averaged in enumerate([1] if models == 1 else [1, models]):
            difference = point[at] - base[at], *_interval(spread[:, at] - base_spread[:, at])
            result.append(
                _record(shared, "all", averaged, point[at], _interval(spread[:, at]), reference, difference, ceiling)
            )
        for q, name in enumerate(queries):
            of_query, of_base = np.array(resampled[method])[:, q], np.array(resampled[reference])[:, q]
            difference = found[method][-1, q] - found[reference][-1, q], *_interval(of_query - of_base)
            value = found[method][-1, q]
            result.append(_record(shared, name, models, value, _interval(of_query), reference, difference, None))
    return result


def _record(
    shared: dict, query: str, averaged: int, value: float, interval: tuple[float, float] | tuple[None, None], reference: str,
    minus: tuple[float | None, float | None, float | None], ceiling: float | None,
) -> Validation:  # fmt: skip
    return Validation(
        **shared, query=query, models_averaged=averaged, value=float(value), low=interval[0], high=interval[1], reference=reference,
        minus_reference=None if minus[0] is None else float(minus[0]), minus_low=minus[1], minus_high=minus[2], ceiling=ceiling,
    )  # fmt: skip


def _one_and_mean(each_MQ: np.ndarray) -> np.ndarray:
    """Return the mean over queries of single models (averaged) and of the last row, the averaged scores."""
    return np.array([each_MQ[:-1].mean(), each_MQ[-1].mean()])


def _interval(samples: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail]).tolist()
    return low, high


def _per_query(statistic: Statistic, predicted_MKQ: np.ndarray, target_KQ: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the statistic of every model and query, [M,Q]."""
    m, k, q = predicted_MKQ.shape
    flat = predicted_MKQ.transpose(1, 0, 2).reshape(k, m * q)
    return statistic(flat, np.tile(target_KQ, (1, m)), counts).reshape(m, q)


def reliability_ceiling(realised_KSQ: np.ndarray) -> float | None:
    """Return sqrt of the mean over queries of Spearman-Brown reliability over S seeds; None for one seed."""
    seeds = realised_KSQ.shape[1]
    if seeds < 2:
        return None
    ones = np.ones(len(realised_KSQ))
    pairs = [(a, b) for a in range(seeds) for b in range(a)]
    single = np.mean([spearman(realised_KSQ[:, a], realised_KSQ[:, b], ones) for a, b in pairs], axis=0)
    single = np.clip(single.mean(), 0, 1)
    return float(np.sqrt(seeds * single / (1 + (seeds - 1) * single)))


def spearman(a_KX: np.ndarray, b_KX: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation per column when row k counts `counts[k]` times, ties at their mean rank, [X]."""
    return pearson(weighted_ranks(a_KX, counts), weighted_ranks(b_KX, counts), counts)


def pearson(a_KX: np.ndarray, b_KX: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation per column when row k counts `counts[k]` times (0 without variation), [X]."""
    share = (counts / counts.sum())[:, None]
    a, b = a_KX - (share * a_KX).sum(0), b_KX - (share * b_KX).sum(0)
    top, bottom = (share * a * b).sum(0), np.sqrt((share * a * a).sum(0) * (share * b * b).sum(0))
    tiny = 1e-12 * (np.abs(a_KX).max(0) * np.abs(b_KX).max(0))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > tiny)


def equal_signs(a_KX: np.ndarray, b_KX: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of rows with equal signs, [X]."""
    return (counts[:, None] * (np.sign(a_KX) == np.sign(b_KX))).sum(0) / counts.sum()


STATISTICS: dict[str, Statistic] = {"spearman": spearman, "pearson": pearson, "sign": equal_signs}


def weighted_ranks(x_KX: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return mean ranks of every column as if row k stood there `counts[k]` times."""
    order = np.argsort(x_KX, axis=0, kind="stable")
    ranked = np.take_along_axis(x_KX, order, 0)
    place = np.cumsum(np.vstack([np.zeros(x_KX.shape[1], int), ranked[1:] != ranked[:-1]]), 0)  # equal values share one
    codes = np.empty_like(place)
    np.put_along_axis(codes, order, place, 0)
    rows, columns = x_KX.shape
    flat = codes + rows * np.arange(columns)
    total = np.bincount(flat.ravel(), np.repeat(counts, columns), rows * columns).reshape(columns, rows).T
    middle = np.cumsum(total, 0) - (total - 1) / 2
    return np.take_along_axis(middle, codes, 0)


def planted_auc(
    labels_QN: np.ndarray, scores: Mapping[str, np.ndarray], *, statistic: str = "auc", step: int = -1, reference: str = "ekfac",
    draws: int = 1000, seed: int = 0,
) -> list[Validation]:  # fmt: skip
    """Return per method the chance that a helpful example scores above a harmful one, mean over queries.

    Args:
        labels_QN: +1 helpful, -1 harmful, 0 not counted, for each query.
        scores: method -> float[M,Q,N].
        statistic: its name in the records.
        step: the measuring point.
        reference: the method that differences are taken from.
        draws: resamples of helpful and harmful examples (the same for all queries) and of queries.
        seed: of the resampling.

    Raises:
        DataError: a query has no helpful or no harmful example.
    """
    bad = [q for q, row in enumerate(labels_QN) if not ((row > 0).any() and (row < 0).any())]
    if bad:
        raise DataError(f"planted_auc: expected helpful and harmful examples for every query, found none of one kind for query {bad[0]}")
    n_queries, n = labels_QN.shape
    models = len(scores[reference])
    sets = {m: np.concatenate([s, s.mean(0, keepdims=True)]) for m, s in scores.items()}

    def each(method: str, counts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return _one_and_mean(np.array([[_auc(x[q], labels_QN[q], counts) for q in chosen] for x in sets[method]]))

    point = {m: each(m, np.ones(n), np.arange(n_queries)) for m in scores}
    spread: dict[str, list[np.ndarray]] = {m: [] for m in scores}
    draw = rng(seed, "validation-auc")
    for _ in range(draws):
        counts = np.bincount(draw.integers(n, size=n), minlength=n).astype(float)
        chosen = draw.integers(n_queries, size=n_queries)
        chosen = np.array([q for q in chosen if counts[labels_QN[q] > 0].any() and counts[labels_QN[q] < 0].any()])
        if len(chosen):
            for method in scores:
                spread[method].append(each(method, counts, chosen))
    result = []
    for method in scores:
        shared = {"kind": "auc", "statistic": statistic, "method": method, "step": step, "n_subsets": n, "n_seeds": 0}
        samples, base = np.array(spread[method]), np.array(spread[reference])
        for at, averaged in enumerate([1] if models == 1 else [1, models]):
            minus = point[method][at] - point[reference][at], *_interval(samples[:, at] - base[:, at])
            result.append(_record(shared, "all", averaged, point[method][at], _interval(samples[:, at]), reference, minus, None))
    return result


def _auc(scores_N: np.ndarray, labels_N: np.ndarray, counts: np.ndarray) -> float:
    """Return P(helpful > harmful) + P(equal) / 2 with weighted examples, from mean ranks."""
    used = (labels_N != 0) & (counts > 0)
    weight, up = counts[used], labels_N[used] > 0
    ranks = weighted_ranks(scores_N[used][:, None], weight)[:, 0]
    n_up, n_down = weight[up].sum(), weight[~up].sum()
    return float(((ranks * weight)[up].sum() - n_up * (n_up + 1) / 2) / (n_up * n_down))


def removal_drops(
    drops: Mapping[str, np.ndarray], random_SQ: np.ndarray, *, statistic: str, step: int = -1, n_controls: int = 1, draws: int = 1000,
    seed: int = 0,
) -> list[Validation]:  # fmt: skip
    """Return how far each method's removal lowers the target, against random removal of as many examples.

    Args:
        drops: method -> float[S,Q], value of the whole run minus value without the method's top examples, nats.
        random_SQ: the same for random removal, mean over the controls.
        statistic: the name in the records, such as top-10.
        step: the measuring point.
        n_controls: how many random removals were averaged.
        draws: resamples of seeds and queries.
        seed: of the resampling.
    """
    n_seeds, n_queries = random_SQ.shape
    draw, samples = rng(seed, "validation-removal"), {m: [] for m in drops}
    for _ in range(draws):
        at = np.ix_(draw.integers(n_seeds, size=n_seeds), draw.integers(n_queries, size=n_queries))
        for method, drop in drops.items():
            samples[method].append((drop[at].mean(), (drop - random_SQ)[at].mean()))
    result = []
    for method, drop in drops.items():
        spread = np.array(samples[method])
        shared = {"kind": "top", "statistic": statistic, "method": method, "step": step, "n_subsets": n_controls, "n_seeds": n_seeds}
        minus = (drop - random_SQ).mean(), *_interval(spread[:, 1])
        result.append(_record(shared, "all", 1, drop.mean(), _interval(spread[:, 0]), "random", minus, None))
    return result
