"""The schema of every table leaven writes, and the two functions that write and read them as Parquet.

Rows are plain data; a table's identity is the digest of its rows (hashing.py). A column added here shows up in docs/artifacts.md.
Not covered: JSON lines that people bring or take away (data/sources, export).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.types import Example, Item, Sample, Turn, Verdict
from leaven.errors import DataError

Schema = dict[str, Any]

EXAMPLES: Schema = {
    "id": pl.String,
    "source": pl.String,
    "question": pl.String,
    "thought": pl.String,
    "code": pl.String,
    "answer": pl.String,
    "text": pl.String,
    "turns": pl.String,
    "tests": pl.List(pl.String),
    "entry_point": pl.String,
    "domain": pl.String,
    "family": pl.String,
    "difficulty": pl.Int32,
    "difficulty_unit": pl.String,
    "group": pl.String,
    "licence": pl.String,
    "meta": pl.String,
}
"""Unformatted examples; `turns` and `meta` are JSON text."""

ITEMS: Schema = {"item": pl.String, "benchmark": pl.String, "cluster": pl.String, "seen": pl.Boolean, **EXAMPLES}
"""Benchmark items: an example plus its benchmark, cluster and whether training may contain it."""

LENGTHS: Schema = {
    "source": pl.String,
    "example": pl.String,
    "format": pl.String,
    "n_tokens": pl.Int32,
    "n_learned_tokens": pl.Int32,
    "n_thought_tokens": pl.Int32,
    "n_code_tokens": pl.Int32,
    "offset": pl.Int64,
}
"""One row per tokenised (example, format); `offset` is its first position in the flat token arrays beside the table."""

SEGMENTS: Schema = {
    "example": pl.String,
    "segment": pl.Int32,
    "kind": pl.String,
    "part": pl.String,
    "turn": pl.Int32,
    "tags": pl.List(pl.String),
    "start": pl.Int32,
    "end": pl.Int32,
}
"""One row per segment of a tokenised example; `start` and `end` count tokens from the beginning of the example."""

ORDER: Schema = {
    "stage": pl.String,
    "step": pl.Int32,
    "slot": pl.Int32,
    "source": pl.String,
    "example": pl.String,
    "format": pl.String,
    "weight": pl.Float32,
    "start_token": pl.Int32,
    "n_tokens": pl.Int32,
    "n_learned_tokens": pl.Int32,
    "pack": pl.Int32,
}
"""One row per training slot. Slots with the same (step, pack) share one packed row with attention reset."""

REALISED: Schema = {
    "stage": pl.String,
    "block": pl.Int32,
    "source": pl.String,
    "planned": pl.Float64,
    "realised": pl.Float64,
    "unit": pl.String,
}
"""One row per (optimiser step, source): what the schedule asked of that step and what its slots hold, in `unit`."""

CURVE: Schema = {
    "stage": pl.String,
    "step": pl.Int32,
    "loss": pl.Float64,
    "learning_rate": pl.Float64,
    "gradient_norm": pl.Float64,
    "n_tokens": pl.Int64,
    "n_learned_tokens": pl.Int64,
    "n_examples": pl.Int64,
}
"""One row per optimiser step; loss in nats per learned token (weighted mean); token counts are cumulative."""

SAMPLES: Schema = {
    "item": pl.String,
    "request": pl.Int32,
    "index": pl.Int32,
    "text": pl.String,
    "finish": pl.String,
    "logprob_nats": pl.Float64,
    "n_tokens": pl.Int32,
}
"""One row per model output: the text of a generation, or the log-likelihood of a scored text (`n_tokens` counts either)."""

VERDICTS: Schema = {
    "benchmark": pl.String,
    "item": pl.String,
    "index": pl.Int32,
    "metric": pl.String,
    "status": pl.String,
    "score": pl.Float64,
    "extracted": pl.String,
    "strategy": pl.String,
    "raw": pl.String,
    "detail": pl.String,
    "tier": pl.String,
}
"""One row per (item, sample, metric). `score` is null only when the item was not measured."""

RESULTS: Schema = {
    "study": pl.String,
    "condition": pl.String,
    "level": pl.String,
    "seed": pl.Int32,
    "benchmark": pl.String,
    "metric": pl.String,
    "item": pl.String,
    "cluster": pl.String,
    "difficulty": pl.Int32,
    "seen": pl.Boolean,
    "index": pl.Int32,
    "status": pl.String,
    "score": pl.Float64,
    "run": pl.String,
}
"""The long table that analysis reads: verdicts joined with where they came from; `level` is the canonical JSON of the vary cell."""

INFLUENCE: Schema = {
    "model": pl.String,
    "step": pl.Int32,
    "method": pl.String,
    "query": pl.String,
    "source": pl.String,
    "example": pl.String,
    "format": pl.String,
    "window": pl.Int32,
    "level": pl.String,
    "decomposition": pl.String,
    "segment": pl.Int32,
    "token": pl.Int32,
    "n_learned_tokens": pl.Int32,
    "score": pl.Float64,
}
"""One row per (query, training text) and, where asked for, per segment and token of it: nats of the target per removed text, positive =
helpful (baselines have units of their own, higher = more helpful). `level` is instance, segment or token; `decomposition` says how a
finer level was split (position, loss, leave_out); `window` is the first token of the example that was trained on."""

PROBE_VALUES: Schema = {
    "example": pl.String,
    "part": pl.String,
    "other": pl.String,
    "layer": pl.Int32,
    "name": pl.String,
    "value": pl.Float64,
    "n_tokens": pl.Int32,
}
"""One number a probe saw in one example (`example` is empty where all examples are taken together). `part` is the stretch of
the text it speaks of (thought, code, prompt, response = everything learned), `other` what that was related to (what it was
conditioned on, looked at or compared with), `layer` counts from 0 (-1: the whole model), `name` is the statistic or module."""

PROBE_GRID: Schema = {
    "layer": pl.Int32,
    "row": pl.Int32,
    "col": pl.Int32,
    "value": pl.Float64,
    "n": pl.Int32,
}
"""Attention maps of `n` examples, head mean, each resized to one fixed grid, averaged: who looks (`row`) at what (`col`)."""

PERTURBED: Schema = {
    "example": pl.String,
    "operation": pl.String,
    "outcome": pl.String,
    "reason": pl.String,
    "status_before": pl.String,
    "status_after": pl.String,
    "edits": pl.Int32,
    "sites": pl.Int32,
}
"""One row per (operation, example): `outcome` is changed, unchanged, skipped (it does not apply) or refused (execution disproved it; the
original is kept), the verdicts are those of the example's tests before and after (empty where nothing ran), and `edits` of `sites`
places were changed."""

FUNNEL: Schema = {
    "source": pl.String,
    "total": pl.Int64,
    "filtered": pl.Int64,
    "asked": pl.Int64,
    "answered": pl.Int64,
    "parsed": pl.Int64,
    "consistent": pl.Int64,
    "inconsistent": pl.Int64,
    "unjudged": pl.Int64,
    "ratio_percent": pl.Float64,
    "yield_percent": pl.Float64,
}
"""One row per seed source of a synthesis and their sum: candidates read, kept by the seed filter, put to the teacher, answered, well
formed, then consistent or not; `ratio_percent` is consistent of total (null where not all kept seeds were asked about),
`yield_percent` consistent of asked."""

LABELS: Schema = {
    "source": pl.String,
    "example": pl.String,
    "domain": pl.String,
    "language": pl.String,
    "family": pl.String,
    "difficulty": pl.Int32,
    "difficulty_unit": pl.String,
    "relative_difficulty": pl.Float64,
    "symbolic": pl.Float64,
    "reason": pl.String,
}
"""One row per example of a labelled source: `difficulty` is a whole number on the scale `difficulty_unit`, `relative_difficulty` the same
from 0 (easiest) to 1 (hardest), `reason` why there is none, and `symbolic` the share of the question that is formulas and variables."""

REWEIGHED: Schema = {
    "cell": pl.String,
    "group": pl.String,
    "slots_before": pl.Int64,
    "slots_after": pl.Int64,
    "weight_before": pl.Float64,
    "weight_after": pl.Float64,
    "tokens_before": pl.Int64,
    "tokens_after": pl.Int64,
    "token_weight_before": pl.Float64,
    "token_weight_after": pl.Float64,
    "target": pl.Float64,
    "changed": pl.Int64,
}
"""One row per group of a reweighed order; mass moves inside a `cell` (a source, or a domain). Before and after: slots, the sum of their
weights, their learned tokens, and those times the weights; `target` is what the intervention asks for (slots; weight; or tokens times
weight), and `changed` counts the slots of the group that gave way or changed weight (the control has the same targets, and misses them)."""

LEFT_OUT: Schema = {"source": pl.String, "example": pl.String, "score": pl.Float64}
"""One row per example that a stage leaves out of its sources; `score` is its influence, where that chose it."""

RETRAINED: Schema = {
    "copy": pl.Int32,
    "seed": pl.Int32,
    "step": pl.Int32,
    "query": pl.String,
    "value": pl.Float64,
    "n_left_out": pl.Int32,
}
"""One row per retrained copy, measuring point and query: `value` is the query's mean log-likelihood in nats after `step` optimiser steps;
copy 0 has nothing left out."""

SUBSETS: Schema = {"copy": pl.Int32, "group": pl.String, "source": pl.String, "example": pl.String}
"""One row per example that a copy leaves out (its slots have weight 0); `group` says why: the number of a random subset, a value of a
column, or what chose the top."""

OUTCOMES: Schema = {"query": pl.String, "item": pl.String, "value": pl.Float64}
"""One row per target text: its log-likelihood under a model in nats, reduced over tokens as the attribution's target is."""

