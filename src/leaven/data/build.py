"""Mixture + schedule + budget + seed + tokenised sources -> the order table: the exact rows of every optimiser step.

Trainers only consume the table; resuming, pairing of conditions, leave-k-out, reweighting and "what was trained at
step 412" are questions put to it. With shares and budget in examples or steps the draw never looks at lengths, so
conditions that differ only in format hold the same examples in the same slots (rows that `truncate: drop` blanks keep
their slot with weight 0). The realised mixture is checked against the plan before the table is written (Ma et al.
2024 trained from shard files whose order their script had reversed; nothing compared it with the plan).
Not covered: cutting (rows.py), packing (packing.py), turning rows into arrays (lm/).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import ORDER, REALISED, read_table, write_table
from leaven.data.mixture import Draws
from leaven.data.packing import pack_steps
from leaven.data.rows import Rows, allowed, make_rows
from leaven.data.schedules import Weights
from leaven.data.tokenise import TokenTable, load_tokens
from leaven.data.walk import Batch, Budget, Walk
from leaven.errors import DataError, StudyError

UNITS = ("examples", "tokens", "learned_tokens")
BUDGETS = ("steps", "examples", "tokens", "learned_tokens", "epochs", "tokens_of")
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Order:
    """A compiled order: `table` (ORDER), `realised` (REALISED) and the numbers of report.json."""

    table: pl.DataFrame
    realised: pl.DataFrame
    report: dict[str, Any]


@step(version=1)
def build_order(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Compile one stage's order; write order.parquet, realised.parquet and report.json.

    `spec`: stage, seed, mixture {source: weight}, formats {source: format}, budget {one of BUDGETS: value}, and
    optionally unit, schedule {kind, options}, batch (rows per step) or batch_tokens, max_tokens, truncate, pack,
    repeat, only, exclude (ids, or source -> ids). `inputs`: "<source>|<format>" -> tokenise folder for each source;
    optional "weights" (weights.parquet: [source,] example, weight), "plugin:..." (Python files that register
    schedules), "extends" (an order artifact that must come out as the beginning of this one), "tokens_of" (an order
    artifact whose total trained tokens are the budget when budget is {"tokens_of": ...}).

    Raises:
        StudyError: a value of the spec is unknown or does not fit.
        DataError: a source is exhausted, rows are too long, the prefix differs, or the realised mixture misses the
            plan.
    """
    load_plugins(inputs)
    formats = spec.get("formats") or {}
    tables = {}
    for source in spec["mixture"]:
        name = f"{source}|{formats.get(source, 'auto')}"
        if name not in inputs:
            raise StudyError(f"build_order inputs: expected the tokenised source {name!r}, found {sorted(inputs)}")
        tables[source] = load_tokens(inputs[name])
    weights = pl.read_parquet(Path(inputs["weights"]) / "weights.parquet") if "weights" in inputs else None
    budget = dict(spec["budget"])
    if "tokens_of" in budget:
        other = read_table(Path(inputs["tokens_of"]) / "order.parquet", ORDER)
        budget = {"tokens": int(other.filter(pl.col("weight") > 0)["n_tokens"].sum())}
    order = compile_order({**spec, "budget": budget}, tables, weights, ctx)
    if "extends" in inputs:
        _check_prefix(order.table, read_table(Path(inputs["extends"]) / "order.parquet", ORDER), str(inputs["extends"]))
    write_table(out / "order.parquet", order.table, ORDER)
    write_table(out / "realised.parquet", order.realised, REALISED)
    (out / "report.json").write_text(json.dumps(order.report, indent=1, sort_keys=True) + "\n")


