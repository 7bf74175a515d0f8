"""Report facts -> the files beside the page: findings.json, tables as Parquet and CSV, figures as SVG and PDF.

CSV lists are joined with spaces so that a spreadsheet opens them. SVGs and PDFs are the drawings of the page, in its
light colours.
Not covered: the page itself (render.py), turning a drawing into PDF (pdf.py), other people's formats (export/).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.tables import read_table
from leaven.reporting.facts import ReportData
from leaven.reporting.figures import figures
from leaven.reporting.marks import WIDE, contrast_measure
from leaven.reporting.pdf import write_pdfs
from leaven.reporting.sections.influence import influence_sections
from leaven.reporting.sections.order import order_sections

TABLES = ("results", "scores", "curves", "realised")
RUN_COLUMNS: dict[str, Any] = {n: pl.String for n in ("condition", "level", "benchmark", "node", "key", "model")} | {"seed": pl.Int64}


def write_exports(data: ReportData, analysis: Path, out: Path) -> None:
    """Write findings.json, tables/ and figures/ into `out`; the tables are those of the analysis folder, unchanged."""
    shutil.copyfile(analysis / "findings.json", out / "findings.json")
    (out / "tables").mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        frame = read_table(analysis / f"{name}.parquet")
        shutil.copyfile(analysis / f"{name}.parquet", out / "tables" / f"{name}.parquet")
        flat_columns(frame).write_csv(out / "tables" / f"{name}.csv", line_terminator="\n")
    contrasts = contrast_table(data)
    contrasts.write_parquet(out / "tables" / "contrasts.parquet", compression="zstd", statistics=False)
    flat_columns(contrasts).write_csv(out / "tables" / "contrasts.csv", line_terminator="\n")
    runs = pl.DataFrame([{k: getattr(r, k) for k in RUN_COLUMNS} for r in data.runs], schema=RUN_COLUMNS)
    runs.write_parquet(out / "tables" / "runs.parquet", compression="zstd", statistics=False)
    runs.write_csv(out / "tables" / "runs.csv", line_terminator="\n")
    sections = [*order_sections(data.order), *influence_sections(data.influence)]
    for table in (t for s in sections for t in s.tables if t.records):
        frame = pl.DataFrame(list(table.records), infer_schema_length=None)
        frame.write_parquet(out / "tables" / f"{table.id}.parquet", compression="zstd", statistics=False)
        frame.write_csv(out / "tables" / f"{table.id}.csv", line_terminator="\n")
    drawn = [f for group in figures(data).values() for f in group] + [f for s in sections for f in s.figures]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for figure in drawn:
        (out / "figures" / f"{figure.name}.svg").write_text(figure.standalone(), encoding="utf-8", newline="\n")
    write_pdfs([(f.name, f.draw(WIDE)) for f in drawn], out / "figures")


def flat_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with list columns as space-joined text, which CSV can hold."""
    lists = [n for n, t in frame.schema.items() if isinstance(t, pl.List)]
    return frame.with_columns(pl.col(n).cast(pl.List(pl.String)).list.join(" ") for n in lists)


def contrast_table(data: ReportData) -> pl.DataFrame:
    """Return the contrasts as a table, one row each, in score units."""
    rows = [
        {
            "id": c.id,
            "title": c.title,
            "benchmark": contrast_measure(c)[0],
            "metric": contrast_measure(c)[1],
            "level": str(c.data.get("level", "")),
            "primary": data.is_primary(c),
            "estimate": c.estimate,
            "low": c.low,
            "high": c.high,
            "p": c.p,
            "p_holm": c.p_holm,
            "mde": c.mde,
            "n_items": c.n_items,
            "n_clusters": c.n_clusters,
            "seeds": list(c.seeds),
            "decision": c.decision,
            "sentence": c.sentence,
        }
        for c in data.contrasts
    ]
    numbers = ("estimate", "low", "high", "p", "p_holm", "mde")
    schema: dict[str, Any] = {n: pl.String for n in ("id", "title", "benchmark", "metric", "level")} | {
        "primary": pl.Boolean
    }
    schema |= {n: pl.Float64 for n in numbers} | {
        "n_items": pl.Int64,
        "n_clusters": pl.Int64,
        "seeds": pl.List(pl.Int64),
    }
    return pl.DataFrame(rows, schema=schema | {"decision": pl.String, "sentence": pl.String})
