"""Counts of a few outcomes per row -> stacked bars of their shares, with the counts in words.

Outcomes are told apart by lightness and, where two lie close, by hatching; the legend names them in order.
Not covered: which counts (sections/synthesis.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaven.reporting.svg import Canvas, tick_text
from leaven.reporting.wording import shorten, text_width

FILLS = ("h6", "h4", "h2", "hatch")
"""The look of the first to the fourth outcome; the last is hatched on the page's ground."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row: how many of each outcome, in the order of the legend, and the words to its right."""

    label: str
    counts: tuple[int, ...]
    words: str


def draw_bars(bars: Sequence[Bar], outcomes: Sequence[str], width: float) -> Canvas:
    """Return the stacked bars, each as long as all of its own rows (100 %)."""
    narrow = width < 500
    canvas = Canvas(width)
    labels = min(max(text_width(b.label) for b in bars) + 16, 300.0)
    words = max(text_width(b.words) for b in bars) + 14
    left, right = (2.0, width - 2) if narrow else (labels, width - words)
    step, thick = (48.0, 16.0) if narrow else (30.0, 16.0)
    y = _legend(canvas, outcomes)
    bottom = y + step * len(bars)
    for share in (0, 25, 50, 75, 100):
        x = left + (right - left) * share / 100
        canvas.line(x, y + 2, x, bottom, cls="rule")
        canvas.text(
            x, bottom + 15, tick_text(share) + (" %" if share == 100 else ""), cls="mute", anchor="end" if share == 100 else "middle"
        )
    for i, bar in enumerate(bars):
        top = y + step * i + (step - thick - 6 if narrow else (step - thick) / 2)
        if narrow:
            room = width - text_width(bar.words) - 10
            canvas.text(0, top - 7, shorten(bar.label, room), full=bar.label)
            canvas.text(width, top - 7, bar.words, cls="num", anchor="end")
        else:
            canvas.text(0, top + 12.5, shorten(bar.label, left - 12), full=bar.label)
            canvas.text(width, top + 12.5, bar.words, cls="num", anchor="end")
        x, total = left, sum(bar.counts) or 1
        for count, fill in zip(bar.counts, FILLS, strict=False):
            length = (right - left) * count / total
            if count:
                _box(canvas, x, top, length, thick, fill)
            x += length
        if total:
            canvas.polyline(_corners(left, top, right - left, thick), cls="zero", width=1)
    canvas.height = bottom + 22
    return canvas


def _legend(canvas: Canvas, outcomes: Sequence[str]) -> float:
    x, y = 0.0, 4.0
    for name, fill in zip(outcomes, FILLS, strict=False):
        if x and x + 22 + text_width(name) > canvas.width:
            x, y = 0.0, y + 20
        _box(canvas, x, y, 14, 12, fill)
        canvas.polyline(_corners(x, y, 14, 12), cls="zero", width=1)
        canvas.text(x + 20, y + 10.5, name)
        x += 20 + text_width(name) + 18
    return y + 22


def _corners(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]


def _box(canvas: Canvas, x: float, y: float, width: float, height: float, fill: str) -> None:
    """Fill a box; a hatched one with slanted lines cut at its edges."""
    if fill != "hatch":
        canvas.bars([(x, y + height / 2, width)], cls=fill, height=height)
        return
    start = x - height
    while start < x + width:
        a, b = max(start, x), min(start + height, x + width)
        if b > a:
            canvas.line(a, y + height - (a - start), b, y + height - (b - start), cls="zero", width=1.25)
        start += 5
