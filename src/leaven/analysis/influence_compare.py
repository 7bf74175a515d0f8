"""Scores -> what they follow and predict: length, other methods, other seeds, and what interventions really changed.

Rank correlations are taken within each seed's model and then averaged over seeds. A predicted change is first order: the sum
over examples of (weight after / weight before - 1) x influence, in nats of the target, per seed, from the model of the
reference condition; the realised change is the paired contrast of the target's log-likelihood between the trained models.
Not covered: retraining on subsets (attribution/validate.py), whose records are only passed on here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from leaven.analysis.effect import effect
from leaven.analysis.influence_inputs import Realised, Validation
from leaven.analysis.influence_means import Estimate, over_seeds
from leaven.analysis.influence_tables import TEXT, Cell, Scores, targets_of
from leaven.analysis.stats import wilson
from leaven.errors import RefusedError

Row = dict[str, Any]
Floats = NDArray[np.float64]
OVERLAP = 5.0
"""Size of the top whose overlap between methods is counted, per cent of the texts."""


def length_confound(cell: Cell, scores: Scores) -> Row:
    """Return Spearman's correlation of scores, and of their size, with the learned tokens of the texts."""
    tokens = scores.tokens
    pairs = {"spearman": scores.values, "of_size": np.abs(scores.values)}
    found = {k: _over_seeds([_spearman(row, tokens) for row in v], len(tokens)).record(cell.seeds, cell.nodes) for k, v in pairs.items()}
    return {**cell.about(), "method": scores.method, "target": scores.target, **found}


def agreements(cell: Cell, scores: Sequence[Scores]) -> list[Row]:
    """Return, per target, Spearman's correlation and the overlap of the top of every two methods, and of every two seeds of one."""
    found = []
    for target in dict.fromkeys(s.target for s in scores):
        members = [s for s in scores if s.target == target and s.complete]
        for s in members:
            pairs = list(combinations(range(len(s.values)), 2))
            if pairs:
                found.append(_agreement(cell, target, s.method, "another seed", [(s.values[i], s.values[j]) for i, j in pairs]))
        for a, b in combinations(members, 2):
            if a.units.select(TEXT).equals(b.units.select(TEXT)):
                found.append(_agreement(cell, target, a.method, b.method, list(zip(a.values, b.values, strict=True))))
    return found


def _agreement(cell: Cell, target: str, a: str, b: str, pairs: Sequence[tuple[Floats, Floats]]) -> Row:
    size = len(pairs[0][0])
    k = max(1, math.ceil(size * OVERLAP / 100))
    same = [len(np.intersect1d(np.argsort(-x, kind="stable")[:k], np.argsort(-y, kind="stable")[:k])) / k for x, y in pairs]
    ranks = [_spearman(x, y) for x, y in pairs]
    if b == "another seed":  # pairs of seeds share seeds: their spread is no standard error
        found = {"spearman": Estimate(estimate=float(np.mean(ranks)), n=size), "overlap": Estimate(estimate=float(np.mean(same)), n=k)}
    else:
        found = {"spearman": _over_seeds(ranks, size), "overlap": over_seeds(same, k, whole=k)}
    named = {name: e.record(cell.seeds, cell.nodes) for name, e in found.items()}
    return {**cell.about(), "target": target, "a": a, "b": b, "k": k, "chance": k / size, **named}


