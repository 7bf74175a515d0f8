"""Order tables of all runs -> how much each condition trained, and a warning where conditions did not train equally much.

Conditions are matched by whatever the study declares (steps, tokens ...); what they are *not* matched by is a rival explanation of any
difference, so it is computed from the tables and said. Not covered: which sources (REALISED, data/build.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.tables import ORDER, read_table
from leaven.core.types import Finding

UNITS = ("steps", "examples", "tokens", "learned_tokens")
TOLERANCE = 0.05
"""Conditions whose amounts differ by no more than this share count as matched."""


def amounts_finding(entries: Iterable[Mapping[str, Any]], inputs: Mapping[str, Path], level_of: Any) -> Finding:
    """Return a note whose data holds one row per (condition, level, stage): means over seeds of steps, examples, tokens, learned tokens.

    Args:
        entries: The runs' orders: condition, level, seed, input.
        inputs: Input name -> order folder; absent ones are left out.
        level_of: Returns the vary cell of an entry as text.
    """
    parts = []
    for entry in entries:
        name = str(entry.get("input"))
        if name in inputs and (inputs[name] / "order.parquet").is_file():
            parts.append(
                _amounts(read_table(inputs[name] / "order.parquet", ORDER)).with_columns(
                    condition=pl.lit(str(entry["condition"])),
                    level=pl.lit(level_of(entry)),
                    seed=pl.lit(int(entry["seed"])),
                )
            )
    if not parts:
        return Finding(id="note/amounts", kind="note", title="Amounts trained")
    means = (
        pl.concat(parts)
        .group_by("condition", "level", "stage", maintain_order=True)
        .agg(*(pl.col(u).mean().round().cast(pl.Int64) for u in UNITS), pl.col("seed").alias("seeds"))
    )
    return Finding(
        id="note/amounts",
        kind="note",
        title="Amounts trained",
        warnings=_imbalances(means),
        seeds=tuple(sorted({s for row in means["seeds"].to_list() for s in row})),
        data={"rows": means.to_dicts()},
    )


def _amounts(order: pl.DataFrame) -> pl.DataFrame:
    """Return one row per stage of an order table; slots of weight 0 count nothing."""
    return (
        order.filter(pl.col("weight") > 0)
        .group_by("stage", maintain_order=True)
        .agg(
            (pl.col("step").max() + 1).cast(pl.Int64).alias("steps"),
            pl.len().cast(pl.Int64).alias("examples"),
            pl.col("n_tokens").sum().cast(pl.Int64).alias("tokens"),
            pl.col("n_learned_tokens").sum().cast(pl.Int64).alias("learned_tokens"),
        )
    )


def _imbalances(means: pl.DataFrame) -> tuple[str, ...]:
    """Return one warning per stage in which conditions of one level differ in an amount by more than TOLERANCE."""
    found = []
    for (stage,), rows in means.group_by("stage", maintain_order=True):
        told = []
        for unit in UNITS:
            spread = rows.group_by("level").agg((pl.col(unit).max() / pl.col(unit).min()).alias("ratio"))["ratio"].max()
            if isinstance(spread, float) and spread > 1 + TOLERANCE:
                low, high = rows.sort(unit).row(0, named=True), rows.sort(unit).row(-1, named=True)
                told.append(
                    f"{unit.replace('_', ' ')} ({low['condition']} {low[unit]:,}, {high['condition']} {high[unit]:,})"
                )
        if told:
            found.append(f"imbalanced: in stage {stage} the conditions did not train equally many {', '.join(told)}")
    return tuple(found)
