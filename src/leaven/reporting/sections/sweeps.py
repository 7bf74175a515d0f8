"""Scores by checkpoint and by swept setting -> learning curves, and a chart per value of a setting.

Paper: Liu et al. 2025, figures 1, 2 and 9 (curves over checkpoints), 13 to 15 (batch size, epochs, learning rate).
Not covered: pass@k and temperature (sampling.py); training loss, which has its own section (figures.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from leaven.reporting.lines import Axes, Line, draw_lines
from leaven.reporting.marks import Figure, measure_words
from leaven.reporting.panels import Frame, Panel, Series, draw_panels
from leaven.reporting.sections.inputs import CheckpointScore, OrderInputs
from leaven.reporting.sections.section import (
    Cell,
    Column,
    Section,
    Styles,
    Table,
    measured_cell,
    measured_record,
    sentence,
    shared_basis,
    with_rest,
)
from leaven.reporting.svg import Canvas
from leaven.reporting.wording import amount, level_text, number

Drawing = Callable[[float], Canvas]
BAND = "Shaded: 95 % intervals over seeds and items."


def sweep_sections(inputs: OrderInputs) -> list[Section]:
    """Return the section of learning curves and one for each sweep, as far as there is data."""
    found = [_curves(inputs), *_sweeps(inputs)]
    return [section for section in found if section and section.tables]


def _by_measure(rows: Sequence[CheckpointScore]) -> dict[tuple[str, str], list[CheckpointScore]]:
    groups: dict[tuple[str, str], list[CheckpointScore]] = {}
    for r in rows:
        groups.setdefault((r.benchmark, r.metric), []).append(r)
    return groups


def _level(row: CheckpointScore) -> str:
    """Return the level of a row in words, without what a sweep says already."""
    swept = row.sweep.replace(" ", "_")
    said = level_text(row.level).split(", ")
    return ", ".join(part for part in said if part and part.split(" = ")[0] != swept)


def _name(row: CheckpointScore) -> str:
    return row.condition + (f", {_level(row)}" if _level(row) else "")


def _drawn(rows: Sequence[CheckpointScore]) -> bool:
    """Return whether any of the rows was measured."""
    return any(r.score.estimate is not None for r in rows)


def _named(rows: Sequence[CheckpointScore], styles: Styles) -> list[tuple[str, list[CheckpointScore]]]:
    """Return the rows of each condition and level by step, in the order of the study."""
    order = styles.sorted(r.condition for r in rows)
    names = sorted(dict.fromkeys((order.index(r.condition), _name(r)) for r in rows))
    measured = sorted((r for r in rows if r.score.estimate is not None), key=lambda r: r.step)
    return [(name, [r for r in measured if _name(r) == name]) for _, name in names]


def _band(rows: Sequence[CheckpointScore]) -> tuple[tuple[float, float, float], ...]:
    """Return the band of a line: the intervals, or the span of the seeds where a score has none."""
    found = []
    for r in rows:
        low = r.score.low if r.score.low is not None else min(r.per_seed, default=None)
        high = r.score.high if r.score.high is not None else max(r.per_seed, default=None)
        if low is not None and high is not None:
            found.append((r.step, low, high))
    return tuple(found)


# ---- learning curves -----------------------------------------------------------------------------


def _curves(inputs: OrderInputs) -> Section | None:
    rows = [r for r in inputs.checkpoints if not r.sweep]
    if not rows:
        return None
    styles = Styles(inputs.strategies)
    figures, tables = [], []
    for n, ((benchmark, metric), own) in enumerate(_by_measure(rows).items(), 1):
        if not _drawn(own):
            continue
        figures.append(_curve_figure(n, measure_words(metric, benchmark), own, styles))
        tables.append(_curve_table(n, measure_words(metric, benchmark), own, styles))
    return Section(
        id="score-curves",
        title="Score by checkpoint",
        short="Score by checkpoint",
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _curve_figure(n: int, measure: str, rows: Sequence[CheckpointScore], styles: Styles) -> Figure:
    """Return the curves of one measure: one chart with names at the lines, or a chart per level of what is varied."""
    percent = all(r.binary for r in rows)
    named = [(name, own) for name, own in _named(rows, styles) if own]
    said = [f"{name} ends at {number(own[-1].score.estimate, percent=percent)}" for name, own in named[:8]]
    title = f"{sentence(measure)} by checkpoint"
    levels = list(dict.fromkeys(_level(r) for r in rows))
    charts = [(level_words or "no level", [r for r in rows if _level(r) == level_words]) for level_words in levels]
    several = _charts(charts, "optimiser step", measure, percent, styles) if len(levels) > 1 else None
    return Figure(
        name=f"score-curves-{n}",
        title=title,
        description=f"{title}: {'; '.join(said)}.",
        caption=BAND,
        table=f"score-curves-{n}",
        draw=several or _chart(named, measure, percent, styles),
    )


def _chart(named: Sequence[tuple[str, list[CheckpointScore]]], measure: str, percent: bool, styles: Styles) -> Drawing:
    """Return one line chart with the names of the lines at their ends."""
    lines = [
        Line(name, styles.of(own[0].condition), tuple((r.step, r.score.estimate or 0.0) for r in own), band=_band(own))
        for name, own in named
    ]
    values = [v for line in lines for v in (*(y for _, y in line.points), *(v for b in line.band for v in b[1:]))]
    axes = Axes(
        "optimiser step",
        measure + (", %" if percent else ""),
        (0.0, max(x for line in lines for x, _ in line.points)),
        (0.0, 1.0) if percent and max(values) > 0.6 else (min(0.0, *values), max(values) * 1.05 or 1.0),
        percent=percent,
        marks=max(len(line.points) for line in lines) <= 14,
    )
    return lambda width: draw_lines(lines, axes, width)


def _charts(
    charts: Sequence[tuple[str, Sequence[CheckpointScore]]], x_name: str, measure: str, percent: bool, styles: Styles
) -> Drawing:
    """Return a small chart per title, on one vertical scale."""
    panels = []
    for title, rows in charts:
        series = tuple(
            Series(
                label=own[0].condition,
                style=styles.of(own[0].condition),
                points=tuple((r.step, r.score.estimate or 0.0) for r in own),
                band=_band(own),
            )
            for _, own in _named(rows, styles)
            if own
        )
        if series:
            panels.append(Panel(title=title, series=series))
    frame = Frame(
        x_name=x_name,
        y_name=measure + (", %" if percent else ""),
        columns=min(4, len(panels)) if len(panels) > 1 else 2,
        shared_y=True,
        percent=percent,
    )
    return lambda width: draw_panels(panels, frame, width)


def _checkpoint_record(r: CheckpointScore) -> dict[str, object]:
    return {
        "condition": r.condition,
        "level": r.level,
        "benchmark": r.benchmark,
        "metric": r.metric,
        "sweep": r.sweep,
        "setting": r.setting,
        "step": r.step,
        **measured_record(r.score),
        "per_seed": " ".join(f"{v:.6g}" for v in r.per_seed),
    }


def _curve_table(n: int, measure: str, rows: Sequence[CheckpointScore], styles: Styles) -> Table:
    """Return the first, the halfway, the best and the last checkpoint; all of them stand in the records."""
    percent = all(r.binary for r in rows)
    shared = shared_basis(r.score for r in rows)
    lines = []
    for _, own in _named(rows, styles):
        if not own:
            continue
        best = max(own, key=lambda r: r.score.estimate or 0.0)
        what = f"{_name(own[0])}, {measure}, step {amount(own[-1].step)}"
        cells = [measured_cell(r.score, percent=percent, shared=shared) for r in (own[0], own[len(own) // 2], best)]
        cells.append(measured_cell(own[-1].score, percent=percent, shared=shared, what=what))
        lines.append((styles.cell(own[0].condition, _level(own[0])), *cells, Cell(text=amount(best.step))))
    steps = sorted({r.step for r in rows})
    tags = (f"step {amount(steps[0])}", f"step {amount(steps[len(steps) // 2])}", "highest", f"step {amount(steps[-1])}")
    return Table(
        id=f"score-curves-{n}",
        caption=with_rest(f"{sentence(measure)}{', %' if percent else ''} at {len(steps)} checkpoints, with 95 % intervals", shared)
        + ". The best checkpoint was chosen by this score, so its value is optimistic",
        columns=(
            Column(name="Condition"),
            *(Column(name=w, numeric=True, tags=(t,)) for w, t in zip(("First", "Halfway", "Best", "Last"), tags, strict=True)),
            Column(name="Step of the best", numeric=True),
        ),
        rows=tuple(lines),
        records=tuple(map(_checkpoint_record, rows)),
    )


# ---- sweeps of one setting -----------------------------------------------------------------------


def _sweeps(inputs: OrderInputs) -> list[Section]:
    styles = Styles(inputs.strategies)
    sections = []
    for name in dict.fromkeys(r.sweep for r in inputs.checkpoints if r.sweep):
        rows = [r for r in inputs.checkpoints if r.sweep == name]
        ident = "sweep-" + "".join(c if c.isalnum() else "-" for c in name.lower())
        figures, tables = [], []
        for n, ((benchmark, metric), own) in enumerate(_by_measure(rows).items(), 1):
            if not _drawn(own):
                continue
            figures.append(_sweep_figure(f"{ident}-{n}", name, measure_words(metric, benchmark), own, styles))
            tables.append(_sweep_table(f"{ident}-{n}", name, measure_words(metric, benchmark), own, styles))
        sections.append(Section(id=ident, title=f"Sweep: {name}", short=f"Sweep: {name}", figures=tuple(figures), tables=tuple(tables)))
    return sections


def _settings(rows: Sequence[CheckpointScore]) -> list[str]:
    """Return the swept values, as numbers where all of them are numbers."""
    found = list(dict.fromkeys(r.setting for r in rows))
    return sorted(found, key=float) if _numeric(found) else found


def _sweep_figure(ident: str, sweep: str, measure: str, rows: Sequence[CheckpointScore], styles: Styles) -> Figure:
    """Return a chart per setting where it has several checkpoints, else one chart of score against setting."""
    percent = all(r.binary for r in rows)
    settings = _settings(rows)
    said = [
        f"{name} at {sweep} {setting} ends at {number(own[-1].score.estimate, percent=percent)}"
        for setting in settings
        for name, own in _named([r for r in rows if r.setting == setting], styles)
        if own
    ]
    single = len({r.step for r in rows}) == 1
    if single:
        draw, caption = _against_setting(sweep, measure, percent, rows, styles), "Bars are 95 % intervals."
        if not _numeric(settings):
            caption += " Settings stand in the order of the study."
    else:
        charts = [(f"{sweep} {s}", [r for r in rows if r.setting == s]) for s in settings]
        x_name = "share of all steps" if max(r.step for r in rows) <= 1 else "optimiser step"
        draw, caption = _charts(charts, x_name, measure, percent, styles), f"One chart per value of {sweep}, on one vertical scale. {BAND}"
    return Figure(
        name=ident,
        title=f"{sentence(measure)} by {sweep}",
        description=f"{measure} by {sweep}: {'; '.join(said[:10])}.",
        caption=caption,
        table=ident,
        draw=draw,
    )


def _numeric(settings: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(s)) for s in settings)
    except ValueError:
        return False


def _against_setting(sweep: str, measure: str, percent: bool, rows: Sequence[CheckpointScore], styles: Styles) -> Drawing:
    """Return the final score against the setting, evenly spaced: settings are often powers of a number."""
    settings = _settings(rows)
    place = {s: float(i + 1) for i, s in enumerate(settings)}
    series = []
    for name, own in _named(rows, styles):
        if not own:
            continue
        found = sorted(((place[r.setting], r.score) for r in own), key=lambda pair: pair[0])
        points = tuple((x, m.estimate or 0.0) for x, m in found)
        bars = tuple((x, m.low, m.high) for x, m in found if m.low is not None and m.high is not None)
        series.append(Series(label=name, style=styles.of(own[0].condition), points=points, bars=bars))
    frame = Frame(
        x_name=sweep,
        y_name=measure + (", %" if percent else ""),
        columns=1,
        percent=percent,
        x_ticks=tuple(place.values()),
        x_words=tuple(settings),
    )
    panel = Panel(title="", series=tuple(series))
    return lambda width: draw_panels([panel], frame, width)


def _sweep_table(ident: str, sweep: str, measure: str, rows: Sequence[CheckpointScore], styles: Styles) -> Table:
    """Return the last checkpoint of every condition at every setting."""
    percent = all(r.binary for r in rows)
    settings = _settings(rows)
    shared = shared_basis(r.score for r in rows)
    lines = []
    for name, own in _named(rows, styles):
        if own:
            last = {r.setting: r for r in own}
            what = f"{name}, {measure}, {sweep}"
            cells = [
                measured_cell(last[s].score, percent=percent, shared=shared, what=f"{what} {s}") if s in last else Cell()
                for s in settings
            ]
            lines.append((styles.cell(own[0].condition, _level(own[0])), *cells))
    return Table(
        id=ident,
        caption=with_rest(f"{sentence(measure)}{', %' if percent else ''} at the last checkpoint by {sweep}, with 95 % intervals", shared),
        columns=(Column(name="Condition"), *(Column(name=s, numeric=True) for s in settings)),
        rows=tuple(lines),
        records=tuple(map(_checkpoint_record, rows)),
    )