def _spearman(x: Floats, y: Floats) -> float:
    """Return Spearman's rank correlation; 0 where one side does not vary."""
    a, b = stats.rankdata(x), stats.rankdata(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _over_seeds(correlations: Sequence[float], n: int) -> Estimate:
    """Return the mean correlation over seeds; for one seed the interval over texts (Fisher's z; Bonett & Wright 2000)."""
    if len(correlations) > 1 or n < 5:
        found = over_seeds(correlations, n)
        if found.low is None or found.high is None:
            return found
        return Estimate(estimate=found.estimate, low=max(found.low, -1.0), high=min(found.high, 1.0), n=n)
    r = min(max(correlations[0], -0.999999), 0.999999)
    half = 1.96 * math.sqrt((1 + r * r / 2) / (n - 3))
    return Estimate(estimate=correlations[0], low=math.tanh(math.atanh(r) - half), high=math.tanh(math.atanh(r) + half), n=n)


# ---- interventions -----------------------------------------------------------------------------------------------


def predicted_changes(cell: Cell, scores: Sequence[Scores], realised: Realised, domains: Mapping[str, str]) -> list[Row]:
    """Return, per intervention, target and method, the change that influence predicts beside the one that was measured."""
    weights = realised.weights.filter(level=cell.level)
    others = [c for c in weights["condition"].unique(maintain_order=True).to_list() if c != cell.condition]
    queries = realised.outcomes["query"].unique(maintain_order=True).to_list()
    targets = targets_of(queries, domains)
    found = []
    for condition in others:
        measured: dict[str, Row | None] = {}
        for s in scores:
            if not s.complete:
                continue
            if s.target not in measured:
                measured[s.target] = _realised(cell, condition, s.target, targets, realised.outcomes)
            told = _predicted(cell, s, weights.filter(condition=condition), weights.filter(condition=cell.condition))
            if told is None:
                continue
            about = {"reference": cell.condition, "condition": condition, "method": s.method, "target": s.target}
            found.append({"name": cell.name, "level": cell.level, **about, **told, "realised": measured[s.target]})
    return found


def _predicted(cell: Cell, scores: Scores, after: pl.DataFrame, before: pl.DataFrame) -> Row | None:
    """Return the predicted change, over the seeds that both conditions were trained with."""
    whole, removed, changed, new, seeds = [], [], [], [], []
    for s, seed in enumerate(cell.seeds):
        was, now = before.filter(seed=seed), after.filter(seed=seed)
        if was.is_empty() or now.is_empty():
            continue
        both = was.select(*TEXT, "weight").join(now.select(*TEXT, pl.col("weight").alias("now")), on=TEXT, how="left")
        if both["now"].null_count() == both.height:  # trained on other examples altogether: nothing was left out
            continue
        delta = both.select(*TEXT, (pl.col("now").fill_null(0.0) / pl.col("weight") - 1).alias("delta"))
        units = scores.units.select(TEXT).join(delta, on=TEXT, how="left", maintain_order="left")
        delta_N = units["delta"].fill_null(0.0).to_numpy()
        whole.append(float(scores.values[s] @ delta_N))
        removed.append(float(scores.values[s] @ np.minimum(delta_N, 0.0)))
        changed.append(int((np.abs(delta_N) > 1e-9).sum()))
        new.append(now.join(was, on=TEXT, how="anti").height)
        seeds.append(seed)
    if not seeds:
        return None
    n = round(float(np.mean(changed)))
    return {
        "predicted": over_seeds(whole, n).record(seeds, cell.nodes),
        "removed": over_seeds(removed, n).record(seeds, cell.nodes),
        "n_new": round(float(np.mean(new))),
    }


def _realised(cell: Cell, condition: str, target: str, targets: Mapping[str, str], outcomes: pl.DataFrame) -> Row | None:
    """Return the measured change of a target's log-likelihood, paired by seed and item; None when it was not measured."""
    wanted = [q for q, t in targets.items() if t == target]
    rows = outcomes.filter(pl.col("level") == cell.level, pl.col("query").is_in(wanted))
    sides = [rows.filter(condition=c) for c in (condition, cell.condition)]
    seeds = sorted(set.intersection(*(set(side["seed"].to_list()) for side in sides)))
    if not seeds:
        return None
    arrays = []
    keys = None
    for side in sides:
        for seed in seeds:
            here = side.filter(seed=seed).select("query", "item").unique()
            keys = here if keys is None else keys.join(here, on=["query", "item"], how="semi")
    assert keys is not None
    keys = keys.sort("query", "item")
    if keys.is_empty():
        return None
    sizes = keys.with_columns(pl.len().over("query").alias("n"))["n"].to_numpy()
    weight = keys.height / (sizes * keys["query"].n_unique())  # every query counts alike, however many items it has
    for side in sides:
        mean = side.group_by("seed", "query", "item").agg(pl.col("value").mean())
        rows_S = [keys.join(mean.filter(seed=s), on=["query", "item"], how="left", maintain_order="left")["value"] for s in seeds]
        arrays.append(np.stack([r.to_numpy() * weight for r in rows_S]))
    try:
        got = effect(arrays[0], arrays[1], [f"{q}/{i}" for q, i in keys.rows()], seeds=seeds)
    except RefusedError:
        only = float((arrays[0] - arrays[1]).mean())
        return {"estimate": only, "low": None, "high": None, "n": keys.height, "seeds": seeds, "runs": []}
    return {"estimate": got.estimate, "low": got.low, "high": got.high, "n": keys.height, "seeds": seeds, "runs": []}


def prediction_quality(changes: Sequence[Row]) -> list[Row]:
    """Return, per cell, method and target, how many measured changes have the predicted sign, and their rank correlation."""
    found = []
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in changes:
        if row["realised"] is not None:
            groups.setdefault(tuple(row[k] for k in ("name", "reference", "level", "method", "target")), []).append(row)
    for key, rows in groups.items():
        told = np.array([r["predicted"]["estimate"] for r in rows])
        seen = np.array([r["realised"]["estimate"] for r in rows])
        right = int((np.sign(told) == np.sign(seen)).sum())
        share = wilson(right, len(rows))
        sign = {"estimate": share.estimate, "low": share.low, "high": share.high, "n": len(rows)}
        rank = _over_seeds([_spearman(told, seen)], len(rows)) if len(rows) > 3 else None
        found.append(
            {
                **dict(zip(("name", "reference", "level", "method", "target"), key, strict=True)),
                "right_sign": sign | {"seeds": rows[0]["predicted"]["seeds"], "runs": []},
                "spearman": rank.record(rows[0]["predicted"]["seeds"]) if rank else None,
            }
        )
    return found


# ---- retraining --------------------------------------------------------------------------------------------------


def validation_rows(validation: Sequence[Validation]) -> list[Row]:
    """Return validation.json's records with the cell they speak of; all targets together first, then the best first."""
    found = [_validation_row(cell, r) for cell in validation for r in cell.records if r.get("value") is not None]
    order = {k: n for n, k in enumerate(dict.fromkeys((r["kind"], r["statistic"]) for r in found))}

    def place(row: Row) -> tuple[Any, ...]:
        of = (row["name"], row["condition"], row["level"], order[row["kind"], row["statistic"]])
        return (*of, row["query"] != "all", row["query"], -row["models_averaged"], -row["value"]["estimate"])

    return sorted(found, key=place)


def _validation_row(cell: Validation, record: Mapping[str, Any]) -> Row:
    n = int(record["n_subsets"])

    def measured(value: str, low: str, high: str) -> Row | None:
        if record.get(value) is None:
            return None
        ends = {"low": record.get(low), "high": record.get(high)}
        return {"estimate": record[value], **ends, "n": n, "seeds": [], "runs": [cell.node] if cell.node else []}

    method, reference = str(record["method"]), str(record.get("reference") or "")
    return {
        "name": cell.name,
        "condition": cell.condition,
        "level": cell.level,
        "kind": str(record["kind"]),
        "statistic": str(record.get("statistic") or "spearman"),
        "method": method,
        "query": str(record["query"]),
        "step": int(record.get("step") or -1),
        "n_seeds": int(record.get("n_seeds") or 0),
        "models_averaged": int(record.get("models_averaged") or 1),
        "value": measured("value", "low", "high"),
        "reference": reference,
        "minus_reference": None if method == reference else measured("minus_reference", "minus_low", "minus_high"),
        "ceiling": record.get("ceiling"),
    }


def leading_method(cell: Cell, scores: Sequence[Scores], validation: Sequence[Row]) -> str:
    """Return the method that the rest of the report uses: what predicts retraining best, else EK-FAC, refined if it was, else the first."""
    methods = list(dict.fromkeys(s.method for s in scores))
    own = [r for r in validation if (r["name"], r["condition"], r["level"]) == (cell.name, cell.condition, cell.level)]
    measures = (("lds", "spearman"), ("group", "spearman"), *dict.fromkeys(("auc", r["statistic"]) for r in own if r["kind"] == "auc"))
    for measure in measures:
        rows = [r for r in own if (r["kind"], r["statistic"]) == measure]
        rows = [r for r in rows if r["query"] == "all"] or rows
        ranked = [r["method"] for r in sorted(rows, key=lambda r: -r["value"]["estimate"]) if r["method"] in methods]
        if ranked:
            return ranked[0]
    curved = [m for m in methods if m.startswith("ekfac")]
    return max(curved) if curved else (methods or [""])[0]  # "ekfac+krylov" > "ekfac"
