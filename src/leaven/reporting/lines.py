"""Labelled lines with intervals -> a line chart with direct labels, for score by difficulty and learning curves.

Not covered: which lines (figures.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leaven.reporting.marks import mark, scale
from leaven.reporting.svg import Canvas, spread, tick_text, ticks
from leaven.reporting.wording import shorten, text_width


@dataclass(frozen=True, slots=True)
class Line:
    """One labelled line; `bars` are intervals at its points, `band` (x, low, high) a shaded interval around it, and
    `faint` lines (single seeds) of the same style lie behind it.
    """

    label: str
    style: int
    points: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...] = ()
    faint: tuple[tuple[tuple[float, float], ...], ...] = ()
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Axes:
    """The two axes of a line chart; `shaded` marks a span of x with its label."""

    x_name: str
    y_name: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: tuple[float, ...] = ()
    shaded: tuple[float, float, str] | None = None
    percent: bool = False
    marks: bool = True


def draw_lines(lines: Sequence[Line], axes: Axes, width: float) -> Canvas:
    """Return a line chart; lines are labelled at their right end, below the chart on a phone."""
    narrow = width < 500
    longest = max(text_width(line.label) for line in lines) + 26
    gutter = 0.0 if narrow else min(max(longest, 70.0), 230.0)
    height = max(250.0 if narrow else 300.0, (0 if narrow else 16.0 * len(lines)) + 40)
    top = 40.0 if axes.shaded else 26.0
    left, right, bottom = 44.0, width - gutter - 14, top + height - 60
    canvas = Canvas(width)
    at_x, at_y = scale(*axes.x, left + 4, right - 4), scale(*axes.y, bottom, top)
    if axes.shaded:
        a, b, words = axes.shaded
        canvas.rect(at_x(a), top, at_x(b) - at_x(a), bottom - top, cls="band")
        canvas.text((at_x(a) + at_x(b)) / 2, top - 7, words, cls="mute", anchor="middle")
    canvas.text(0, 12, axes.y_name, cls="mute")
    canvas.lines([(left, at_y(tick), right, at_y(tick)) for tick in ticks(*axes.y, 5)], cls="rule")
    for tick in ticks(*axes.y, 5):
        canvas.text(
            left - 8, at_y(tick) + 4.5, tick_text(100 * tick if axes.percent else tick), cls="mute num", anchor="end"
        )
    for tick in axes.x_ticks or ticks(*axes.x, 4 if narrow else 6):
        canvas.text(at_x(tick), bottom + 18, tick_text(tick), cls="mute", anchor="middle")
    canvas.text(right, bottom + 36, axes.x_name, cls="mute", anchor="end")
    _draw_series(canvas, lines, axes, at_x, at_y)
    ends = [at_y(line.points[-1][1]) for line in lines]
    last = max(at_x(line.points[-1][0]) for line in lines) + 12
    if narrow:
        canvas.height = _legend(canvas, lines, bottom + 56)
    else:
        for line, end, y in zip(lines, ends, spread(ends, 16, top, bottom + 8), strict=True):
            colour, shape = mark(line.style)
            canvas.polyline(
                [(last, end), (max(last, right - 4), end), (right + 12, y)], cls=colour, width=1, opacity=0.6
            )
            canvas.marker(shape, right + 18, y, cls=colour, size=4)
            canvas.text(right + 28, y + 4.5, shorten(line.label, gutter - 26), full=line.label)
        canvas.height = bottom + 42
    return canvas


def _draw_series(
    canvas: Canvas, lines: Sequence[Line], axes: Axes, at_x: Callable[[float], float], at_y: Callable[[float], float]
) -> None:
    for line in lines:
        if len(line.band) > 1:
            upper = [(at_x(x), at_y(high)) for x, _, high in line.band]
            lower = [(at_x(x), at_y(low)) for x, low, _ in reversed(line.band)]
            canvas.area([*upper, *lower], cls=mark(line.style)[0], opacity=0.14)
        seeds = [[(at_x(x), at_y(y)) for x, y in (*faint[:-1:2], faint[-1])] for faint in line.faint]
        canvas.polylines(seeds, cls=mark(line.style)[0], width=1, opacity=0.3)
    for i, line in enumerate(lines):
        colour, shape = mark(line.style)
        shift = (i - (len(lines) - 1) / 2) * min(5.0, 24 / max(len(lines), 1)) if line.bars else 0.0
        canvas.lines([(at_x(x) + shift, at_y(low), at_x(x) + shift, at_y(high)) for x, low, high in line.bars], cls=colour, width=1.75)
        points = [(at_x(x) + shift, at_y(y)) for x, y in line.points]
        canvas.polyline(points, cls=colour, width=2)
        canvas.markers(shape, points if axes.marks else points[-1:], cls=colour, size=4)


def _legend(canvas: Canvas, lines: Sequence[Line], y: float) -> float:
    x = 6.0
    for line in lines:
        label = shorten(line.label, canvas.width - 30)
        if x > 6 and x + text_width(label) + 22 > canvas.width:
            x, y = 6.0, y + 20
        colour, shape = mark(line.style)
        canvas.marker(shape, x, y - 4.5, cls=colour, size=4)
        canvas.text(x + 10, y, label, full=line.label)
        x += text_width(label) + 28
    return y + 8