def compile_order(
    spec: Mapping[str, Any],
    tables: Mapping[str, TokenTable],
    weights: pl.DataFrame | None = None,
    ctx: StepContext | None = None,
) -> Order:
    """Return the order of one stage from a spec (see `build_order`) and one TokenTable per source; no files are
    written."""
    stage, seed, unit = str(spec["stage"]), int(spec["seed"]), spec.get("unit", "examples")
    if unit not in UNITS:
        raise StudyError(f"unit: expected one of {UNITS}, found {unit!r}")
    moving = Weights(spec["mixture"], spec.get("schedule"))
    rows = {s: make_rows(tables[s], spec.get("max_tokens"), spec.get("truncate") or "error") for s in moving.sources}
    filters = {s: allowed(rows[s], s, spec.get("only"), spec.get("exclude")) for s in moving.sources}
    draws = [Draws(seed, stage, s, allowed=filters[s], repeat=spec.get("repeat") or "error") for s in moving.sources]

    def sizes(measure: str) -> list[np.ndarray] | None:
        # shares, budgets and batches in examples or steps never look at lengths: that is what lets formats pair
        return None if measure in ("steps", "examples") else [rows[s].size(measure) for s in moving.sources]

    measure, target = _budget(spec, moving, draws, unit)
    fits = spec.get("batch_tokens")
    batch = Batch(
        None if fits and not spec.get("batch") else int(spec.get("batch") or 0) or None,
        fits,
        sizes("tokens") if fits else None,
    )
    if batch.rows is None and batch.tokens is None:
        raise StudyError(
            "batch: expected the number of rows per step (batch) or of tokens (batch_tokens), found neither"
        )
    walk = Walk(moving, draws, Budget(measure, target, sizes(measure)), batch, sizes(unit))
    walk.run(ctx or StepContext())
    table, drawn = _table(stage, moving.sources, draws, rows, walk, weights, spec)
    realised = _realised(stage, unit, moving.sources, drawn, rows, walk)
    largest = _check_realised(realised, unit, max(int(r.size(unit).max()) for r in rows.values()))
    return Order(table, realised, _report(table, drawn, rows, draws, spec, largest))


def _budget(spec: Mapping[str, Any], moving: Weights, draws: Sequence[Draws], unit: str) -> tuple[Any, int]:
    """Return (measure, target) of the budget; epochs become examples (the source needed most is passed that often)."""
    given = {k: v for k, v in spec["budget"].items() if v is not None}
    if len(given) != 1 or not set(given) <= {*BUDGETS} - {"tokens_of"}:
        raise StudyError(f"budget: expected exactly one of {BUDGETS}, found {given}")
    ((measure, value),) = given.items()
    if measure == "epochs":
        if unit != "examples" and len(draws) > 1:
            raise StudyError(
                f"budget.epochs: expected unit: examples, found {unit!r} with {len(draws)} sources; "
                "give the budget in tokens"
            )
        passes = min(d.size / share for d, share in zip(draws, moving.share, strict=True) if share > 0)
        measure, value = "examples", math.floor(value * passes + _TOLERANCE)
    if not value >= 1 or int(value) != value:
        raise StudyError(f"budget.{measure}: expected a whole number of at least 1, found {value!r}")
    return measure, int(value)


def _table(
    stage: str,
    sources: Sequence[str],
    draws: Sequence[Draws],
    rows: Mapping[str, Rows],
    walk: Walk,
    weights: pl.DataFrame | None,
    spec: Mapping[str, Any],
) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """Return the ORDER table and, parallel to its lines, arrays `source`, `row` and `step`."""
    counts = np.array(walk.counts, dtype=np.int64).reshape(-1, len(sources))
    n_steps = len(counts)
    steps = np.concatenate([np.repeat(np.arange(n_steps), counts[:, s]) for s in range(len(sources))])
    source = np.repeat(np.arange(len(sources)), counts.sum(axis=0))
    row = np.concatenate([d.rows() for d in draws])
    order = np.argsort(steps, kind="stable")
    steps, source, row = steps[order], source[order], row[order]
    per_step = counts.sum(axis=1)
    slot = np.arange(len(steps)) - np.repeat(np.cumsum(per_step) - per_step, per_step)

    def gather(column: str, dtype: Any) -> np.ndarray:
        result = np.empty(len(steps), dtype=dtype)
        for i, name in enumerate(sources):
            here = source == i
            result[here] = getattr(rows[name], column)[row[here]]
        return result

    n_tokens, kept = gather("n", np.int64), gather("kept", bool)
    pack = slot
    match spec.get("pack") or "none":
        case "best_fit":
            if not spec.get("max_tokens"):
                raise StudyError("pack: best_fit needs max_tokens, the length of a packed row; found none")
            pack = pack_steps(steps, n_tokens, int(spec["max_tokens"]))
        case "none":
            pass
        case other:
            raise StudyError(f"pack: expected none or best_fit, found {other!r}")
    names, formats = np.array(sources, dtype=object), np.array([rows[s].format for s in sources], dtype=object)
    table = pl.DataFrame(
        {
            "stage": pl.repeat(stage, len(steps), dtype=pl.String, eager=True),
            "step": steps,
            "slot": slot,
            "source": pl.Series(names[source], dtype=pl.String),
            "example": pl.Series(gather("ids", object), dtype=pl.String),
            "format": pl.Series(formats[source], dtype=pl.String),
            "weight": np.where(kept, 1.0, 0.0),
            "start_token": gather("start", np.int64),
            "n_tokens": n_tokens,
            "n_learned_tokens": gather("n_learned", np.int64),
            "pack": pack,
        }
    )
    table = table.select([pl.col(c).cast(t) for c, t in ORDER.items()])
    return (table if weights is None else _weighted(table, weights)), {"source": source, "row": row, "step": steps}


