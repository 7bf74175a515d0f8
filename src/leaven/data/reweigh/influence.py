"""influence.parquet of `leaven attribute` -> one score per example: the mean over queries, windows of one text added up.

Only rows of whole texts count; a table that holds the highest and lowest texts alone is refused, because a missing
example is not an example without influence.
Not covered: computing influence (attribution/), turning scores into weights (targets.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from leaven.core.tables import INFLUENCE, read_table
from leaven.errors import DataError, did_you_mean

Scores = dict[tuple[str, str], float]
"""(source, example) -> mean influence, nats of the target per removed text (positive = helpful)."""


def read_scores(
    path: Path, examples: Mapping[str, Collection[str]], method: str = "", query: str = ""
) -> Scores:
    """Return the score of every example.

    Args:
        path: influence.parquet, or the folder of `leaven attribute`.
        examples: source -> ids that must have one.
        method: which method's scores; "": the curvature method (ekfac, refined where it was), or the only one there is.
        query: which query's; "": the mean over all.

    Raises:
        DataError: no such method or query, or examples without a score.
    """
    table = path / "influence.parquet" if path.is_dir() else path
    frame = read_table(table, INFLUENCE).filter(pl.col("level") == "instance")
    frame = frame.filter(pl.col("method") == _method(frame, method, table))
    if query:
        named = frame["query"].unique().sort().to_list()
        if query not in named:
            raise DataError(f"{table}: no query is called {query!r}.{did_you_mean(query, named)} Found: {', '.join(named)}")
        frame = frame.filter(pl.col("query") == query)
    per_text = frame.group_by("query", "source", "example").agg(pl.col("score").sum())
    means = per_text.group_by("source", "example").agg(pl.col("score").mean()).rows()
    found = {(source, example): float(score) for source, example, score in means}
    return _renamed(found, examples, table)


def _method(frame: pl.DataFrame, wanted: str, table: Path) -> str:
    """Return the method whose scores are taken."""
    named = frame["method"].unique().sort().to_list()
    ours = [m for m in named if m.startswith("ekfac+")] or [m for m in named if m == "ekfac"]
    for choice in ([wanted] if wanted in named else [], [] if wanted else ours, [] if wanted else named):
        if len(choice) == 1:
            return str(choice[0])
    raise DataError(
        f"{table}: expected scores of {'the method ' + repr(wanted) if wanted else 'one method'}, found {', '.join(named) or 'none'}."
        f"{did_you_mean(wanted, named) if wanted else ''} Name one with reweigh.method"
    )


def _renamed(found: Scores, examples: Mapping[str, Collection[str]], table: Path) -> Scores:
    """Return the scores under the study's source names; one source in table and study each may differ in name."""
    there = {source for source, _ in found}
    if len(there) == len(examples) == 1 and there != set(examples):
        (name,) = examples
        found = {(name, example): score for (_, example), score in found.items()}
    missing = [(s, e) for s, ids in examples.items() for e in ids if (s, e) not in found]
    if missing:
        total = sum(map(len, examples.values()))
        raise DataError(
            f"{table}: expected a score for each of the {total} examples of {', '.join(examples)}, found {total - len(missing)}; the first "
            f"without is {missing[0][0]}/{missing[0][1]}. The table's sources: {', '.join(sorted(there)) or 'none'}. Attribute to all "
            "of them (no --top), from a file named like the source"
        )
    return found
