"""Values of probes, as their steps wrote them -> one table, and the quantities in it that all conditions have.

A probe's rows become *quantities* that mean the same in every condition, whatever the order of thought and code: the gap of
the first and the second part, the loss of the response, the KL of the code, the attention from code to thought, ...
Not covered: what is found in them (order.py, distributions.py), measuring (probes/).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.hashing import canonical
from leaven.core.tables import PROBE_GRID, PROBE_VALUES, Schema, read_table

CELL: Schema = {
    "condition": pl.String,
    "level": pl.String,
    "seed": pl.Int32,
    "probe": pl.String,
    "kind": pl.String,
    "run": pl.String,
}
ALL_VALUES: Schema = {**CELL, **PROBE_VALUES}
"""PROBE_VALUES of every probed model with where it came from; `probe` is the study's name for it, `kind` what it measures."""
ALL_GRIDS: Schema = {**CELL, **PROBE_GRID}
"""PROBE_GRID of every probed model with where it came from."""

_CONTENT = ("thought", "code", "answer", "text")
PLACES = ("first", "second", "third")
_UNITS = {
    "perplexity": "perplexity",
    "gap": "perplexity",
    "nats": "nats per token",
    "gap_nats": "nats per token",
    "kl": "nats per token",
    "kl_reverse": "nats per token",
    "loss": "nats per token",
    "mass": "share of attention",
    "cosine": "cosine",
    "norm": "gradient norm",
}


def gather_values(entries: Iterable[Mapping[str, Any]], inputs: Mapping[str, Path]) -> pl.DataFrame:
    """Return the values of all probes as ALL_VALUES; entries whose input is absent (a step failed) are left out.

    Args:
        entries: {condition, level, seed, probe, kind, input, node} per probed model; `input` names the entry of `inputs`.
        inputs: name -> folder with values.parquet.
    """
    return _gather(entries, inputs, "values.parquet", PROBE_VALUES, ALL_VALUES)


def gather_grids(entries: Iterable[Mapping[str, Any]], inputs: Mapping[str, Path]) -> pl.DataFrame:
    """Return the attention maps of all probes that wrote one as ALL_GRIDS; arguments as for gather_values."""
    return _gather(entries, inputs, "grid.parquet", PROBE_GRID, ALL_GRIDS)


def _gather(
    entries: Iterable[Mapping[str, Any]], inputs: Mapping[str, Path], file: str, schema: Schema, wanted: Schema
) -> pl.DataFrame:
    parts = []
    for entry in entries:
        name = str(entry["input"])
        if name not in inputs or not (Path(inputs[name]) / file).is_file():
            continue
        level = entry.get("level") or "{}"
        cell = {
            "condition": str(entry["condition"]),
            "level": level if isinstance(level, str) else canonical(level),
            "seed": int(entry["seed"]),
            "probe": str(entry["probe"]),
            "kind": str(entry["kind"]),
            "run": str(entry.get("node") or name),
        }
        frame = read_table(Path(inputs[name]) / file, schema)
        parts.append(
            frame.with_columns(*(pl.lit(v).alias(k) for k, v in cell.items())).select(
                [pl.col(c).cast(t) for c, t in wanted.items()]
            )
        )
    return pl.concat(parts) if parts else pl.DataFrame(schema=wanted)


# ---- quantities --------------------------------------------------------------------------------------------


def quantities(values: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of one probe that are comparable between conditions: ALL_VALUES plus `quantity` and `unit`.

    One row per (condition, seed, quantity, example). Gradient norms are means over layers and projections, attention is that of
    the last layer; rows of all examples together are left out.
    """
    rows = values.filter(pl.col("example") != "")
    kind = rows["kind"][0] if rows.height else ""
    if kind == "gradients":
        rows = rows.filter(pl.col("name").is_in(list("qkvo")))
        keys = [c for c in ALL_VALUES if c not in ("value", "layer", "name", "n_tokens")]
        rows = rows.group_by(keys, maintain_order=True).agg(pl.col("value").mean(), pl.col("n_tokens").first())
        rows = rows.with_columns(pl.lit(-1, pl.Int32).alias("layer"), pl.lit("norm").alias("name")).select(
            list(ALL_VALUES)
        )
    elif kind == "attention":
        rows = rows.filter((pl.col("layer") == pl.col("layer").max()) & (pl.col("name") == "mass"))
    named = [_quantity(*row) for row in rows.select("kind", "part", "other", "name").iter_rows()]
    return (
        rows.with_columns(pl.Series("quantity", named, pl.String))
        .filter(pl.col("quantity") != "")
        .with_columns(pl.col("name").replace_strict(_UNITS, default=pl.col("name")).alias("unit"))
    )


def _quantity(kind: str, part: str, other: str, name: str) -> str:
    """Return what a row measures in words that hold in every condition; "" for rows that no contrast speaks of."""
    content = part.split(".")[0] in _CONTENT
    if kind == "perplexity":
        if name in ("gap", "gap_nats"):
            return "gap of perplexities, first - second" if name == "gap" else "gap in nats, first - second"
        before = sum(p.split(".")[0] in _CONTENT for p in other.split("+"))
        place = PLACES[before] if before < len(PLACES) else ""
        return f"{name} of the {place} part" if place else ""
    if kind in ("divergence", "loss", "gradients"):
        what = {"kl": "KL(model || base)", "kl_reverse": "KL(base || model)", "norm": "gradient norm"}.get(name, name)
        return f"{what} of the {part}" if content or part == "response" else ""
    if kind == "attention":
        return f"attention from {part} to {other}" if content and (other == "prompt" or other in _CONTENT) else ""
    if kind == "similarity":
        return f"similarity of {part} and {other}"
    if kind in ("lengths", "overlap"):  # lengths of the references are the same whatever the model
        return f"{name} of the {part} written" if other == "sample" else ""
    return " ".join(x for x in (name, part, other) if x)


def absent(side: pl.DataFrame) -> bool:
    """Return whether a condition has no rows of a quantity, or cannot have it: attention to what comes later is 0 throughout."""
    return side.is_empty() or (side["kind"][0] == "attention" and bool((side["value"] == 0).all()))


def runs_of(rows: pl.DataFrame) -> tuple[str, ...]:
    """Return the artifacts that rows were computed from."""
    return tuple(sorted(rows["run"].unique().to_list()))
