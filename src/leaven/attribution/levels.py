"""INFLUENCE rows + labels -> mean influence by group with intervals, composition of the top, length-controlled
versions.

A group is any label of a text (domain, source, type, difficulty), of a segment (kind, behaviour) or of a token (its
class). Intervals are t intervals over texts, or over clusters of texts: rows of one cluster (default: the text) may
depend on each other, so the standard error is the cluster-robust one and the degrees of freedom are clusters - 1 (as
in Kou et al. 2025's averages, with intervals added). Long texts accumulate influence; `length="per_token"` divides by
learned tokens, `length="regressed"` removes a linear trend. Not covered: uncertainty from the model's seed (score
several models and average first), plots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from leaven.attribution.texts import Text
from leaven.data.tokenizer import Tokenizer
from leaven.errors import DataError

Length = Literal["raw", "per_token", "regressed"]
KEYS = ("source", "example", "format", "segment", "token")

CONNECTORS = frozenset(
    """wait however verify hence first therefore alternatively thus since because so then but check actually hmm hold
    finally next second if else suppose assume""".split()
)
KEYWORDS = frozenset(
    """def return if elif else for while in not and or import from class try except finally with as lambda yield break
    continue pass none true false print int void const let var function public static struct include""".split()
)


def rollup(
    table: pl.DataFrame,
    labels: pl.DataFrame,
    by: Sequence[str],
    *,
    level: str = "instance",
    decomposition: str = "",
    length: Length = "raw",
    cluster: str = "example",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return one row per (method, query, group): n, n_clusters, mean, se, low, high.

    Args:
        table: INFLUENCE rows.
        labels: group columns, keyed by those of source, example, format, segment, token that it has.
        by: the group columns.
        level: which rows are averaged.
        decomposition: which split, below instance level.
        length: raw, per_token, or regressed (residual of a line in learned tokens, per method and query).
        cluster: column whose values are resampling units.
        confidence: of the interval.

    Raises:
        DataError: a column is missing, or no row has a label.
    """
    rows = _labelled(table.filter(level=level, decomposition=decomposition), labels, [*by, cluster])
    rows = _length_controlled(rows, length)
    found = []
    for key, part in rows.group_by("method", "query", *by, maintain_order=True):
        mean, se, clusters = _clustered_mean(part["score"].to_numpy(), part[cluster].to_list())
        half = float(stats.t.ppf((1 + confidence) / 2, clusters - 1)) * se if clusters > 1 else float("nan")
        found.append((*key, part.height, clusters, mean, se, mean - half, mean + half))
    columns = ["method", "query", *by, "n", "n_clusters", "mean", "se", "low", "high"]
    return pl.DataFrame(found, schema=columns, orient="row").sort("method", "query", *by)


def composition(table: pl.DataFrame, labels: pl.DataFrame, by: str, k: int) -> pl.DataFrame:
    """Return per (method, query, group): its share among the k most and k least helpful texts, and among all (the
    base rate)."""
    rows = _labelled(table.filter(level="instance"), labels, [by])
    found = []
    for (method, query), part in rows.group_by("method", "query", maintain_order=True):
        ranked = part.sort("score", descending=True)[by].to_list()
        size = min(k, len(ranked))
        for group in sorted(set(ranked), key=str):
            share = [values.count(group) / len(values) for values in (ranked[:size], ranked[-size:], ranked)]
            found.append((method, query, group, size, *share))
    return pl.DataFrame(found, schema=["method", "query", by, "k", "top", "bottom", "all"], orient="row")


def length_correlation(table: pl.DataFrame) -> pl.DataFrame:
    """Return Spearman's correlation of text scores with their learned tokens, per (method, query): the length
    confound."""
    found = []
    for (method, query), part in table.filter(level="instance").group_by("method", "query", maintain_order=True):
        rank = stats.spearmanr(part["score"].to_numpy(), part["n_learned_tokens"].to_numpy()).statistic
        found.append((method, query, part.height, float(rank)))
    return pl.DataFrame(found, schema=["method", "query", "n", "spearman"], orient="row")


def token_labels(texts: Sequence[Text], tokenizer: Tokenizer) -> pl.DataFrame:
    """Return (source, example, format, token, token_class) of every token."""
    classes: dict[int, str] = {}
    rows = []
    for text in texts:
        for position, token in enumerate(text.ids.tolist()):
            if token not in classes:
                classes[token] = token_class(tokenizer.decode([token], special="keep"))
            rows.append((text.source, text.example, text.format, position, classes[token]))
    schema = {
        "source": pl.String,
        "example": pl.String,
        "format": pl.String,
        "token": pl.Int32,
        "token_class": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def token_class(piece: str) -> str:
    """Return connector, keyword, number, operator, bracket, layout, punctuation, special, word or other of one
    token's text.

    Words that are both (if, else) count as keywords; what they are in a text is not decided here.
    """
    word = piece.strip()
    if not word:
        return "layout"
    if re.fullmatch(r"<\|.*\|>", word):
        return "special"
    if word.lower() in KEYWORDS:
        return "keyword"
    if word.lower() in CONNECTORS:
        return "connector"
    for name, pattern in (
        ("number", r"[\d.,]*\d[\d.,]*"),
        ("bracket", r"[()\[\]{}]+"),
        ("operator", r"[-+*/%=<>!&|^~@]+"),
        ("punctuation", r"[.,;:?!'\"`#\\_$]+"),
        ("word", r"\w+"),
    ):
        if re.fullmatch(pattern, word):
            return name
    return "other"


def _labelled(rows: pl.DataFrame, labels: pl.DataFrame, needed: Sequence[str]) -> pl.DataFrame:
    on = [c for c in KEYS if c in labels.columns]
    missing = [c for c in needed if c not in labels.columns and c not in rows.columns]
    if missing or not on:
        raise DataError(
            f"levels: expected labels with a key of {list(KEYS)} and columns {list(needed)}, found {labels.columns}"
        )
    joined = rows.join(labels.unique(on), on=on, how="inner")
    if joined.is_empty():
        raise DataError(
            f"levels: expected labels for {rows.height} rows, found none that match by {on}; they belong to other data"
        )
    return joined


def _length_controlled(rows: pl.DataFrame, length: Length) -> pl.DataFrame:
    if length == "raw":
        return rows
    if length == "per_token":
        return rows.filter(pl.col("n_learned_tokens") > 0).with_columns(pl.col("score") / pl.col("n_learned_tokens"))
    tokens, score = pl.col("n_learned_tokens").cast(pl.Float64), pl.col("score")
    variance = tokens.var(ddof=0).over("method", "query")
    slope = pl.cov(tokens, score, ddof=0).over("method", "query") / variance
    trend = slope * (tokens - tokens.mean().over("method", "query"))
    return rows.with_columns(score - pl.when(variance > 0).then(trend).otherwise(0.0))


def _clustered_mean(values: np.ndarray, clusters: Sequence[object]) -> tuple[float, float, int]:
    """Return mean, cluster-robust standard error and number of clusters."""
    mean = float(values.mean())
    number = {c: k for k, c in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros(len(number))
    np.add.at(sums, [number[c] for c in clusters], values - mean)
    n = len(number)
    se = float(np.sqrt(n / (n - 1) * (sums**2).sum()) / len(values)) if n > 1 else float("nan")
    return mean, se, n
