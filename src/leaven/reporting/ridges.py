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
    """Return the span of values that holds all but TAIL of every histogram at either end, and the means with their
    intervals as far as these go on by no more than a quarter of that span.
    """
    lows, highs = [], []
    for row in rows:
        total, seen = sum(row.counts) or 1.0, 0.0
        inside = []
        for (a, b), count in zip(pairwise(row.edges), row.counts, strict=True):
            seen += count
            if seen > TAIL * total and seen - count < (1 - TAIL) * total and count:
                inside += [a, b]
        lows += [min(inside, default=row.edges[0]), *([row.mean] if row.mean is not None else [])]
        highs += [max(inside, default=row.edges[-1]), *([row.mean] if row.mean is not None else [])]
    low, high = min(lows), max(highs)
    more = 0.25 * (high - low)
    ends = [v for row in rows for v in (row.low, row.high) if v is not None]
    return min([low, *(max(v, low - more) for v in ends)]), max([high, *(min(v, high + more) for v in ends)])


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
    marks = ticks(*axis_range(rows), 4 if narrow else 7)
    canvas.lines([(at(x), start + (step - high if narrow else 4), at(x), end) for x in marks for start, end in spans], cls="rule")
    for tick in marks:
        canvas.text(at(tick), bottom + 17, tick_text(tick), cls="mute", anchor="middle")
    canvas.text(right, bottom + 35, x_name, cls="mute", anchor="end")
    means, intervals = [], []
    for group, (start, _) in zip(groups, spans, strict=True):
        for i, row in enumerate(group.rows):
            base = start + step * (i + 1)
            _draw_row(canvas, row, (base, high), at, left, axis_range(rows))
            if row.mean is not None:
                means.append((at(row.mean), base, at(row.mean), base - high + 2))
                if row.low is not None and row.high is not None:
                    intervals.append((at(row.low), base, at(row.high), base))
    canvas.lines(means, cls="c6", width=1.25)
    canvas.lines(intervals, cls="c6", width=4)
    canvas.height = bottom + 42
    return canvas


def _draw_row(
    canvas: Canvas,
    row: Ridge,
    box: tuple[float, float],
    at: Callable[[float], float],
    left: float,
    extent: tuple[float, float],
) -> None:
    """Draw one row whose histogram stands in box = (y of its foot, height)."""
    (base, height), narrow = box, canvas.width < 500
    colour, shape = mark(row.style)
    total = sum(row.counts)
    peak = max((c / (b - a) for (a, b), c in zip(pairwise(row.edges), row.counts, strict=True)), default=0.0) or 1.0
    rise = (height - 4) / peak
    canvas.steps(_outline(row, rise, base, at, extent), cls=colour)
    if row.mean is not None and row.sd > 0 and total > 0:
        canvas.polyline(_gaussian(row, total, rise, (base, height), at, extent), cls="c6", width=1.25, dash="4 3")
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


def _outline(
    row: Ridge, rise: float, base: float, at: Callable[[float], float], extent: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return the corners of the histogram within the axis, one direction at a time, without empty ends."""
    bins = [(a, b, c) for (a, b), c in zip(pairwise(row.edges), row.counts, strict=True) if b > extent[0] and a < extent[1]]
    filled = [i for i, (_, _, c) in enumerate(bins) if c]
    if not filled:
        return [(at(row.edges[0]), base), (at(row.edges[-1]), base)]
    bins = bins[filled[0] : filled[-1] + 1]
    corners = [(at(bins[0][0]), base)]
    for i, (_, b, count) in enumerate(bins):
        top = base - rise * count / (b - bins[i][0])
        if abs(top - corners[-1][1]) >= 0.05:
            corners.append((corners[-1][0], top))
        if i + 1 < len(bins) and abs(rise * bins[i + 1][2] / (bins[i + 1][1] - b) - (base - top)) < 0.05:
            continue
        corners.append((at(b), corners[-1][1]))
    return [*corners, (corners[-1][0], base)]


def _gaussian(
    row: Ridge,
    total: float,
    rise: float,
    box: tuple[float, float],
    at: Callable[[float], float],
    extent: tuple[float, float],
) -> list[tuple[float, float]]:
    """Return the normal curve with the row's mean and standard deviation and the histogram's area, within
    box = (y of its foot, height).
    """
    base, height = box
    mean = row.mean or 0.0
    points = []
    for i in range(25):
        x = mean + row.sd * (i - 12) / 4.1
        if max(row.edges[0], extent[0]) <= x <= min(row.edges[-1], extent[1]):
            density = total * math.exp(-0.5 * ((x - mean) / row.sd) ** 2) / (row.sd * math.sqrt(2 * math.pi))
            points.append((at(x), max(base - rise * density, base - height - 2)))
    return [p for p, q in zip(points, [*points[1:], (None, None)], strict=True) if p != q]
