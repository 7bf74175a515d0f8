"""Predictions and what retraining showed -> how well they agree, with bootstrap intervals and paired differences.

The linear datamodelling score (Park et al. 2023, TRAK, eq. 2) of a query is Spearman's rank correlation over random
subsets between the summed scores of the examples kept and the value realised. Intervals resample subsets (or groups)
and queries together, 95 % percentile; a difference from the reference method uses the same resamples. They do not cover
new training seeds, models or corpora. A prediction without variation has correlation 0. Only numpy and scipy.
Not covered: reading tables (validate.py).

Shapes: K subsets or groups, S seeds, Q queries, M models that were scored, N examples, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    (mean over queries); `models_averaged` m: scores are averaged over m models first, and the statistic over the
    disjoint groups of m models there are (1: each model alone). `minus_reference` is the difference from `reference`
    (method of the same models_averaged, or random removal). `ceiling` is the square root of the reliability of the
    realised values (Spearman-Brown over seeds): what a perfect predictor would reach.
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


@dataclass(frozen=True, slots=True)
class Statistic:
    """How to compare predicted with realised values [..,K]: what is prepared once, what each resample makes of it, and
    the comparison of two such results [..,K] -> [..]; the counts say how often each of K stands in the resample."""

    prepare: Callable[[np.ndarray], np.ndarray]
    resample: Callable[[np.ndarray, np.ndarray], np.ndarray]
    compare: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the statistic of values [..,K] that broadcast against each other, [..]."""
        return self.compare(self.resample(self.prepare(a), counts), self.resample(self.prepare(b), counts), counts)


def agreements(
    kind: str,
    statistic: str,
    predicted: Mapping[str, np.ndarray],
    realised_KSQ: np.ndarray,
    queries: list[str],
    *,
    step: int = -1,
    reference: str = "ekfac",
    averaged: Sequence[int] = (),
    draws: int = 1000,
    seed: int = 0,
) -> list[Validation]:
    """Return records of every method: mean over queries for each number of models averaged, and per query for the largest.

    Args:
        kind: lds or group.
        statistic: spearman, pearson or sign (share of equal signs).
        predicted: method -> float[M,K,Q], the same M for all.
        realised_KSQ: realised values per seed.
        queries: names of the queries.
        step: the measuring point (optimiser steps).
        reference: the method that differences are taken from.
        averaged: over how many models scores are averaged; default: 1 and all M.
        draws: resamples.
        seed: of the resampling.

    Raises:
        DataError: no such reference or statistic, more models averaged than there are, or a correlation over fewer than
            3 subsets.
    """
    if statistic not in STATISTICS or reference not in predicted:
        known = list(STATISTICS) if statistic not in STATISTICS else list(predicted)
        wrong = statistic if statistic not in STATISTICS else reference
        raise DataError(f"validation: expected one of {', '.join(known)}, found {wrong!r}.{did_you_mean(wrong, known)}")
    n_subsets, n_seeds, n_queries = realised_KSQ.shape
    if n_subsets < 3 and statistic != "sign":
        raise DataError(f"validation: expected at least 3 subsets or groups, found {n_subsets}")
    how, ones = STATISTICS[statistic], np.ones(n_subsets)
    target = how.prepare(realised_KSQ.mean(1).T)  # [Q,K]
    ceiling = reliability_ceiling(realised_KSQ) if statistic == "spearman" else None
    names = list(predicted)
    ensembles = Ensembles.of(len(predicted[reference]), averaged)
    columns = {m: how.prepare(ensembles.means(p).transpose(0, 2, 1)) for m, p in predicted.items()}
    found = {m: how.compare(how.resample(c, ones), how.resample(target, ones), ones) for m, c in columns.items()}  # [E,Q]
    resampled: dict[str, list[np.ndarray]] = {m: [] for m in names}
    means: dict[str, list[np.ndarray]] = {m: [] for m in names}
    draw = rng(seed, "validation-bootstrap")
    for _ in range(draws):
        counts = np.bincount(draw.integers(n_subsets, size=n_subsets), minlength=n_subsets).astype(float)
        chosen = draw.integers(n_queries, size=n_queries)
        realised = how.resample(target, counts)
        for method in names:
            each = how.compare(how.resample(columns[method], counts), realised, counts)
            resampled[method].append(ensembles.largest(each))
            means[method].append(ensembles.by_size(each[:, chosen]))
    result = []
    for method in names:
        point, spread = ensembles.by_size(found[method]), np.array(means[method])
        base, base_spread = ensembles.by_size(found[reference]), np.array(means[reference])
        shared = {"kind": kind, "statistic": statistic, "method": method, "step": step, "n_subsets": n_subsets, "n_seeds": n_seeds}
        for at, size in enumerate(ensembles.sizes):
            difference = point[at] - base[at], *_interval(spread[:, at] - base_spread[:, at])
            result.append(
                _record(shared, "all", size, point[at], _interval(spread[:, at]), reference, difference, ceiling)
            )
        for q, name in enumerate(queries):
            of_query, of_base = np.array(resampled[method])[:, q], np.array(resampled[reference])[:, q]
            value = ensembles.largest(found[method])[q]
            difference = value - ensembles.largest(found[reference])[q], *_interval(of_query - of_base)
            result.append(_record(shared, name, ensembles.sizes[-1], value, _interval(of_query), reference, difference, None))
    return result