def _weighted(table: pl.DataFrame, weights: pl.DataFrame) -> pl.DataFrame:
    """Multiply slot weights by a table (example, weight) or (source, example, weight); examples it lacks keep
    theirs."""
    keys = [k for k in ("source", "example") if k in weights.columns]
    bad = (
        weights.filter(~pl.col("weight").is_finite() | (pl.col("weight") < 0))
        if "weight" in weights.columns
        else weights
    )
    if "example" not in keys or len(bad) or weights.select(keys).is_duplicated().any():
        raise DataError(
            f"weights.parquet: expected columns [source,] example, weight with one finite weight >= 0 per example; "
            f"found columns {weights.columns}, bad rows {bad.head(3).rows()}"
        )
    joined = table.join(
        weights.select(*keys, pl.col("weight").cast(pl.Float32).alias("factor")),
        on=keys,
        how="left",
        maintain_order="left",
    )
    return joined.with_columns(pl.col("weight") * pl.col("factor").fill_null(1.0)).drop("factor")


def _realised(
    stage: str, unit: str, sources: Sequence[str], drawn: Mapping[str, np.ndarray], rows: Mapping[str, Rows], walk: Walk
) -> pl.DataFrame:
    """Return the REALISED table: it is counted from the drawn slots, not from the counts that were asked for."""
    n_steps, k = len(walk.counts), len(sources)
    amount = np.empty(len(drawn["row"]), dtype=np.float64)
    for i, name in enumerate(sources):
        here = drawn["source"] == i
        amount[here] = rows[name].size(unit)[drawn["row"][here]]
    found = np.bincount(drawn["step"] * k + drawn["source"], weights=amount, minlength=n_steps * k).reshape(n_steps, k)
    planned = np.array(walk.weights).reshape(n_steps, k) * found.sum(axis=1, keepdims=True)
    return pl.DataFrame(
        {
            "stage": [stage] * (n_steps * k),
            "block": np.repeat(np.arange(n_steps), k),
            "source": list(sources) * n_steps,
            "planned": planned.ravel(),
            "realised": found.ravel(),
            "unit": [unit] * (n_steps * k),
        },
        schema_overrides={"block": pl.Int32},
    )


def _check_realised(realised: pl.DataFrame, unit: str, largest_row: int) -> dict[str, float]:
    """Return the largest deviations from the plan; raise DataError when one is not within one example (or one row's
    tokens)."""
    off = realised.with_columns(off=pl.col("realised") - pl.col("planned"))
    off = off.with_columns(running=pl.col("off").cum_sum().over("source"))
    allowed_off, column = (1.0, "off") if unit == "examples" else (float(largest_row), "running")
    worst = off.row(int(off[column].abs().arg_max() or 0), named=True)
    if abs(worst[column]) >= allowed_off + _TOLERANCE:
        raise DataError(
            f"the realised mixture misses the plan: source {worst['source']!r} is off by {worst[column]:.3f} {unit} "
            f"at step {worst['block']} (allowed: {allowed_off:g}). This is a defect of the order builder, not of the "
            "study; please report it"
        )
    return {"block": float(off["off"].abs().max() or 0.0), "running": float(off["running"].abs().max() or 0.0)}


