"""Pass@k at several temperatures -> a chart per temperature and a table of temperatures by k.

Paper: Liu et al. 2025, figure 10 (pass@k and temperature).
Not covered: scores at checkpoints and swept settings (sweeps.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from leaven.reporting.marks import Figure
from leaven.reporting.panels import Frame, Panel, Series, draw_panels
from leaven.reporting.sections.inputs import OrderInputs, PassAtK
from leaven.reporting.sections.section import (
    Cell,
    Column,
    Section,
    Styles,
    Table,
    bracketed,
    measured_cell,
    measured_record,
    shared_basis,
    with_rest,
)
from leaven.reporting.wording import level_text


def sampling_section(inputs: OrderInputs) -> Section | None:
    """Return the section of temperature and pass@k, or None where nothing was sampled that way."""
    measured = [r for r in inputs.pass_at_k if r.score.estimate is not None]
    if not measured:
        return None
    styles = Styles(inputs.strategies)
    figures, tables = [], []
    for n, benchmark in enumerate(dict.fromkeys(r.benchmark for r in measured), 1):
        rows = [r for r in measured if r.benchmark == benchmark]
        figures.append(_k_figure(n, benchmark, rows, styles))
        tables.append(_k_table(n, benchmark, rows, styles))
    return Section(
        id="sampling",
        title="Temperature and pass@k",
        short="Pass@k",
        paragraphs=("The share of items of which at least one of k samples passes, unbiased over all samples of an item.",),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _name(row: PassAtK) -> str:
    return row.condition + (f", {level_text(row.level)}" if level_text(row.level) else "")


def _k_figure(n: int, benchmark: str, rows: Sequence[PassAtK], styles: Styles) -> Figure:
    order = styles.sorted(r.condition for r in rows)
    panels, said = [], []
    for temperature in sorted({r.temperature for r in rows}):
        series = []
        names = dict.fromkeys((order.index(r.condition), r.condition, _name(r)) for r in rows)
        for _, condition, name in sorted(names):
            own = sorted((r for r in rows if _name(r) == name and r.temperature == temperature), key=lambda r: r.k)
            if own:
                points = tuple((float(r.k), r.score.estimate or 0.0) for r in own)
                band = tuple((float(r.k), r.score.low, r.score.high) for r in own if r.score.low is not None and r.score.high is not None)
                series.append(Series(label=name, style=styles.of(condition), points=points, band=band))
                said.append(f"{name} at T {temperature:g}: {bracketed(own[-1].score, percent=True)} % at k {own[-1].k}")
        panels.append(Panel(title=f"T = {temperature:g}", series=tuple(series)))
    frame = Frame(
        x_name="k",
        y_name=f"pass@k on {benchmark}, %",
        columns=min(4, len(panels)) if len(panels) > 1 else 2,
        shared_y=True,
        percent=True,
        x_ticks=tuple(sorted({float(r.k) for r in rows})),
    )
    return Figure(
        name=f"pass-at-k-{n}",
        title=f"Pass@k on {benchmark} by temperature",
        description=f"Pass@k on {benchmark}: {'; '.join(said[:10])}.",
        caption="One chart per temperature, on one vertical scale. Shaded: 95 % intervals.",
        table=f"pass-at-k-{n}",
        draw=lambda width: draw_panels(panels, frame, width),
    )


def _k_table(n: int, benchmark: str, rows: Sequence[PassAtK], styles: Styles) -> Table:
    """Return a row per condition and temperature, a column per k."""
    ks = sorted({r.k for r in rows})
    shared = shared_basis(r.score for r in rows)
    own = {(_name(r), r.temperature, r.k): r for r in rows}
    lines = []
    for condition in styles.sorted(r.condition for r in rows):
        for name, level in dict.fromkeys((_name(r), r.level) for r in rows if r.condition == condition):
            for t in sorted({r.temperature for r in rows if _name(r) == name}):
                found = [own.get((name, t, k)) for k in ks]
                cells = [
                    measured_cell(
                        r.score if r else None, percent=True, shared=shared, what=f"{name}, pass@{k} on {benchmark}, T {t:g}, %"
                    )
                    for r, k in zip(found, ks, strict=True)
                ]
                lines.append((styles.cell(condition, level_text(level)), Cell(text=f"{t:g}"), *cells))
    return Table(
        id=f"pass-at-k-{n}",
        caption=with_rest(f"Pass@k on {benchmark} by temperature, % with 95 % intervals", shared),
        columns=(Column(name="Condition"), Column(name="Temperature", numeric=True), *(Column(name=f"k = {k}", numeric=True) for k in ks)),
        rows=tuple(lines),
        records=tuple(
            {
                "condition": r.condition,
                "level": r.level,
                "benchmark": r.benchmark,
                "temperature": r.temperature,
                "k": r.k,
                **measured_record(r.score),
            }
            for r in rows
        ),
    )