TIMINGS: Schema = {"name": pl.String, "wall_s": pl.Float64, "cpu_s": pl.Float64, "detail": pl.String}
"""Never part of an identity; always stored in files called timings.*"""


def write_table(path: Path, rows: pl.DataFrame | Iterable[Mapping[str, Any]], schema: Schema) -> None:
    """Write rows as Parquet under `schema`, through a temporary name so that a kill leaves no half file.

    Raises DataError when a row lacks a column or a value does not fit its type.
    """
    if isinstance(rows, pl.DataFrame):
        missing = [c for c in schema if c not in rows.columns]
        if missing:
            raise DataError(f"{path}: expected columns {list(schema)}, missing {missing}")
        frame = rows.select([pl.col(c).cast(t) for c, t in schema.items()])
    else:
        try:
            frame = pl.DataFrame([dict(r) for r in rows], schema=schema, strict=True, orient="row")
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise DataError(f"{path}: a row does not fit the schema {list(schema)}: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    frame.write_parquet(part, compression="zstd", statistics=False)
    os.replace(part, path)


def read_table(path: Path, schema: Schema | None = None) -> pl.DataFrame:
    """Read a Parquet table; raise DataError when it is absent, unreadable or lacks a column of `schema`."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: expected a Parquet table, {type(error).__name__}: {error}") from error
    missing = [c for c in schema or {} if c not in frame.columns]
    if missing:
        raise DataError(f"{path}: expected columns {list(schema or {})}, missing {missing}")
    return frame


def example_row(example: Example) -> dict[str, Any]:
    """Return an Example as a row of EXAMPLES."""
    row = {f.name: getattr(example, f.name) for f in dataclasses.fields(example)}
    row["turns"] = (
        json.dumps([{"role": t.role, "content": t.content} for t in example.turns], ensure_ascii=False)
        if example.turns
        else ""
    )
    row["tests"] = list(example.tests)
    row["meta"] = json.dumps(example.meta, sort_keys=True, ensure_ascii=False) if example.meta else ""
    return row


def example_from_row(row: Mapping[str, Any]) -> Example:
    """Return the Example of a row of EXAMPLES (extra columns are ignored)."""
    values = {f.name: row[f.name] for f in dataclasses.fields(Example)}
    values["turns"] = tuple(Turn(**t) for t in json.loads(row["turns"])) if row["turns"] else ()
    values["tests"] = tuple(row["tests"] or ())
    values["meta"] = json.loads(row["meta"]) if row["meta"] else {}
    return Example(**values)


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as an EXAMPLES table."""
    write_table(path, (example_row(e) for e in examples), EXAMPLES)


def read_examples(path: Path) -> Iterator[Example]:
    """Yield the examples of an EXAMPLES table in row order."""
    for row in read_table(path, EXAMPLES).iter_rows(named=True):
        yield example_from_row(row)


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write benchmark items as an ITEMS table."""
    write_table(
        path,
        (
            {
                "item": i.id,
                "benchmark": i.benchmark,
                "cluster": i.cluster or i.id,
                "seen": i.seen,
                **example_row(i.example),
            }
            for i in items
        ),
        ITEMS,
    )


def read_items(path: Path) -> Iterator[Item]:
    """Yield the items of an ITEMS table in row order."""
    for row in read_table(path, ITEMS).iter_rows(named=True):
        yield Item(
            id=row["item"],
            benchmark=row["benchmark"],
            cluster=row["cluster"],
            seen=row["seen"],
            example=example_from_row(row),
        )


def read_held_out(folder: Path) -> Iterator[Example]:
    """Yield the examples of a folder with examples.parquet, or the items of one with items.parquet under their item ids."""
    if (folder / "items.parquet").is_file():
        for item in read_items(folder / "items.parquet"):
            yield dataclasses.replace(item.example, id=item.id)
    else:
        yield from read_examples(folder / "examples.parquet")


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write model outputs as a SAMPLES table."""
    write_table(path, (dataclasses.asdict(s) for s in samples), SAMPLES)


def read_samples(path: Path) -> list[Sample]:
    """Return the model outputs of a SAMPLES table."""
    return [Sample(**row) for row in read_table(path, SAMPLES).iter_rows(named=True)]


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write verdicts as a VERDICTS table (times are left out: they belong into timings.parquet)."""
    write_table(path, ({c: getattr(v, c) for c in VERDICTS} for v in verdicts), VERDICTS)