def _record(
    shared: dict, query: str, averaged: int, value: float, interval: tuple[float, float] | tuple[None, None], reference: str,
    minus: tuple[float | None, float | None, float | None], ceiling: float | None,
) -> Validation:  # fmt: skip
    return Validation(
        **shared, query=query, models_averaged=averaged, value=float(value), low=interval[0], high=interval[1], reference=reference,
        minus_reference=None if minus[0] is None else float(minus[0]), minus_low=minus[1], minus_high=minus[2], ceiling=ceiling,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ensembles:
    """Which of M models are averaged: for every size, ascending, the disjoint groups of so many models, in order."""

    models: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, models: int, sizes: Sequence[int] = ()) -> Ensembles:
        """Return ensembles of these sizes, by default of 1 and of all; raise DataError for a size out of range."""
        chosen = tuple(sorted(set(sizes or (1, models))))
        if chosen[0] < 1 or chosen[-1] > models:
            raise DataError(f"validation: expected scores averaged over 1 to {models} models, found {', '.join(map(str, chosen))}")
        return cls(models, chosen)

    def means(self, x_M: np.ndarray) -> np.ndarray:
        """Return the means [E,..] of values [M,..]: all groups of the first size, then of the next."""
        return np.concatenate([x_M[: self._count(s) * s].reshape(-1, s, *x_M.shape[1:]).mean(1) for s in self.sizes])

    def by_size(self, each_E: np.ndarray) -> np.ndarray:
        """Return for every size the mean of what its groups [E,..] reached."""
        ends = np.cumsum([self._count(s) for s in self.sizes])
        return np.array([part.mean() for part in np.split(each_E, ends[:-1])])

    def largest(self, each_E: np.ndarray) -> np.ndarray:
        """Return the mean over the groups of the largest size, [..]."""
        return each_E[-self._count(self.sizes[-1]) :].mean(0)

    def _count(self, size: int) -> int:
        return self.models // size


def _interval(samples: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail]).tolist()
    return low, high


def reliability_ceiling(realised_KSQ: np.ndarray) -> float | None:
    """Return sqrt of the mean over queries of Spearman-Brown reliability over S seeds; None for one seed."""
    seeds = realised_KSQ.shape[1]
    if seeds < 2:
        return None
    each, ones = realised_KSQ.transpose(1, 2, 0), np.ones(len(realised_KSQ))
    pairs = [(a, b) for a in range(seeds) for b in range(a)]
    single = np.mean([spearman(each[a], each[b], ones) for a, b in pairs], axis=0)
    single = np.clip(single.mean(), 0, 1)
    return float(np.sqrt(seeds * single / (1 + (seeds - 1) * single)))


