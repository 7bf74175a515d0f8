"""A finished study's tables -> questions in one line: means with intervals, contrasts, learning curves, SQL.

    results = Results.load("runs/quickstart")
    results.table(by=["difficulty"]);  results.contrast("thought_code", "code_only", benchmark="world")
    results.sql("select condition, avg(score) from results group by condition")
Not covered: computing the tables (run.py), drawing them (report/).
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from scipy import stats as scipy_stats

from leaven.analysis.contrasts import Contrast, UnequalSeeds, pair, select_rows
from leaven.analysis.effect import Effect
from leaven.analysis.rule import Answer, decide
from leaven.analysis.scores import score_table
from leaven.core.tables import RESULTS, read_table
from leaven.errors import DataError, StudyError


@dataclass(frozen=True, slots=True)
class Compared:
    """One contrast taken by hand: the effect, what the rule says, and where."""

    contrast: Contrast
    level: str
    effect: Effect
    answer: Answer

    def __str__(self) -> str:
        return self.answer.sentence

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.answer.sentence)}</p>"


@dataclass(frozen=True)
class Results:
    """The tables of one study: `frame` is the long RESULTS table, `tables` every table by name (results, curves,
    scores, ...)."""

    frame: pl.DataFrame
    tables: Mapping[str, pl.DataFrame]

    @classmethod
    def load(cls, run_dir: str | Path) -> Results:
        """Read every Parquet table in `run_dir/tables` (or `run_dir` itself); DataError when there is no
        results.parquet."""
        folder = Path(run_dir)
        folder = folder / "tables" if (folder / "tables").is_dir() else folder
        paths = sorted(folder.glob("*.parquet"))
        if folder / "results.parquet" not in paths:
            raise DataError(
                f"{folder}: expected results.parquet, found {[p.name for p in paths]}. Run the study first: leaven "
                f"run STUDY"
            )
        tables = {p.stem: read_table(p, RESULTS if p.stem == "results" else None) for p in paths}
        return cls(tables["results"], tables)

    def table(self, by: Sequence[str] = (), benchmark: str | None = None, metric: str | None = None) -> pl.DataFrame:
        """Return mean scores with intervals, n, k and seeds per condition, level, benchmark, metric and the columns
        of `by`."""
        rows = self.frame
        for column, wanted in (("benchmark", benchmark), ("metric", metric)):
            rows = rows if wanted is None else rows.filter(pl.col(column) == wanted)
        return score_table(rows, by)

    def by_difficulty(self, benchmark: str | None = None, metric: str | None = None) -> pl.DataFrame:
        """Return mean scores per difficulty, seen and unseen items apart."""
        return self.table(by=["difficulty", "seen"], benchmark=benchmark, metric=metric)

    def contrast(
        self,
        treatment: str,
        control: str,
        *,
        benchmark: str | None = None,
        metric: str | None = None,
        level: str | None = None,
        where: Mapping[str, Any] | None = None,
        margin: float | None = None,
        unequal_seeds: UnequalSeeds = "refuse",
    ) -> Compared:
        """Return the effect of `treatment` over `control` by the study's rule.

        Benchmark, metric and level may be left out where the study has only one. Raises StudyError when they are
        ambiguous or absent.
        """
        chosen = {
            name: self._only(name, value)
            for name, value in (("benchmark", benchmark), ("metric", metric), ("level", level))
        }
        contrast = Contrast.of(
            {
                "name": f"{treatment} vs {control}",
                "treatment": treatment,
                "control": control,
                "benchmark": chosen["benchmark"],
                "metric": chosen["metric"],
                "where": dict(where or {}),
                "margin": margin,
                "unequal_seeds": unequal_seeds,
            }
        )
        sides = select_rows(self.frame, contrast, chosen["level"])
        result = pair(*sides, names=(treatment, control), unequal_seeds=unequal_seeds, where=contrast.name).effect()
        answer = decide(
            result,
            treatment=treatment,
            control=control,
            measure=f"{contrast.metric} on {contrast.benchmark}",
            margin=margin,
            direction=contrast.better,
        )
        return Compared(contrast, chosen["level"], result, answer)

    def curve(self, stage: str | None = None, column: str = "loss") -> pl.DataFrame:
        """Return the learning curve per condition, level, stage and step: mean over seeds of `column` with a 95 % t
        interval."""
        if "curves" not in self.tables:
            raise DataError(f"no table curves; found {sorted(self.tables)}")
        rows = self.tables["curves"]
        if stage is not None:
            rows = rows.filter(pl.col("stage") == stage)
        return mean_curve(rows, column)

    def sql(self, query: str) -> pl.DataFrame:
        """Run one SELECT over the tables by name; StudyError quotes the fault and names tables and columns."""
        try:
            with pl.SQLContext(frames=dict(self.tables), eager=True) as context:
                return context.execute(query)
        except (pl.exceptions.PolarsError, ValueError) as error:
            known = "; ".join(f"{name}({', '.join(frame.columns)})" for name, frame in self.tables.items())
            raise StudyError(f"sql: {error}. Tables: {known}") from error

    def _only(self, column: str, value: str | None) -> str:
        """Return `value`, or the single value of `column`; StudyError when there are several."""
        found = sorted(self.frame[column].unique().to_list())
        if value is None and len(found) != 1:
            raise StudyError(f"contrast: name one {column}; found {found}")
        return found[0] if value is None else value

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def mean_curve(rows: pl.DataFrame, column: str = "loss") -> pl.DataFrame:
    """Return mean, low, high and seeds of `column` per condition, level, stage and step (no interval with one seed)."""
    if column not in rows.columns:
        raise StudyError(f"curve: no column {column!r}; found {rows.columns}")
    means = (
        rows.sort("seed")
        .group_by("condition", "level", "stage", "step", maintain_order=True)
        .agg(
            pl.col(column).mean().alias("mean"),
            pl.col(column).std().alias("_sd"),
            pl.len().cast(pl.Int64).alias("seeds"),
            pl.col("n_tokens").mean(),
            pl.col("n_learned_tokens").mean(),
        )
    )
    counts = {
        n: float(scipy_stats.t.isf(0.025, n - 1)) / math.sqrt(n) for n in means["seeds"].unique().to_list() if n > 1
    }
    half = pl.col("_sd") * pl.col("seeds").replace_strict(counts, default=None, return_dtype=pl.Float64)
    return (
        means.with_columns((pl.col("mean") - half).alias("low"), (pl.col("mean") + half).alias("high"))
        .drop("_sd")
        .select("condition", "level", "stage", "step", "mean", "low", "high", "seeds", "n_tokens", "n_learned_tokens")
        .sort("condition", "level", "stage", "step")
    )
