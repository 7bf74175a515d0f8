"""Predicted against measured numbers, both with intervals -> scatter charts with the line on which they are equal.

Points of one series share colour and marker; a number at each point leads to its name in the list below, so nothing
depends on colour.
Not covered: which numbers (sections/influence_changes.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaven.reporting.marks import mark, scale
from leaven.reporting.svg import Canvas, tick_text, ticks
from leaven.reporting.wording import shorten, text_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point with its intervals (low, high) in x and y, None where there is none; `number` stands beside it."""

    number: int
    x: float
    y: float
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    style: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One chart."""

    title: str
    points: tuple[Point, ...]


def draw_scatter(clouds: Sequence[Cloud], names: Sequence[str], x_name: str, y_name: str, width: float) -> Canvas:
    """Return the charts beside each other (above each other on a phone); `names` explains the numbers from 1 on."""
    canvas = Canvas(width)
    columns = 1 if width < 500 else min(3, len(clouds))
    gap = 30.0
    side = min((width - gap * (columns - 1)) / columns, 400.0)
    canvas.text(0, 12, shorten(y_name, width, 12), cls="mute", full=y_name)
    top = 20.0
    for start in range(0, len(clouds), columns):
        for column, cloud in enumerate(clouds[start : start + columns]):
            _draw(canvas, cloud, column * (side + gap), top, side)
        top += 0.72 * side + 62
    canvas.text(width, top - 14, x_name, cls="mute", anchor="end")
    x, y = 0.0, top + 8
    for number, name in enumerate(names, 1):
        words = shorten(f"{number} {name}", width - 8, 12)
        if x and x + text_width(words, 12) > width:
            x, y = 0.0, y + 17
        canvas.text(x, y, words, cls="mute", full=f"{number} {name}")
        x += text_width(words, 12) + 18
    canvas.height = y + 8
    return canvas


def _draw(canvas: Canvas, cloud: Cloud, x: float, y: float, side: float) -> None:
    canvas.text(x, y + 12, shorten(cloud.title, side, bold=True), cls="strong", full=cloud.title)
    x_span = _span([p.x for p in cloud.points], [v for p in cloud.points for v in p.x_ends or ()])
    y_span = _span([p.y for p in cloud.points], [v for p in cloud.points for v in p.y_ends or ()])
    marks = ticks(*y_span, 5)
    told = [tick_text(t) for t in marks]
    left = x + max(text_width(t, 12) for t in told) + 8
    right, top = x + side - 4, y + 20
    bottom = top + 0.72 * side - 4
    at_x, at_y = scale(*x_span, left, right), scale(*y_span, bottom, top)
    canvas.lines([(left, at_y(t), right, at_y(t)) for t in marks], cls="rule")
    for t, words in zip(marks, told, strict=True):
        canvas.text(left - 5, at_y(t) + 4, words, cls="mute num", anchor="end")
    for t in ticks(*x_span, 3 if side < 300 else 5):
        canvas.text(at_x(t), bottom + 16, tick_text(t), cls="mute", anchor="middle")
    canvas.lines([(at_x(0), top, at_x(0), bottom), (left, at_y(0), right, at_y(0))], cls="zero")
    low, high = max(x_span[0], y_span[0]), min(x_span[1], y_span[1])
    if high > low:
        canvas.line(at_x(low), at_y(low), at_x(high), at_y(high), cls="zero", dash="5 4")
    for p in cloud.points:
        colour, shape = mark(p.style)
        whiskers = []
        if p.x_ends:
            whiskers.append((at_x(p.x_ends[0]), at_y(p.y), at_x(p.x_ends[1]), at_y(p.y)))
        if p.y_ends:
            whiskers.append((at_x(p.x), at_y(p.y_ends[0]), at_x(p.x), at_y(p.y_ends[1])))
        canvas.lines(whiskers, cls=colour, width=1.5)
        canvas.marker(shape, at_x(p.x), at_y(p.y), cls=colour, size=4)
        canvas.text(at_x(p.x) + 6, at_y(p.y) - 6, str(p.number), cls="mute")


def _span(values: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """Return the span of an axis: zero and all points, intervals as far as they do not more than double it."""
    low, high = min([0.0, *values]), max([0.0, *values])
    room = (high - low) or max((abs(v) for v in ends), default=0.0) or 1.0
    low, high = min([low, *(max(v, low - room) for v in ends)]), max([high, *(min(v, high + room) for v in ends)])
    pad = 0.05 * (high - low)
    return low - pad, high + pad