def pearson_of(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation over the last axis when place k counts `counts[k]` times (0 without variation)."""
    share = counts / counts.sum()
    tiny = 1e-12 * np.abs(a).max(-1) * np.abs(b).max(-1)
    a, b = a - (a @ share)[..., None], b - (b @ share)[..., None]
    top, bottom = (a * b) @ share, np.sqrt(((a * a) @ share) * ((b * b) @ share))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > tiny)


def equal_share(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of places with equal values."""
    return (a == b) @ (counts / counts.sum())


def dense_codes(x: np.ndarray) -> np.ndarray:
    """Return for every value of the last axis how many different smaller ones there are."""
    order = np.argsort(x, axis=-1, kind="stable")
    ranked = np.take_along_axis(x, order, -1)
    place = np.zeros(x.shape, np.int64)
    np.cumsum(ranked[..., 1:] != ranked[..., :-1], -1, out=place[..., 1:])
    codes = np.empty_like(place)
    np.put_along_axis(codes, order, place, -1)
    return codes


def weighted_ranks(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return mean ranks along the last axis, of dense codes, as if place k stood there `counts[k]` times."""
    size = codes.shape[-1]
    flat = codes.reshape(-1, size)
    at = flat + size * np.arange(len(flat))[:, None]
    total = np.bincount(at.ravel(), np.tile(counts, len(flat)), flat.size)
    middle = np.cumsum(total.reshape(-1, size), 1).ravel() - (total - 1) / 2
    return middle[at].reshape(codes.shape)


def _unchanged(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return x


spearman = Statistic(dense_codes, weighted_ranks, pearson_of)
pearson = Statistic(np.asarray, _unchanged, pearson_of)
equal_signs = Statistic(np.sign, _unchanged, equal_share)
STATISTICS = {"spearman": spearman, "pearson": pearson, "sign": equal_signs}


def planted_auc(
    labels_QN: np.ndarray, scores: Mapping[str, np.ndarray], *, statistic: str = "auc", step: int = -1, reference: str = "ekfac",
    averaged: Sequence[int] = (), draws: int = 1000, seed: int = 0,
) -> list[Validation]:  # fmt: skip
    """Return per method the chance that a helpful example scores above a harmful one, mean over queries.

    Args:
        labels_QN: +1 helpful, -1 harmful, 0 not counted, for each query.
        scores: method -> float[M,Q,N].
        statistic: its name in the records.
        step: the measuring point.
        reference: the method that differences are taken from.
        averaged: over how many models scores are averaged; default: 1 and all M.
        draws: resamples of helpful and harmful examples (the same for all queries) and of queries.
        seed: of the resampling.

    Raises:
        DataError: a query has no helpful or no harmful example, or more models are averaged than there are.
    """
    bad = [q for q, row in enumerate(labels_QN) if not ((row > 0).any() and (row < 0).any())]
    if bad:
        raise DataError(f"planted_auc: expected helpful and harmful examples for every query, found none of one kind for query {bad[0]}")
    n_queries, n = labels_QN.shape
    ensembles = Ensembles.of(len(scores[reference]), averaged)
    sets = {m: ensembles.means(s) for m, s in scores.items()}

    def each(method: str, counts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return ensembles.by_size(np.array([[_auc(x[q], labels_QN[q], counts) for q in chosen] for x in sets[method]]))

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
        for at, size in enumerate(ensembles.sizes):
            minus = point[method][at] - point[reference][at], *_interval(samples[:, at] - base[:, at])
            result.append(_record(shared, "all", size, point[method][at], _interval(samples[:, at]), reference, minus, None))
    return result


def _auc(scores_N: np.ndarray, labels_N: np.ndarray, counts: np.ndarray) -> float:
    """Return P(helpful > harmful) + P(equal) / 2 with weighted examples, from mean ranks."""
    used = (labels_N != 0) & (counts > 0)
    weight, up = counts[used], labels_N[used] > 0
    ranks = weighted_ranks(dense_codes(scores_N[used]), weight)
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
