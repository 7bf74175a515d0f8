"""Report facts -> the files beside the page: findings.json, tables as Parquet and CSV, figures as SVG and PDF.

CSV lists are joined with spaces so that a spreadsheet opens them. The PDFs are redrawn from the same facts with
matplotlib, for papers; the SVGs are the drawings of the page.
Not covered: the page itself (render.py), exports to other people's formats (export/).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.tables import read_table
from leaven.reporting.facts import ReportData, Score
from leaven.reporting.figures import figures, median_curve
from leaven.reporting.marks import contrast_label, contrast_measure, series_label, styles
from leaven.reporting.svg import LIGHT

TABLES = ("results", "scores", "curves", "realised")
PDF_MARKERS = ("o", "s", "^", "D", "X", "v", "P")


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
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for group in figures(data).values():
        for figure in group:
            (out / "figures" / f"{figure.name}.svg").write_text(figure.standalone(), encoding="utf-8", newline="\n")
    write_pdfs(data, out / "figures")


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


def write_pdfs(data: ReportData, folder: Path) -> None:
    """Redraw the figures as PDF files without dates, so that the same facts give the same bytes."""
    import matplotlib

    matplotlib.use("agg", force=False)
    from matplotlib.figure import Figure as Sheet

    settings = {
        "pdf.fonttype": 42,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
    }
    drawn = figures(data)
    with matplotlib.rc_context(settings):
        for name, draw in (("forest", _forest), ("difficulty-1", _difficulty), ("curves-1", _curves)):
            if not any(f.name == name for group in drawn.values() for f in group):
                continue
            sheet = Sheet(figsize=(6.5, 3.6), layout="constrained")
            draw(data, sheet)
            sheet.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "ModDate": None})


def _look(data: ReportData, condition: str) -> dict[str, Any]:
    index = styles(data)[condition]
    return {"color": LIGHT[index % len(LIGHT)], "marker": PDF_MARKERS[(index + index // len(LIGHT)) % len(PDF_MARKERS)]}


def _errors(rows: Sequence[Any]) -> list[list[float]]:
    """Return [below, above] lengths of the intervals; 0 where there is none."""
    return [
        [max((r.estimate or 0) - r.low, 0) if r.low is not None else 0 for r in rows],
        [max(r.high - (r.estimate or 0), 0) if r.high is not None else 0 for r in rows],
    ]


def _forest(data: ReportData, sheet: Any) -> None:
    contrasts = [c for c in data.contrasts if c.estimate is not None and c.data.get("difficulty") is None][:60]
    scores = [s for s in data.leading_scores() if s.estimate is not None][:60]
    sheet.set_size_inches(6.5, 1.6 + 0.26 * (len(contrasts) + len(scores)))
    parts = [rows for rows in (contrasts, scores) if rows]
    axes = sheet.subplots(len(parts), 1, squeeze=False, height_ratios=[len(p) + 1 for p in parts])[:, 0]
    for axis, rows in zip(axes, parts, strict=True):
        labels = [series_label(r.condition, r.level) if isinstance(r, Score) else contrast_label(r) for r in rows]
        for y, row in enumerate(rows):
            look = _look(data, row.condition) if isinstance(row, Score) else {"color": LIGHT[-1], "marker": "s"}
            axis.errorbar([row.estimate], [y], xerr=_errors([row]), linewidth=1.5, markersize=5, **look)
        axis.set_yticks(range(len(rows)), labels)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel("score" if rows is scores else "difference (first minus second)")
        if rows is contrasts:
            axis.axvline(0, color="0.5", linewidth=0.8, zorder=0)


def _difficulty(data: ReportData, sheet: Any) -> None:
    axis = sheet.subplots()
    rows = [s for s in data.scores if s.difficulty is not None and s.estimate is not None]
    first = (rows[0].benchmark, rows[0].metric, rows[0].level)
    rows = [s for s in rows if (s.benchmark, s.metric, s.level) == first]
    for name in dict.fromkeys(s.condition for s in rows):
        line = sorted((s for s in rows if s.condition == name), key=lambda s: s.difficulty or 0)
        axis.errorbar(
            [s.difficulty for s in line],
            [s.estimate for s in line],
            yerr=_errors(line),
            linewidth=1.5,
            markersize=4,
            label=name,
            **_look(data, name),
        )
    axis.set(xlabel="difficulty", ylabel=rows[0].metric.replace("_", " "))
    axis.legend(frameon=False, fontsize=8)


def _curves(data: ReportData, sheet: Any) -> None:
    axis = sheet.subplots()
    curves = [c for c in data.curves if len(c.points) > 1]
    curves = [c for c in curves if (c.stage, c.level) == (curves[0].stage, curves[0].level)]
    for name in dict.fromkeys(c.condition for c in curves):
        group = [c for c in curves if c.condition == name]
        points = median_curve(group) or group[0].points
        axis.plot(
            [x for x, _ in points], [y for _, y in points], color=_look(data, name)["color"], linewidth=1.5, label=name
        )
    axis.set(xlabel="optimiser step", ylabel="loss, nats per learned token")
    axis.legend(frameon=False, fontsize=8)
