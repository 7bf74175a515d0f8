"""Finished walk + rows -> the order table, the realised mixture checked against the plan, and the counts of a report.

The realised mixture is counted from the lines of the table itself, not from what the walk meant to do: a mistake
anywhere between plan and table is found here, before anything is trained.
Not covered: how steps are filled (walk.py), files (build.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from leaven.core.tables import ORDER, REALISED
from leaven.data.packing import pack_steps
from leaven.data.rows import Rows
from leaven.data.walk import Walk
from leaven.errors import DataError, StudyError

_TOLERANCE = 1e-6


def order_lines(stage: str, rows: Sequence[Rows], walk: Walk, pack: str, max_tokens: int | None) -> pl.DataFrame:
    """Return one line per slot: the columns of ORDER plus `kept`, `cut_thought` and `cut_code`.

    Lines are sorted by step; within a step by source, then by draw. `rows` are in the order of the walk's sources.
    """
    sources = walk.moving.sources
    counts = np.array(walk.counts, dtype=np.int64).reshape(-1, len(sources))
    step = np.concatenate([np.repeat(np.arange(len(counts)), column) for column in counts.T])
    source = np.repeat(np.arange(len(sources)), counts.sum(axis=0))
    row = np.concatenate([draw.rows() for draw in walk.draws])
    order = np.argsort(step, kind="stable")
    step, source, row = step[order], source[order], row[order]
    per_step = counts.sum(axis=1)
    slot = np.arange(len(step)) - np.repeat(np.cumsum(per_step) - per_step, per_step)

    def gather(column: str, dtype: Any = np.int64) -> np.ndarray:
        result = np.empty(len(step), dtype=dtype)
        for i, some in enumerate(rows):
            here = source == i
            result[here] = getattr(some, column)[row[here]]
        return result

    kept, n_tokens = gather("kept", bool), gather("n")
    names, formats = np.array(sources, dtype=object), np.array([r.format for r in rows], dtype=object)
    lines = pl.DataFrame(
        {
            "stage": pl.repeat(stage, len(step), dtype=pl.String, eager=True),
            "step": step,
            "slot": slot,
            "source": pl.Series(names[source], dtype=pl.String),
            "example": pl.Series(gather("ids", object), dtype=pl.String),
            "format": pl.Series(formats[source], dtype=pl.String),
            "weight": kept.astype(np.float32),
            "start_token": gather("start"),
            "n_tokens": n_tokens,
            "n_learned_tokens": gather("n_learned"),
            "pack": _packs(pack, step, slot, n_tokens, max_tokens),
            "kept": kept,
            "cut_thought": gather("cut_thought"),
            "cut_code": gather("cut_code"),
        }
    )
    return lines.with_columns(pl.col(c).cast(t) for c, t in ORDER.items())


def _packs(pack: str, step: np.ndarray, slot: np.ndarray, n_tokens: np.ndarray, max_tokens: int | None) -> np.ndarray:
    match pack:
        case "none":
            return slot
        case "best_fit" if max_tokens:
            return pack_steps(step, n_tokens, max_tokens)
        case "best_fit":
            raise StudyError("pack: best_fit needs max_tokens, the length of a packed row; found none")
    raise StudyError(f"pack: expected none or best_fit, found {pack!r}")


def weighted(lines: pl.DataFrame, weights: pl.DataFrame) -> pl.DataFrame:
    """Multiply slot weights by a table ([source,] example, weight); examples that it lacks keep theirs."""
    keys = [k for k in ("source", "example") if k in weights.columns]
    fits = "example" in keys and "weight" in weights.columns and not weights.select(keys).is_duplicated().any()
    bad = weights.filter(~pl.col("weight").is_finite() | (pl.col("weight") < 0)) if fits else weights
    if len(bad):
        raise DataError(
            "weights.parquet: expected columns [source,] example, weight with one finite weight >= 0 per example; "
            f"found columns {weights.columns}, bad rows {bad.head(3).rows()}"
        )
    factors = weights.select(*keys, pl.col("weight").cast(pl.Float32).alias("factor"))
    joined = lines.join(factors, on=keys, how="left", maintain_order="left")
    return joined.with_columns(pl.col("weight") * pl.col("factor").fill_null(1.0)).drop("factor")


def realised_mixture(lines: pl.DataFrame, unit: str, walk: Walk) -> pl.DataFrame:
    """Return the REALISED table of finished lines; dropped rows count as an example but not as tokens."""
    sources = walk.moving.sources
    amounts = {"examples": pl.len(), "tokens": pl.col("n_tokens"), "learned_tokens": pl.col("n_learned_tokens")}
    amount = amounts[unit] if unit == "examples" else (amounts[unit] * pl.col("kept")).sum()
    found = lines.group_by("step", "source").agg(realised=amount.cast(pl.Float64))
    n_steps = len(walk.counts)
    plan = pl.DataFrame(
        {
            "stage": pl.repeat(lines["stage"][0], n_steps * len(sources), eager=True),
            "step": np.repeat(np.arange(n_steps, dtype=np.int32), len(sources)),
            "source": list(sources) * n_steps,
            "weight": np.array(walk.weights).reshape(-1),
            "unit": pl.repeat(unit, n_steps * len(sources), eager=True),
        }
    )
    joined = plan.join(found, on=["step", "source"], how="left", maintain_order="left")
    joined = joined.with_columns(pl.col("realised").fill_null(0.0)).with_columns(
        planned=pl.col("weight") * pl.col("realised").sum().over("step"), block=pl.col("step")
    )
    return joined.select(pl.col(c).cast(t) for c, t in REALISED.items())


def check_realised(realised: pl.DataFrame, unit: str, largest_row: int) -> dict[str, float]:
    """Return the largest deviations from the plan, within a step (`block`) and of running totals (`running`).

    Raises:
        DataError: some step is off by one example or more, or (unit tokens) running totals by more than one row.
    """
    off = realised.with_columns(off=pl.col("realised") - pl.col("planned"))
    off = off.with_columns(running=pl.col("off").cum_sum().over("source"))
    most, column = (1.0, "off") if unit == "examples" else (float(largest_row), "running")
    worst = off.row(int(off[column].abs().arg_max() or 0), named=True)
    if abs(worst[column]) >= most + _TOLERANCE:
        raise DataError(
            f"the realised mixture misses the plan: source {worst['source']!r} is off by {worst[column]:.3f} {unit} "
            f"at step {worst['block']} (allowed: {most:g}). This is a defect of the order builder, not of the "
            "study; please report it"
        )
    return {"block": float(off["off"].abs().max() or 0.0), "running": float(off["running"].abs().max() or 0.0)}


def report_counts(
    lines: pl.DataFrame, realised: pl.DataFrame, walk: Walk, unit: str, max_tokens: int | None
) -> dict[str, Any]:
    """Return the counts of report.json; tokens are those of slots with weight > 0 (what is trained)."""
    live = pl.col("weight") > 0
    cut = pl.col("cut_thought") + pl.col("cut_code")
    counts = [
        pl.len().alias("examples"),
        pl.struct("source", "example").n_unique().alias("distinct_examples"),
        (pl.len() - pl.struct("source", "example", "start_token").n_unique()).alias("repeats"),
        (pl.col("n_tokens") * live).sum().cast(pl.Int64).alias("tokens"),
        (pl.col("n_learned_tokens") * live).sum().cast(pl.Int64).alias("learned_tokens"),
        pl.col("cut_thought").sum().alias("cut_thought_tokens"),
        pl.col("cut_code").sum().alias("cut_code_tokens"),
        (cut > 0).sum().alias("cut_examples"),
        (~pl.col("kept")).sum().alias("dropped"),
        (live & (pl.col("n_learned_tokens") == 0)).sum().alias("without_learned_tokens"),
    ]
    found: dict[str, Mapping[str, Any]] = {
        row.pop("source"): row for row in lines.group_by("source").agg(counts).iter_rows(named=True)
    }
    totals = dict(realised.group_by("source").agg(pl.col("realised").sum()).iter_rows())
    by_source = {
        draw.source: {
            **found.get(draw.source, {"examples": 0}),
            "available": draw.size,
            "requested_share": round(float(share), 9),
            "realised_share": round(totals[draw.source] / max(1.0, sum(totals.values())), 9),
        }
        for draw, share in zip(walk.draws, walk.moving.share, strict=True)
    }
    packed = lines.select(pl.struct("step", "pack").n_unique()).item()
    report = {**lines.select(counts).row(0, named=True), "steps": len(walk.counts), "unit": unit}
    if max_tokens:
        report["row_fill"] = float(lines["n_tokens"].sum()) / (packed * max_tokens)
    return {**report, "packed_rows": packed, "sources": by_source}
