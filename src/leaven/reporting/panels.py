"""Series in several small charts of one kind -> small multiples: lines with bands, or points with intervals.

For gradient norms by layer and projection, score by checkpoint and swept setting, pass@k, score against cost.
Series are told apart by colour, marker and dash; one legend serves all panels.
Not covered: single line charts with direct labels (lines.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaven.reporting.marks import mark, scale
from leaven.reporting.svg import Canvas, tick_text, ticks
from leaven.reporting.wording import shorten, text_width

DASHES = ("", "6 3", "2 3", "9 3 2 3")
MARKED = 12
"""Lines with at most this many points get a marker at each of them, longer ones at their ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line (or, with a single point, one mark); `band` and `bars` are (x, low, high)."""

    label: str
    style: int
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    bars: tuple[tuple[float, float, float], ...] = ()
    dash: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart with its title and series."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the panels share: names of the axes, columns on a wide page, ticks of x, and whether they share y.

    `positive` values cannot be below zero, so their axis does not go there. `percent` words y as per cent; `x_ticks`
    replaces round numbers (layers, k), and `x_words` says what stands at them.
    """

    x_name: str
    y_name: str
    columns: int = 4
    shared_y: bool = False
    from_zero: bool = True
    positive: bool = False
    percent: bool = False
    x_ticks: tuple[float, ...] = ()
    x_words: tuple[str, ...] = ()


def draw_panels(panels: Sequence[Panel], frame: Frame, width: float) -> Canvas:
    """Return the panels row by row with their legend below."""
    narrow = width < 500
    columns = min(len(panels), max(1, frame.columns // 2) if narrow else frame.columns)
    gap = 14.0 if narrow else 22.0
    cell = (width - gap * (columns - 1)) / columns
    chart = min(max(0.62 * cell, 96.0), 250.0)
    canvas = Canvas(width)
    canvas.text(0, 12, shorten(frame.y_name, width, 12), cls="mute", full=frame.y_name)
    spans = [_y_span(panels if frame.shared_y else [panel], frame) for panel in panels]
    x_span = _x_span(panels)
    top = 22.0
    for first in range(0, len(panels), columns):
        for column, panel in enumerate(panels[first : first + columns]):
            box = (column * (cell + gap), top, cell, chart)
            _draw_panel(canvas, panel, frame, box, x_span, spans[first + column])
        top += chart + 48
    canvas.text(width, top + 6, frame.x_name, cls="mute", anchor="end")
    canvas.height = _draw_legend(canvas, panels, top + 28)
    return canvas


def _x_span(panels: Sequence[Panel]) -> tuple[float, float]:
    values = [x for p in panels for s in p.series for x, _ in s.points]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = 0.06 * (high - low) if all(len(s.points) == 1 for p in panels for s in p.series) else 0.0
    return (low - pad, high + pad) if high > low else (low - 0.5, high + 0.5)


def _y_span(panels: Sequence[Panel], frame: Frame) -> tuple[float, float]:
    """Return the span of y: all points, and their intervals as far as these do not more than double it."""
    points = [y for p in panels for s in p.series for _, y in s.points] or [0.0, 1.0]
    ends = [v for p in panels for s in p.series for _, low, high in (*s.band, *s.bars) for v in (low, high)]
    low, high = min([0.0, *points]) if frame.from_zero else min(points), max(points)
    if high > low:
        room = high - low
        low, high = min([low, *(max(v, low - room) for v in ends)]), max([high, *(min(v, high + room) for v in ends)])
    else:
        low, high = min([low, *ends]), max([high, *ends])
    low = max(low, 0.0) if frame.positive else low
    return low, high + 0.06 * ((high - low) or abs(high) or 1.0)


def _draw_panel(
    canvas: Canvas,
    panel: Panel,
    frame: Frame,
    box: tuple[float, float, float, float],
    x_span: tuple[float, float],
    y_span: tuple[float, float],
) -> None:
    """Draw one chart into box = (x, y, width, height of the plot)."""
    x, y, width, height = box
    marks = ticks(*y_span, 4 if height < 110 else 6)
    told = [tick_text(100 * t if frame.percent else t) for t in marks]
    left, right = x + max((text_width(t, 12) for t in told), default=0.0) + 8, x + width - 5
    top, bottom = y + 22, y + 18 + height
    canvas.text(x, y + 12, shorten(panel.title, width, bold=True), cls="strong", full=panel.title)
    at_x, at_y = scale(*x_span, left + 5, right - 5), scale(*y_span, bottom, top)
    canvas.lines([(left, at_y(tick), right, at_y(tick)) for tick in marks], cls="rule")
    for tick, words in zip(marks, told, strict=True):
        canvas.text(left - 5, at_y(tick) + 4, words, cls="mute num", anchor="end")
    end = -1e9
    places = frame.x_ticks or ticks(*x_span, 3 if width < 240 else 5)
    for tick, words in zip(places, frame.x_words or map(tick_text, places), strict=True):
        words = shorten(words, 90, 12)
        half = text_width(words, 12) / 2
        middle = min(max(at_x(tick), x + half), x + width - half + 6)
        if middle - half > end + 3:
            canvas.text(middle, bottom + 16, words, cls="mute", anchor="middle")
            end = middle + half
    for series in panel.series:
        if len(series.band) > 1:
            upper = [(at_x(a), at_y(high)) for a, _, high in series.band]
            lower = [(at_x(a), at_y(low)) for a, low, _ in reversed(series.band)]
            canvas.area([*upper, *lower], cls=mark(series.style)[0], opacity=0.16)
    columns = {x for s in panel.series for x, _ in s.points}
    apart = 8.0 if len(columns) == 1 else min(2.5, 12 / len(panel.series)) if any(len(s.points) > 1 for s in panel.series) else 0.0
    for i, series in enumerate(panel.series):
        colour, shape = mark(series.style)
        shift = (i - (len(panel.series) - 1) / 2) * apart if series.bars else 0.0
        canvas.lines([(at_x(a) + shift, at_y(low), at_x(a) + shift, at_y(high)) for a, low, high in series.bars], cls=f"k {colour}")
        points = [(at_x(a) + shift, at_y(b)) for a, b in series.points]
        canvas.polyline(points, cls=colour, width=1.75, dash=DASHES[series.dash % len(DASHES)])
        marked = points if len(points) <= MARKED else [points[0], points[-1]]
        canvas.markers(shape, marked, cls=colour, size=3.2 if len(points) > 1 else 5)


def _draw_legend(canvas: Canvas, panels: Sequence[Panel], y: float) -> float:
    """Draw every series' name once, below the panels; return the height of the drawing."""
    x = 4.0
    for series in {(s.label, s.style, s.dash): s for p in panels for s in p.series}.values():
        colour, shape = mark(series.style)
        lined = any(len(s.points) > 1 for p in panels for s in p.series)
        lead = 30.0 if lined else 14.0
        label = shorten(series.label, canvas.width - lead - 8)
        if x > 4 and x + lead + text_width(label) > canvas.width:
            x, y = 4.0, y + 20
        if lined:
            canvas.polyline([(x, y - 4.5), (x + 24, y - 4.5)], cls=colour, width=1.75, dash=DASHES[series.dash % len(DASHES)])
        canvas.marker(shape, x + (12 if lined else 4), y - 4.5, cls=colour, size=4)
        canvas.text(x + lead, y, label, full=series.label)
        x += lead + text_width(label) + 18
    return y + 8
