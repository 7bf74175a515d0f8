"""Histograms -> a ridge plot: one row per distribution on a shared axis, its Gaussian fit, its mean with interval.

Rows instead of histograms laid over each other: eight conditions stay apart without relying on colour, and the axis
lines them up for comparison. On a phone the words stand above their row.
Not covered: which distributions (sections/distributions.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from leaven.reporting.marks import mark, scale
from leaven.reporting.svg import Canvas, tick_text, ticks
from leaven.reporting.wording import shorten, text_width

TAIL = 0.0025
"""Share of each histogram that the axis may leave out at either end, so that single outliers do not squeeze the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """One histogram; `words` are two short lines set to its right."""

    label: str
    style: int
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    mean: float | None
    low: float | None
    high: float | None
    sd: float
    words: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows under one heading; "" for none."""

    heading: str
    rows: tuple[Ridge, ...]


def axis_range(rows: Sequence[Ridge]) -> tuple[float, float]:
    """Return the span of values that holds all but TAIL of every histogram at either end, and every interval."""
    lows, highs = [], []
    for row in rows:
        total, seen = sum(row.counts) or 1.0, 0.0
        inside = []
        for (a, b), count in zip(pairwise(row.edges), row.counts, strict=True):
            seen += count
            if seen > TAIL * total and seen - count < (1 - TAIL) * total and count:
                inside += [a, b]
        lows += [min(inside, default=row.edges[0]), *(v for v in (row.low, row.mean) if v is not None)]
        highs += [max(inside, default=row.edges[-1]), *(v for v in (row.high, row.mean) if v is not None)]
    return min(lows), max(highs)


def draw_ridges(groups: Sequence[Group], x_name: str, width: float) -> Canvas:
    """Return the ridge plot; every histogram is drawn to its own height."""
    narrow = width < 500
    rows = [row for group in groups for row in group.rows]
    canvas = Canvas(width)
    words = max(text_width(w) for r in rows for w in r.words) + 12
    labels = min(max(text_width(r.label) for r in rows) + 26, 240.0)
    left, right = (8.0, width - 8) if narrow else (labels, width - words)
    at = scale(*axis_range(rows), left, right)
    step, high = (62.0, 34.0) if narrow else (50.0, 40.0)
    y, spans = 0.0, []
    for group in groups:
        if group.heading:
            canvas.text(0, y + 14, shorten(group.heading, width, bold=True), cls="strong", full=group.heading)
            y += 22
        start = y
        for _ in group.rows:
            y += step
        spans.append((start, y))
        y += 12
    bottom = y - 12
    for tick in ticks(*axis_range(rows), 4 if narrow else 7):
        for start, end in spans:
            canvas.line(at(tick), start + (step - high if narrow else 4), at(tick), end, cls="rule")
        canvas.text(at(tick), bottom + 17, tick_text(tick), cls="mute", anchor="middle")
    canvas.text(right, bottom + 35, x_name, cls="mute", anchor="end")
    for group, (start, _) in zip(groups, spans, strict=True):
        for i, row in enumerate(group.rows):
            _draw_row(canvas, row, start + step * (i + 1), high, at, left, narrow)
    canvas.height = bottom + 42
    return canvas


def _draw_row(
    canvas: Canvas, row: Ridge, base: float, height: float, at: Callable[[float], float], left: float, narrow: bool
) -> None:
    """Draw one row whose histogram stands on y = `base`."""
    colour, shape = mark(row.style)
    total = sum(row.counts)
    peak = max((c / (b - a) for (a, b), c in zip(pairwise(row.edges), row.counts, strict=True)), default=0.0) or 1.0
    rise = (height - 4) / peak
    outline = [(at(row.edges[0]), base)]
    for (a, b), count in zip(pairwise(row.edges), row.counts, strict=True):
        top = base - rise * count / (b - a)
        outline += [(at(a), top), (at(b), top)]
    outline = _distinct([*outline, (at(row.edges[-1]), base)])
    canvas.area(outline, cls=colour, opacity=0.22)
    canvas.polyline(outline, cls=colour, width=1.25)
    if row.mean is not None and row.sd > 0 and total > 0:
        canvas.polyline(_gaussian(row, total, rise, base, height, at), cls="c6", width=1.25, dash="4 3")
    if row.mean is not None:
        canvas.line(at(row.mean), base, at(row.mean), base - height + 2, cls="c6", width=1.25)
        if row.low is not None and row.high is not None:
            canvas.line(at(row.low), base, at(row.high), base, cls="c6", width=4)
    if narrow:
        room = canvas.width - text_width(row.words[0]) - 26
        canvas.marker(shape, 6, base - height - 10, cls=colour, size=4)
        canvas.text(16, base - height - 6, shorten(row.label, room), full=row.label)
        canvas.text(canvas.width, base - height - 6, row.words[0], cls="num", anchor="end")
    else:
        canvas.marker(shape, 6, base - 17, cls=colour, size=4)
        canvas.text(16, base - 13, shorten(row.label, left - 22), full=row.label)
        canvas.text(canvas.width, base - 20, row.words[0], cls="num", anchor="end")
        canvas.text(canvas.width, base - 4, row.words[1], cls="mute num", anchor="end")


def _distinct(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points without those that lie on the straight line between their neighbours (empty bins, ends)."""
    kept = points[:1]
    for here, following in zip(points[1:], [*points[2:], None], strict=True):
        flat = following is not None and kept[-1][1] == here[1] == following[1]
        upright = following is not None and kept[-1][0] == here[0] == following[0]
        if not flat and not upright and here != kept[-1]:
            kept.append(here)
    return kept


def _gaussian(
    row: Ridge, total: float, rise: float, base: float, height: float, at: Callable[[float], float]
) -> list[tuple[float, float]]:
    """Return the normal curve with the row's mean and standard deviation and the histogram's area, within the row."""
    mean = row.mean or 0.0
    points = []
    for i in range(49):
        x = mean + row.sd * (i - 24) / 8
        if row.edges[0] <= x <= row.edges[-1]:
            density = total * math.exp(-0.5 * ((x - mean) / row.sd) ** 2) / (row.sd * math.sqrt(2 * math.pi))
            points.append((at(x), max(base - rise * density, base - height - 2)))
    return [p for p, q in zip(points, [*points[1:], (None, None)], strict=True) if p != q]
