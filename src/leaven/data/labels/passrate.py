"""Verdicts of a model on problems -> how often it solved each, and a difficulty from that.

Difficulty is then a model's own: 1 - pass rate, cut into equal classes. It says as much about the model as about the
problem, which is what a curriculum wants and a comparison of data sets does not. Items are matched to examples by id:
the item's own, what follows its first `/` (benchmarks put their name before it), or its row number.
Not covered: running the model (`leaven evaluate` on the training rows writes such a table).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from leaven.data.sources.rows import read_rows
from leaven.errors import DataError, did_you_mean

UNMEASURED = ("not_measured", "harness_error")


def pass_rates(path: Path, ids: Collection[str], metric: str = "") -> dict[str, float]:
    """Return example id -> mean score over its samples, from a table of verdicts (Parquet, or JSONL rows).

    Rows have `item` or `id`, `score` in [0, 1] (or `verdict`/`status`, where "pass" is 1), and optionally `metric`.

    Raises:
        DataError: rows lack these, several metrics are mixed, scores lie outside [0, 1], or no item is an example.
    """
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(path):
        value = row.value if isinstance(row.value, Mapping) else {}
        item, score = value.get("item", value.get("id")), _score(value)
        status = value.get("status", value.get("verdict"))
        if row.problem or item in (None, "") or (score is None and "score" not in value and status not in UNMEASURED):
            raise DataError(
                f"{path}: {row.where}: expected a verdict {{item or id, score or verdict}}, found {row.problem or row.start!r}; "
                "verdicts.parquet and verdicts.jsonl of leaven are such tables"
            )
        if score is None or status in UNMEASURED:
            continue
        if not 0 <= score <= 1:
            raise DataError(f"{path}: {row.where}: expected a score from 0 to 1, found {score:g}; choose another metric")
        scores[str(value.get("metric") or "")][str(item)].append(score)
    named = sorted(scores)
    if metric and metric not in scores:
        raise DataError(f"{path}: no verdict has the metric {metric!r}.{did_you_mean(metric, named)} Found: {', '.join(named) or 'none'}")
    if not metric and len(named) != 1:
        raise DataError(f"{path}: expected verdicts of one metric, found {', '.join(named) or 'none'}; name one with `metric:`")
    rates = {item: math.fsum(s) / len(s) for item, s in scores[metric or named[0]].items()}
    return _matched(rates, ids, path)


def _score(row: Mapping[str, Any]) -> float | None:
    score = row.get("score")
    if isinstance(score, bool) or isinstance(score, int | float):
        return float(score)
    status = row.get("verdict", row.get("status"))
    return float(status == "pass") if isinstance(status, str) and "score" not in row and status not in UNMEASURED else None


def _matched(rates: Mapping[str, float], ids: Collection[str], path: Path) -> dict[str, float]:
    known = set(ids)
    numbers = {str(int(i)): i for i in known if i.isdigit()}
    found: dict[str, float] = {}
    for item, rate in rates.items():
        short = item.split("/", 1)[-1]
        name = next((n for n in (item, short, numbers.get(item), numbers.get(short)) if n in known), None)
        if name is None:
            continue
        if name in found:
            raise DataError(f"{path}: expected one item per example, found two that mean {name!r}, the second is {item!r}")
        found[name] = rate
    if not found:
        raise DataError(
            f"{path}: expected items named like the examples of the source ({', '.join(sorted(known)[:3])} ...), found "
            f"{', '.join(sorted(rates)[:3])} ...; judge the rows of the source itself"
        )
    return found


def class_of(rate: float, classes: int) -> int:
    """Return the difficulty class 1..classes of a pass rate; 1 = solved (nearly) always."""
    return min(classes, 1 + int((1.0 - rate) * classes + 1e-9))
