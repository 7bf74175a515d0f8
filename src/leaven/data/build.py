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
from leaven.core.tables import LEFT_OUT, ORDER, REALISED, REWEIGHED, read_table, write_table
from leaven.data.mixture import Draws
from leaven.data.order_tables import check_realised, order_lines, realised_mixture, report_counts, weighted
from leaven.data.reweigh import Reweighing, choose_left_out, load_reweighing
from leaven.data.rows import allowed, make_rows
from leaven.data.schedules import Weights
from leaven.data.tokenise import TokenTable, load_tokens
from leaven.data.walk import Batch, Budget, Walk
from leaven.errors import DataError, StudyError

UNITS = ("examples", "tokens", "learned_tokens")
BUDGETS = ("steps", "examples", "tokens", "learned_tokens", "epochs", "tokens_of")


@dataclass(frozen=True, slots=True)
class Order:
    """A compiled order: `table` (ORDER), `realised` (REALISED), the numbers of report.json and, where asked for,
    `reweighed` (REWEIGHED)."""

    table: pl.DataFrame
    realised: pl.DataFrame
    report: dict[str, Any]
    reweighed: pl.DataFrame | None = None


@step(version=1)
def build_order(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Compile one stage's order; write order.parquet, realised.parquet and report.json.

    `spec`: stage, seed, mixture {source: weight}, formats {source: format}, budget {one of BUDGETS: value}, and
    optionally unit, schedule {kind, options}, batch (rows per step) or batch_tokens, max_tokens, truncate, pack,
    repeat, only, exclude (ids, or source -> ids), leave_out (the fields of spec.data.LeaveOut, in place of exclude; writes
    left_out.parquet), reweigh (the fields of spec.data.Reweigh; writes reweighed.parquet).
    `inputs`: "<source>|<format>" -> tokenise folder for each source; optional "weights" (weights.parquet: [source,]
    example, weight), "plugin:..." (Python files that register schedules), "extends" (an order artifact that must come
    out as the beginning of this one), "tokens_of" (an order artifact whose total trained tokens are the budget when
    budget is {"tokens_of": ...}); with leave_out or reweigh "examples:<source>" (examples.parquet) for each source, and
    "left_out" and "influence" (files).

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
    spec = {**spec, "budget": budget}
    if spec.get("leave_out"):
        left_out = choose_left_out(spec, inputs)
        write_table(out / "left_out.parquet", left_out, LEFT_OUT)
        spec["exclude"] = {source: left_out.filter(source=source)["example"].to_list() for source in spec["mixture"]}
    order = compile_order(spec, tables, weights, ctx, load_reweighing(spec, inputs))
    if "extends" in inputs:
        _check_prefix(order.table, read_table(Path(inputs["extends"]) / "order.parquet", ORDER), str(inputs["extends"]))
    write_table(out / "order.parquet", order.table, ORDER)
    write_table(out / "realised.parquet", order.realised, REALISED)
    if order.reweighed is not None:
        write_table(out / "reweighed.parquet", order.reweighed, REWEIGHED)
    (out / "report.json").write_text(json.dumps(order.report, indent=1, sort_keys=True) + "\n")


def compile_order(
    spec: Mapping[str, Any],
    tables: Mapping[str, TokenTable],
    weights: pl.DataFrame | None = None,
    ctx: StepContext | None = None,
    reweighing: Reweighing | None = None,
) -> Order:
    """Return the order of one stage from a spec (see `build_order`) and one TokenTable per source; write no files."""
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
    batch = Batch(spec.get("batch") or None, fits, sizes("tokens") if fits else None)
    if batch.rows is None and batch.tokens is None:
        raise StudyError(
            "batch: expected the number of rows per step (batch) or of tokens (batch_tokens), found neither"
        )
    walk = Walk(moving, draws, Budget(measure, target, sizes(measure)), batch, sizes(unit))
    walk.run(ctx or StepContext())
    max_tokens, in_order = spec.get("max_tokens"), [rows[s] for s in moving.sources]
    lines = order_lines(stage, in_order, walk, spec.get("pack") or "none", max_tokens)
    lines = lines if weights is None else weighted(lines, weights)
    realised = realised_mixture(lines, unit, walk)
    largest = check_realised(realised, unit, max(int(r.size(unit).max()) for r in in_order))
    changes = None
    if reweighing is not None:  # after the check: what an intervention moves was never planned by the mixture
        changes = reweighing.apply(lines, rows, spec.get("pack") or "none", max_tokens)
        lines, realised = changes.lines, realised_mixture(changes.lines, unit, walk)
    report = {**report_counts(lines, realised, walk, unit, max_tokens), "largest_deviation": largest}
    if changes is not None:
        report["reweigh"] = changes.report
    return Order(lines.select(list(ORDER)), realised, report, changes.changes if changes else None)


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
        measure, value = "examples", math.floor(value * passes + 1e-6)
    if not value >= 1 or int(value) != value:
        raise StudyError(f"budget.{measure}: expected a whole number of at least 1, found {value!r}")
    return measure, int(value)


def _check_prefix(table: pl.DataFrame, earlier: pl.DataFrame, where: str) -> None:
    """Raise DataError unless `earlier` is exactly the beginning of `table`: training then goes on where it stopped."""
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
        "be constant, and the earlier budget must end with a full step"
    )
