"""Contrasts and scores -> the forest plot: estimates with their intervals on shared axes, words and numbers beside
them.

On a phone a row takes two lines: names and numbers above, the interval below.
Not covered: other figures (figures.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from leaven.core.types import Finding
from leaven.reporting.facts import ReportData, Score
from leaven.reporting.marks import (
    Figure,
    contrast_label,
    contrast_margin,
    contrast_measure,
    grouped,
    is_binary,
    lower_is_better,
    mark,
    measure_words,
    scale,
    score_measure,
    series_label,
    styles,
)
from leaven.reporting.svg import Canvas, tick_text, ticks
from leaven.reporting.wording import interval, number, plural, shorten, text_width

MAX_ROWS = 60
"""Rows per panel; the rest stand in the tables."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a forest plot; `dots` are single seeds, `band` is the declared margin, if any."""

    label: str
    estimate: float
    low: float | None
    high: float | None
    style: int
    strong: bool = False
    dots: tuple[float, ...] = ()
    band: float | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows of a forest plot on one axis; `lower` marks a measure of which less is better."""

    heading: str
    rows: tuple[Row, ...]
    zero: bool
    percent: bool = False
    hidden: int = 0
    lower: bool = False


def forest_figure(data: ReportData) -> Figure | None:
    """Return the forest plot: every contrast with its interval on the left of nothing and right of nothing, then the
    scores.
    """
    panels = _panels(data)
    if not panels:
        return None
    contrasts = _drawn(data)
    said = "; ".join(f"{contrast_label(c)}: {_effect_words(c)}" for c in contrasts[:8])
    text = (
        f"Differences between conditions with 95 % intervals. {said}."
        if said
        else "Scores of the conditions with 95 % intervals."
    )
    caption = "Marks are estimates, bars are 95 % intervals."
    if any(r.band for p in panels for r in p.rows):
        caption += " Shaded: differences within the declared margin, which count as none."
    if any(r.dots for p in panels for r in p.rows):
        caption += " Small dots are single seeds."
    hidden = sum(p.hidden for p in panels)
    caption += f" {plural(hidden, 'more row')} in the tables." if hidden else ""
    return Figure(
        name="forest",
        title="Forest plot of contrasts and scores",
        description=text,
        caption=caption,
        table="contrasts" if data.contrasts else "scores",
        draw=lambda width: _draw_forest(panels, width),
    )


def _drawn(data: ReportData) -> list[Finding]:
    """Return the contrasts over all items of their benchmark that could be taken, the primary ones first."""
    drawn = [c for c in data.contrasts if c.estimate is not None and c.data.get("difficulty") is None]
    return sorted(drawn, key=lambda c: not data.is_primary(c))


def _panels(data: ReportData) -> list[Panel]:
    style = styles(data)
    panels = []
    for (benchmark, metric), group in grouped(_drawn(data), contrast_measure).items():
        rows = tuple(
            Row(
                contrast_label(c),
                c.estimate or 0.0,
                c.low,
                c.high,
                6,
                strong=data.is_primary(c) and len(group) > 1,
                dots=seed_dots(c),
                band=contrast_margin(c),
                words=_effect_words(c),
            )
            for c in group[:MAX_ROWS]
        )
        percent = all(is_binary(c) for c in group)
        panels.append(
            Panel(
                f"Difference in {measure_words(metric, benchmark)}" + (", points" if percent else ""),
                rows,
                True,
                percent,
                len(group) - len(rows),
                lower_is_better(data, metric),
            )
        )
    overall = [s for s in data.leading_scores() if s.estimate is not None]
    for (benchmark, metric), scores in grouped(overall, score_measure).items():
        rows = tuple(
            Row(
                series_label(s.condition, s.level),
                s.estimate or 0.0,
                s.low,
                s.high,
                style[s.condition],
                dots=s.per_seed,
                words=_score_words(s),
            )
            for s in scores[:MAX_ROWS]
        )
        percent = all(s.binary for s in scores)
        name = measure_words(metric, benchmark)
        lower = lower_is_better(data, metric)
        heading = name[:1].upper() + name[1:] + (", %" if percent else "") + (" (lower is better)" if lower else "")
        panels.append(Panel(heading, rows, False, percent, len(scores) - len(rows), lower))
    return panels


def seed_dots(contrast: Finding) -> tuple[float, ...]:
    """Return the difference of each seed; () for one seed, whose difference is the estimate."""
    found = tuple(float(v) for v in contrast.data.get("seed_differences") or () if v is not None)
    return found if len(found) > 1 else ()


def _effect_words(contrast: Finding) -> str:
    percent = is_binary(contrast)
    return (
        f"{number(contrast.estimate, sign=True, percent=percent)} "
        f"{interval(contrast.low, contrast.high, sign=True, percent=percent)}"
    )


def _score_words(score: Score) -> str:
    return f"{number(score.estimate, percent=score.binary)} {interval(score.low, score.high, percent=score.binary)}"


def _draw_forest(panels: Sequence[Panel], width: float) -> Canvas:
    canvas = Canvas(width)
    y = 4.0
    labels = min(max(text_width(r.label, bold=r.strong) for p in panels for r in p.rows) + 18, 270.0)
    for panel in panels:
        y = _draw_panel(canvas, panel, y, labels) + 26
    canvas.height = y - 18
    return canvas


def _draw_panel(canvas: Canvas, panel: Panel, top: float, label_width: float) -> float:
    narrow = canvas.width < 500
    left, right = (12.0, canvas.width - 14) if narrow else (label_width, canvas.width - 172)
    step = 46.0 if narrow else 30.0
    low, high = _extent(panel)
    at = scale(low, high, left, right)
    canvas.text(0, top + 13, shorten(panel.heading, canvas.width, 13, bold=True), cls="strong", full=panel.heading)
    first = top + (28 if narrow else 24)
    bottom = first + step * len(panel.rows)
    marks = ticks(low, high, 4 if narrow else 6)
    starts = [first + step * y + 21 for y in range(len(panel.rows))] if narrow else [first]
    for zero in (False, True):
        places = [at(tick) for tick in marks if (panel.zero and tick == 0) == zero]
        segments = [(x, start, x, start + 25 if narrow else bottom) for x in places for start in starts]
        canvas.lines(segments, cls="zero" if zero else "rule", width=1.25 if zero else 1)
    for tick in marks:
        canvas.text(
            at(tick), bottom + 16, tick_text(100 * tick if panel.percent else tick), cls="mute", anchor="middle"
        )
    _draw_rows(canvas, panel, (first, step), at, (low, high), left)
    if panel.zero:
        higher, lower = ("", " (better)") if panel.lower else (" (better)", "")
        canvas.text(right, bottom + 34, f"first named is higher{higher} \u2192", cls="mute", anchor="end")
        canvas.text(left, bottom + 34, f"\u2190 lower{lower}", cls="mute")
    return bottom + (36 if panel.zero else 18)


def _draw_rows(
    canvas: Canvas,
    panel: Panel,
    rows: tuple[float, float],
    at: Callable[[float], float],
    extent: tuple[float, float],
    left: float,
) -> None:
    """Draw all rows, the first at y = rows[0] and one every rows[1] px; what looks alike in neighbouring rows is one path."""
    narrow = left < 50
    places = [(row, rows[0] + rows[1] * i) for i, row in enumerate(panel.rows)]
    middle = (lambda top: top + rows[1] - 13) if narrow else (lambda top: top + rows[1] / 2)
    bands = []
    for row, top in places:
        y = middle(top)
        words, cls = "strong" if row.strong else "", ("num strong" if row.strong else "num")
        room = canvas.width - text_width(row.words, bold=row.strong) - 10 if narrow else left - 14
        canvas.text(0, top + 15 if narrow else y + 4.5, shorten(row.label, room, bold=row.strong), cls=words, full=row.label)
        canvas.text(canvas.width, top + 15 if narrow else y + 4.5, row.words, cls=cls, anchor="end")
        if row.band:
            a, b = max(-row.band, extent[0]), min(row.band, extent[1])
            bands.append((at(a), y - 9, at(b) - at(a), 18))
    canvas.boxes(bands, cls="band")
    for (style, strong), group in groupby(places, lambda place: (place[0].style, place[0].strong)):
        alike = [(row, middle(top)) for row, top in group]
        colour, shape = mark(style)
        dots = [(at(dot), y + 8) for row, y in alike for dot in row.dots]
        if dots:
            canvas.markers("circle", dots, cls=colour, size=1.6)
        bars = [
            (at(max(row.low, extent[0])), y, at(min(row.high, extent[1])), y)
            for row, y in alike
            if row.low is not None and row.high is not None
        ]
        canvas.lines(bars, cls=colour, width=2.5 if strong else 2)
        points = [(at(row.estimate), y) for row, y in alike]
        canvas.markers("square" if panel.zero else shape, points, cls=colour, size=5.5 if strong else 5)


def _extent(panel: Panel) -> tuple[float, float]:
    values = [v for r in panel.rows for v in (r.estimate, r.low, r.high, *r.dots) if v is not None]
    if panel.zero:
        values.append(0.0)
    low, high = min(values), max(values)
    if not panel.zero and low >= 0 and high <= 1.0:
        return 0.0, 1.0
    pad = (high - low or abs(high) or 1.0) * 0.06
    return (low - pad, high + pad)
