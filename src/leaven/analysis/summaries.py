"""Score tables, learning curves and realised mixtures -> the findings that describe rather than compare.
Not covered: contrasts and the answer (findings.py), computing the means (scores.py).
"""

from __future__ import annotations

import polars as pl

from leaven.analysis.levels import at_level
from leaven.analysis.results import mean_curve
from leaven.core.types import Finding


def score_findings(scores: pl.DataFrame) -> list[Finding]:
    """Return a finding per condition's overall score and one table per benchmark and metric by difficulty."""
    out = []
    overall = scores.filter(pl.col("seed").is_null() & pl.col("difficulty").is_null() & pl.col("seen").is_null())
    for row in overall.iter_rows(named=True):
        name = f"{row['condition']}/{row['benchmark']}/{row['metric']}{at_level(row['level'])}"
        warnings = (
            (f"{row['n_not_measured']} items were not measured and are left out",) if row["n_not_measured"] else ()
        )
        if row["n_distinct"] < row["n_items"]:
            warnings += (f"{row['n_items']} items, but only {row['n_distinct']} differ in their text",)
        out.append(
            Finding(
                id=f"score/{name}",
                kind="score",
                title=f"{row['metric']} of {row['condition']} on {row['benchmark']}{at_level(row['level'])}",
                estimate=row["mean"],
                low=row["low"],
                high=row["high"],
                unit=row["metric"],
                n_items=row["n_items"],
                n_clusters=row["n_clusters"],
                seeds=tuple(row["seeds"]),
                warnings=warnings,
                runs=tuple(row["runs"]),
                data={
                    k: row[k]
                    for k in (
                        "condition",
                        "level",
                        "benchmark",
                        "metric",
                        "interval",
                        "sd_seeds",
                        "k",
                        "n",
                        "n_distinct",
                    )
                },
            )
        )
    deep = scores.filter(pl.col("seed").is_null() & pl.col("difficulty").is_not_null())
    for (benchmark, metric), part in deep.group_by("benchmark", "metric", maintain_order=True):
        rows = part.select(
            "condition",
            "level",
            "difficulty",
            "seen",
            "mean",
            "low",
            "high",
            "n_items",
            "n_distinct",
            "k",
            "n",
            "seeds",
        )
        out.append(
            Finding(
                id=f"difficulty/{benchmark}/{metric}",
                kind="table",
                title=f"{metric} on {benchmark} by difficulty",
                unit=str(metric),
                runs=tuple(sorted({r for runs in part["runs"] for r in runs})),
                data={"rows": rows.to_dicts()},
            )
        )
    return out


def curve_findings(curves: pl.DataFrame) -> list[Finding]:
    """Return one finding per stage with the loss at its last step per condition and level."""
    if curves.is_empty():
        return []
    mean = mean_curve(curves)
    out = []
    for (stage,), part in mean.group_by("stage", maintain_order=True):
        last = part.sort("step").group_by("condition", "level", maintain_order=True).last()
        out.append(
            Finding(
                id=f"curve/{stage}",
                kind="curve",
                title=f"Training loss of stage {stage}",
                unit="nats per learned token",
                data={"last": last.sort("condition", "level").to_dicts()},
            )
        )
    return out


def mixture_findings(realised: pl.DataFrame) -> list[Finding]:
    """Return one table finding: planned and realised amounts per condition, stage and source, and the largest
    deviation in one block."""
    if realised.is_empty():
        return []
    keys = ["condition", "level", "stage", "source", "unit"]
    per_seed = (
        realised.sort("seed", "block")
        .group_by(*keys, "seed", maintain_order=True)
        .agg(
            pl.col("planned").sum(),
            pl.col("realised").sum(),
            (pl.col("realised") - pl.col("planned")).abs().max().alias("worst_block"),
        )
    )
    table = (
        per_seed.group_by(keys, maintain_order=True)
        .agg(pl.col("planned").mean(), pl.col("realised").mean(), pl.col("worst_block").max())
        .sort(keys)
    )
    return [Finding(id="mixture", kind="table", title="Planned and realised mixtures", data={"rows": table.to_dicts()})]
