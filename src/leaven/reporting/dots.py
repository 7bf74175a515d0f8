"""Rows of a number with its interval -> dot-and-whisker charts, panel above panel on scales of their own.

For means of groups, methods and token classes: a name at the left, the number in words at the right, zero (or a row's own
base rate, an upright tick) to compare with. Marks differ by shape, so the chart reads in grey.
Not covered: contrasts of a study (forest.py), charts over a numeric axis (panels.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaven.reporting.marks import mark, scale
from leaven.reporting.svg import Canvas, tick_text, ticks
from leaven.reporting.wording import shorten, text_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One row; `base` is a value to compare with, drawn as an upright tick."""

    label: str
    words: str
    estimate: float
    low: float | None = None
    high: float | None = None
    style: int = 6
    base: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """One panel: rows on one scale, with zero on it unless `zero` is off; `percent` words the axis as per cent."""

    title: str
    rows: tuple[Dot, ...]
    zero: bool = True
    percent: bool = False


def draw_dots(panels: Sequence[Dots], width: float) -> Canvas:
    """Return the panels, one above the other."""
    canvas, y = Canvas(width), 4.0
    rows = [r for p in panels for r in p.rows]
    labels = min(max((text_width(r.label) for r in rows), default=0.0) + 16, 250.0)
    words = max((text_width(r.words, 12) for r in rows), default=0.0) + 12
    for panel in panels:
        y = _panel(canvas, panel, y, labels, words) + 22
    canvas.height = y - 14
    return canvas


def _panel(canvas: Canvas, panel: Dots, top: float, labels: float, words: float) -> float:
    narrow = canvas.width < 500
    left, right = (6.0, canvas.width - 8) if narrow else (labels, canvas.width - words)
    step, first = (38.0, top + 24) if narrow else (23.0, top + 20)
    low, high = _span(panel)
    at = scale(low, high, left, right)
    canvas.text(0, top + 12, shorten(panel.title, canvas.width, bold=True), cls="strong", full=panel.title)
    bottom = first + step * len(panel.rows)
    marks = ticks(low, high, 4 if narrow else 6)
    canvas.lines([(at(t), first, at(t), bottom) for t in marks if t or not panel.zero], cls="rule")
    if panel.zero and low <= 0 <= high:
        canvas.line(at(0), first, at(0), bottom, cls="zero", width=1.25)
    for t in marks:
        canvas.text(at(t), bottom + 14, tick_text(100 * t if panel.percent else t), cls="mute", anchor="middle")
    places = [(row, first + step * i, first + step * i + (step - 9 if narrow else step / 2)) for i, row in enumerate(panel.rows)]
    for row, start, y in places:
        room = canvas.width - text_width(row.words, 12) - 10 if narrow else left - 12
        canvas.text(0, start + 13 if narrow else y + 4.5, shorten(row.label, room), full=row.label)
    for row, start, y in places:
        canvas.text(canvas.width, start + 13 if narrow else y + 4.5, row.words, cls="num mute", anchor="end")
    canvas.lines([(at(r.base), y - 7, at(r.base), y + 7) for r, _, y in places if r.base is not None], cls="zero", width=2.5)
    for style in dict.fromkeys(r.style for r in panel.rows):
        colour, shape = mark(style)
        own = [(r, y) for r, _, y in places if r.style == style]
        spans = [(at(max(r.low, low)), y, at(min(r.high, high)), y) for r, y in own if r.low is not None and r.high is not None]
        canvas.lines(spans, cls=colour, width=2)
        canvas.markers(shape, [(at(r.estimate), y) for r, y in own], cls=colour, size=4)
    return bottom + 16


def _span(panel: Dots) -> tuple[float, float]:
    """Return the span of the axis: all numbers, and intervals as far as they do not more than triple it."""
    values = [r.estimate for r in panel.rows] + [r.base for r in panel.rows if r.base is not None] + ([0.0] if panel.zero else [])
    ends = [v for r in panel.rows for v in (r.low, r.high) if v is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) or max((abs(v) for v in [*ends, high]), default=0.0) or 1.0
    low, high = min([low, *(max(v, low - room) for v in ends)]), max([high, *(min(v, high + room) for v in ends)])
    pad = 0.04 * ((high - low) or 1.0)
    return low - pad, high + pad