def _report(
    table: pl.DataFrame,
    drawn: Mapping[str, np.ndarray],
    rows: Mapping[str, Rows],
    draws: Sequence[Draws],
    spec: Mapping[str, Any],
    largest: Mapping[str, float],
) -> dict[str, Any]:
    """Return the counts of report.json; tokens are those of slots with weight > 0 (what is trained)."""
    lines = table.with_columns(
        **{c: pl.Series(_per_line(c, drawn, rows, draws), dtype=pl.Int64) for c in ("cut_thought", "cut_code")},
        dropped=pl.Series(_per_line("kept", drawn, rows, draws) == 0),
    )
    live = pl.col("weight") > 0
    counts = [
        pl.len().alias("examples"),
        pl.struct("source", "example").n_unique().alias("distinct_examples"),
        pl.struct("source", "example", "start_token").n_unique().alias("distinct_rows"),
        (pl.col("n_tokens") * live).sum().cast(pl.Int64).alias("tokens"),
        (pl.col("n_learned_tokens") * live).sum().cast(pl.Int64).alias("learned_tokens"),
        pl.col("cut_thought").sum().alias("cut_thought_tokens"),
        pl.col("cut_code").sum().alias("cut_code_tokens"),
        ((pl.col("cut_thought") + pl.col("cut_code")) > 0).sum().alias("cut_examples"),
        pl.col("dropped").sum().alias("dropped"),
        (live & (pl.col("n_learned_tokens") == 0)).sum().alias("without_learned_tokens"),
    ]
    total = lines.select(counts).row(0, named=True)
    by_source = {r.pop("source"): r for r in lines.group_by("source").agg(counts).sort("source").iter_rows(named=True)}
    for draw in draws:
        by_source.setdefault(draw.source, {"examples": 0})["available"] = draw.size
    for row in (total, *by_source.values()):
        row["repeats"] = row["examples"] - row.get("distinct_rows", 0)
    packs = table.select(pl.struct("step", "pack").n_unique()).item()
    report = {
        **total,
        "steps": int(table["step"].max()) + 1,
        "unit": spec.get("unit", "examples"),
        "packed_rows": packs,
        "largest_deviation": dict(largest),
        "sources": by_source,
    }
    if spec.get("max_tokens"):
        report["row_fill"] = float(table["n_tokens"].sum()) / (packs * int(spec["max_tokens"]))
    return report


def _per_line(
    column: str, drawn: Mapping[str, np.ndarray], rows: Mapping[str, Rows], draws: Sequence[Draws]
) -> np.ndarray:
    """Return a column of Rows for every slot: int64[slots]."""
    result = np.empty(len(drawn["row"]), dtype=np.int64)
    for i, draw in enumerate(draws):
        here = drawn["source"] == i
        result[here] = getattr(rows[draw.source], column)[drawn["row"][here]]
    return result


def _check_prefix(table: pl.DataFrame, earlier: pl.DataFrame, where: str) -> None:
    """Raise DataError unless `earlier` is exactly the beginning of `table` (training can then go on where it
    stopped)."""
    head, n = table.head(earlier.height), earlier.height
    if head.height == n and head.equals(earlier.select(table.columns)):
        return
    if head.height < n:
        raise DataError(
            f"extends: expected an order longer than the {n} slots of {where}, found {head.height}; raise the budget"
        )
    different = np.flatnonzero(
        (head != earlier.select(table.columns)).select(pl.any_horizontal(pl.all())).to_series().to_numpy()
    )
    line = int(different[0])
    raise DataError(
        f"extends: expected the {n} slots of {where} as the beginning of this order, found a difference at "
        f"line {line}: {earlier.row(line)} there, {head.row(line)} here. Only the budget may differ, the schedule must "
        "be constant, and "
        "the earlier budget must end with a full step"
    )
