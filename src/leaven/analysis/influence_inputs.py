"""What the analysis of influence is given: the runs of `attribute`, labels of examples, what interventions changed and did.

Two functions make its tables from artifacts: `labels_of` from examples, `weights_of` from an order table.
Not covered: what is made of them (influence.py, whose docstring says how to call it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.tables import Schema

WEIGHTS: Schema = {
    "condition": pl.String,
    "level": pl.String,
    "seed": pl.Int32,
    "source": pl.String,
    "example": pl.String,
    "weight": pl.Float64,
}
"""How much each example weighed in training: the sum of its slots' weights in the order table (`weights_of`)."""

OUTCOMES: Schema = {
    "condition": pl.String,
    "level": pl.String,
    "seed": pl.Int32,
    "query": pl.String,
    "item": pl.String,
    "value": pl.Float64,
}
"""What every model says of every target text: its log-likelihood in nats, reduced over tokens as the attribution's target was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionRun:
    """One artifact of `attribute`: whose training data it speaks of, where it lies, and the texts behind its rows."""

    name: str
    condition: str
    seed: int
    folder: Path
    level: str = "{}"
    tokens: Mapping[str, Path] = field(default_factory=dict)
    tokenizer: Path | None = None
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Realised:
    """What interventions changed in the data, and what came of it: WEIGHTS and OUTCOMES of all conditions."""

    weights: pl.DataFrame
    outcomes: pl.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """How well scores of one cell predict retraining: the records of its validation.json."""

    name: str
    condition: str
    records: Sequence[Mapping[str, Any]]
    level: str = "{}"
    node: str = ""


LABEL_COLUMNS = ("domain", "family", "language", "difficulty", "symbolic", "cluster")
"""What a label table may say of an example besides its source and name."""


def labels_of(examples: pl.DataFrame, source: str) -> pl.DataFrame:
    """Return labels of the EXAMPLES rows of one source (the study's name for it): domain, family, difficulty, language, cluster."""
    language = [_meta(text).get("language") or "" for text in examples["meta"].to_list()]
    cluster = pl.when(pl.col("group").fill_null("") == "").then(pl.col("id")).otherwise(pl.col("group"))
    return examples.select(
        pl.lit(source).alias("source"),
        pl.col("id").alias("example"),
        "domain",
        "family",
        pl.Series("language", [str(x) for x in language], pl.String),
        "difficulty",
        cluster.alias("cluster"),
    )


def _meta(text: str | None) -> Mapping[str, Any]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, Mapping) else {}


def weights_of(order: pl.DataFrame, condition: str, seed: int, level: str = "{}", stage: str = "") -> pl.DataFrame:
    """Return WEIGHTS of one ORDER table (of its last stage unless named): how often, and how heavily, each example was shown."""
    chosen = stage or (order["stage"][-1] if order.height else "")
    found = order.filter(pl.col("stage") == chosen).group_by("source", "example").agg(pl.col("weight").cast(pl.Float64).sum())
    cell = {"condition": pl.lit(condition), "level": pl.lit(level), "seed": pl.lit(seed, pl.Int32)}
    return found.with_columns(**cell).select(list(WEIGHTS)).sort("source", "example")
