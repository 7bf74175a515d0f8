"""influence.parquet of every seed's model -> one array of scores [seeds, units] per method and target, units in one order.

Units are texts (windows of one example added up), segments or tokens. Queries of one domain are averaged to one target.
Units that some seed lacks are left out of all and counted. A table that holds the highest and lowest texts only is marked
incomplete: its ranks at the ends stand, its means do not.
Not covered: labels (influence_groups.py), the text of tokens (influence_tokens.py).

Shapes: S seeds, N units.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from leaven.analysis.influence_inputs import AttributionRun
from leaven.core.tables import INFLUENCE, read_table
from leaven.errors import DataError

TEXT = ["source", "example"]
KEYS: dict[str, list[str]] = {
    "instance": TEXT,
    "segment": [*TEXT, "window", "segment"],
    "token": [*TEXT, "window", "token"],
}
MOST_TARGETS = 8
"""More queries without a domain than this are averaged to one target."""
EVERY = "all queries"

LevelName = Literal["instance", "segment", "token"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scores:
    """Scores of one method for one target: `values` [S,N] in nats, and `units`, a row of keys and n_tokens for each."""

    method: str
    target: str
    decomposition: str
    values: NDArray[np.float64]
    units: pl.DataFrame
    n_queries: int
    n_lost: int
    complete: bool

    @property
    def tokens(self) -> NDArray[np.float64]:
        """Return the learned tokens of every unit [N]."""
        return self.units["n_tokens"].to_numpy().astype(float)

    @property
    def averaged(self) -> NDArray[np.float64]:
        """Return the mean over seeds of every unit [N]."""
        return self.values.mean(0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cell:
    """All seeds of one (attribution, condition, level)."""

    name: str
    condition: str
    level: str
    runs: tuple[AttributionRun, ...]
    reports: tuple[Mapping[str, Any], ...]

    @property
    def seeds(self) -> list[int]:
        """Return the seeds in the order of the rows of every array."""
        return [r.seed for r in self.runs]

    @property
    def nodes(self) -> list[str]:
        """Return the artifacts that numbers of this cell rest on."""
        return [r.node for r in self.runs if r.node]

    def about(self) -> dict[str, Any]:
        """Return the fields that every record of this cell has."""
        return {"name": self.name, "condition": self.condition, "level": self.level}


def cells_of(runs: Sequence[AttributionRun]) -> list[Cell]:
    """Return the cells, seeds in order; runs whose folder holds no table (a step that failed) are left out.

    Raises:
        DataError: two runs of one cell have the same seed.
    """
    groups: dict[tuple[str, str, str], list[AttributionRun]] = {}
    for run in runs:
        if (run.folder / "influence.parquet").is_file():
            groups.setdefault((run.name, run.condition, run.level), []).append(run)
    found = []
    for (name, condition, level), members in groups.items():
        ordered = tuple(sorted(members, key=lambda r: r.seed))
        if len({r.seed for r in ordered}) < len(ordered):
            raise DataError(
                f"attribution {name!r} of {condition!r} at {level}: expected one run per seed, found seeds {[r.seed for r in ordered]}"
            )
        reports = tuple(_report(r) for r in ordered)
        found.append(Cell(name=name, condition=condition, level=level, runs=ordered, reports=reports))
    return found


def _report(run: AttributionRun) -> Mapping[str, Any]:
    path = run.folder / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def scores_of(cell: Cell, level: LevelName, domains: Mapping[str, str]) -> list[Scores]:
    """Return the scores of a cell at one level, per method, target and decomposition, in the order of the table.

    Args:
        cell: its runs.
        level: of the rows.
        domains: query -> domain; queries of one domain are one target.
    """
    frames = [_rows(run, level) for run in cell.runs]
    if not frames or any(f.is_empty() for f in frames):
        return []
    targets = targets_of([str(q) for f in frames for q in f["query"].unique(maintain_order=True)], domains)
    reduced = [_reduced(f, level, targets) for f in frames]
    n_queries = {t: sum(x == t for x in targets.values()) for t in targets.values()}
    whole = complete_methods(cell)
    found = []
    for method, target, split in reduced[0].select("method", "target", "decomposition").unique(maintain_order=True).iter_rows():
        parts = [f.filter(method=method, target=target, decomposition=split).drop("method", "target", "decomposition") for f in reduced]
        units, values = _aligned(parts, KEYS[level])
        if not units.height:
            continue
        found.append(
            Scores(
                method=method,
                target=target,
                decomposition=split,
                values=values,
                units=units,
                n_queries=n_queries[target],
                n_lost=max(p.height for p in parts) - units.height,
                complete=method in whole,
            )
        )
    return found


def targets_of(queries: Sequence[str], domains: Mapping[str, str]) -> dict[str, str]:
    """Return query -> target: its domain, else itself, or one target for all when too many have none."""
    names = list(dict.fromkeys(queries))
    alone = [q for q in names if q not in domains]
    return {q: domains.get(q) or (q if len(alone) <= MOST_TARGETS else EVERY) for q in names}


def _rows(run: AttributionRun, level: LevelName) -> pl.DataFrame:
    """Return the rows of one level; those of tokens and segments are many, so other columns stay on disk."""
    path = run.folder / "influence.parquet"
    wanted = ["method", "query", "decomposition", *KEYS[level], "n_learned_tokens", "score"]
    try:
        return pl.scan_parquet(path).filter(pl.col("level") == level).select(wanted).collect()
    except pl.exceptions.PolarsError:
        read_table(path, INFLUENCE)  # says which column or file is wrong
        raise


def _reduced(rows: pl.DataFrame, level: LevelName, targets: Mapping[str, str]) -> pl.DataFrame:
    """Return one row per (method, target, decomposition, unit): windows of a text added up, then the mean over queries."""
    keys = KEYS[level]
    fixed = ["method", "query", "decomposition", *keys]
    if level == "instance":
        rows = rows.group_by(fixed, maintain_order=True).agg(pl.col("score").sum(), pl.col("n_learned_tokens").sum())
    of = pl.col("query").replace_strict(dict(targets), return_dtype=pl.String).alias("target")
    rows = rows.with_columns(of)
    if rows["query"].n_unique() > rows["target"].n_unique():
        together = ["method", "target", "decomposition", *keys]
        rows = rows.group_by(together, maintain_order=True).agg(pl.col("score").mean(), pl.col("n_learned_tokens").first())
    return rows.select("method", "target", "decomposition", *keys, pl.col("n_learned_tokens").alias("n_tokens"), "score")


def _aligned(parts: Sequence[pl.DataFrame], keys: Sequence[str]) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Return the units that every seed has, in the order of the first, and their scores [S,N]."""
    joined = parts[0].rename({"score": "s0"})
    for n, part in enumerate(parts[1:], 1):
        more = part.select(*keys, pl.col("score").alias(f"s{n}"))
        joined = joined.join(more, on=list(keys), how="inner", maintain_order="left")
    names = [f"s{n}" for n in range(len(parts))]
    values = np.ascontiguousarray(joined.select(names).to_numpy().T, dtype=np.float64)
    return joined.drop(names), values


def complete_methods(cell: Cell) -> frozenset[str]:
    """Return the methods of which every seed's table has a row of every text for every query."""
    found = None
    for run, report in zip(cell.runs, cell.reports, strict=True):
        there = pl.scan_parquet(run.folder / "influence.parquet").filter(pl.col("level") == "instance")
        counts = there.group_by("method", "query").agg(pl.len().alias("n")).collect()
        wanted = int(report.get("n_texts") or counts["n"].max() or 0)
        here = {str(m) for (m,), part in counts.group_by("method") if (part["n"] >= wanted).all()}
        found = here if found is None else found & here
    return frozenset(found or ())
