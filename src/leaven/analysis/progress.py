"""Verdicts of the models kept during training -> score against step per condition, with the interval of a score.

The last point is the final model, the one that contrasts use. Not covered: the training loss (summaries.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from leaven.analysis.scores import score_table
from leaven.core.types import Finding

PROGRESS: dict[str, Any] = {
    "condition": pl.String,
    "level": pl.String,
    "benchmark": pl.String,
    "metric": pl.String,
    "step": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "interval": pl.String,
    "k": pl.Int64,
    "n_items": pl.Int64,
    "seeds": pl.List(pl.Int32),
    "runs": pl.List(pl.String),
}
"""One row per (condition, level, benchmark, metric, optimiser step of the last stage)."""


def step_of(share: str, total: int) -> int:
    """Return the optimiser step after which the i-th of k evenly spaced models is kept: ceil(total x i / k)."""
    index, count = (int(n) for n in share.split("/"))
    return -(-total * index // count)


def progress_table(by_share: Mapping[str, pl.DataFrame], totals: Mapping[tuple[str, str], int]) -> pl.DataFrame:
    """Return PROGRESS rows.

    Args:
        by_share: "i/k" -> the RESULTS rows of the models kept there ("1/1" for the final ones).
        totals: (condition, level) -> optimiser steps of the last stage.
    """
    parts = []
    for share, results in by_share.items():
        for row in score_table(results).iter_rows(named=True):
            total = totals.get((row["condition"], row["level"]))
            if total is not None:
                parts.append({**{c: row.get(c) for c in PROGRESS}, "step": step_of(share, total)})
    frame = pl.DataFrame(parts, schema=PROGRESS, orient="row")
    return frame.sort("benchmark", "metric", "condition", "level", "step")


def progress_findings(table: pl.DataFrame) -> list[Finding]:
    """Return one curve per benchmark and metric."""
    found = []
    for (benchmark, metric), part in table.group_by("benchmark", "metric", maintain_order=True):
        found.append(
            Finding(
                id=f"progress/{benchmark}/{metric}",
                kind="curve",
                title=f"{metric} on {benchmark} during training",
                unit=str(metric),
                n_items=int(part["n_items"].max() or 0),
                seeds=tuple(sorted({s for seeds in part["seeds"] for s in seeds})),
                runs=tuple(sorted({r for runs in part["runs"] for r in runs})),
                data={"rows": part.drop("runs").to_dicts()},
            )
        )
    return found
