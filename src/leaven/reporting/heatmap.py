"""Square grids of weights -> heat maps with region borders; shares between regions -> matrices with their numbers.

The scale is one hue of rising contrast in eight steps, each half the one above it, with a legend: it reads in grey, in
print and with any colour vision. In a matrix the area of a square is the share and the number stands beside it. Cells
of one step are one path, neighbours merged, so that a map takes a few kilobytes.
Not covered: what is mapped (sections/attention.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leaven.reporting.marks import mark
from leaven.reporting.svg import STEPS, Canvas, spread
from leaven.reporting.wording import shorten, text_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """One grid with its title; `regions` are (name, start, end) in cells."""

    title: str
    style: int
    grid: tuple[tuple[float, ...], ...]
    regions: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Shares between named regions: `shares[row][column]`, None where nothing was measured; `words` likewise."""

    title: str
    style: int
    names: tuple[str, ...]
    shares: tuple[tuple[float | None, ...], ...]
    words: tuple[tuple[str, ...], ...]


def step_of(value: float, top: float) -> int:
    """Return the step of the scale, 0 to 7, of a weight: 7 for more than half of `top`, each step below half of it."""
    if not value > 0 or not top > 0:
        return 0
    return max(0, STEPS - 1 - max(0, math.floor(-math.log2(min(value / top, 1.0)) + 1e-9)))


def merged(grid: Sequence[Sequence[float]], top: float) -> dict[int, list[tuple[int, int, int]]]:
    """Return, for every step, the runs (row, first column, cells) of neighbours that share it."""
    runs: dict[int, list[tuple[int, int, int]]] = {}
    for r, row in enumerate(grid):
        steps = [step_of(v, top) for v in row]
        start = 0
        for c in range(1, len(steps) + 1):
            if c == len(steps) or steps[c] != steps[start]:
                runs.setdefault(steps[start], []).append((r, start, c - start))
                start = c
    return runs


def draw_maps(maps: Sequence[Map], width: float) -> Canvas:
    """Return the maps on one scale, with the legend below; regions are numbered along the top and named at the left."""
    top_value = max((v for m in maps for row in m.grid for v in row), default=0.0)
    names = max((text_width(f"{i + 1} {n}", 12) for m in maps for i, (n, _, _) in enumerate(m.regions)), default=0.0)
    canvas, columns, cell = _layout(len(maps), width, 300.0)
    side = cell - min(names, 110.0) - 10
    y = 0.0
    for first in range(0, len(maps), columns):
        for column, heat in enumerate(maps[first : first + columns]):
            _draw_map(canvas, heat, (round(column * (cell + 26)), y, math.ceil(cell - side), side), top_value)
        y += side + 56
    canvas.height = _draw_scale(canvas, top_value, y)
    return canvas


def _layout(n: int, width: float, largest: float) -> tuple[Canvas, int, float]:
    """Return the canvas, how many fit beside each other and the width of one."""
    columns = 1 if width < 500 else min(n, 3 if n > 2 else 2)
    return Canvas(width), columns, min((width - 26 * (columns - 1)) / columns, largest + 110)


def _head(canvas: Canvas, title: str, style: int, x: float, y: float, width: float) -> None:
    colour, shape = mark(style)
    canvas.marker(shape, x + 6, y + 9.5, cls=colour, size=4)
    canvas.text(x + 16, y + 14, shorten(title, width - 16, bold=True), cls="strong", full=title)


def _draw_map(canvas: Canvas, heat: Map, box: tuple[float, float, float, float], top_value: float) -> None:
    """Draw one map into box = (x, y, width of the names, side)."""
    x, y, gutter, side = box
    left, top = x + gutter, y + 40
    unit = math.floor(side / len(heat.grid)) or side / len(heat.grid)
    side = unit * len(heat.grid)
    _head(canvas, heat.title, heat.style, x, y, gutter + side)
    canvas.bars([(left, top + side / 2, side)], cls="h0", height=side)
    for step, runs in sorted(merged(heat.grid, top_value).items()):
        if step:
            boxes = [(left + c * unit, top + (r + 0.5) * unit, n * unit) for r, c, n in runs]
            canvas.bars(boxes, cls=f"h{step}", height=unit)
    middles = [(a + b) / 2 * unit for _, a, b in heat.regions]
    for (name, _, _), middle, i in zip(heat.regions, spread(middles, 14, 7, side - 7), range(99), strict=False):
        words = f"{i + 1} {name}"
        canvas.text(left - 8, top + middle + 4, shorten(words, gutter - 8, 12), cls="mute", anchor="end", full=words)
    for i, middle in enumerate(spread(middles, 12, 6, side - 6)):
        canvas.text(left + middle, top - 5, str(i + 1), cls="mute", anchor="middle")
    ends = [e * unit for e in region_borders(heat.regions, len(heat.grid))]
    borders = [line for e in ends for line in ((left + e, top, left + e, top + side), (left, top + e, left + side, top + e))]
    for cls, thick in (("gap", 3), ("c6", 1)):
        canvas.lines(borders, cls=cls, width=thick)
    corners = [(left, top), (left + side, top), (left + side, top + side), (left, top + side), (left, top)]
    canvas.polyline(corners, cls="zero", width=1)


def region_borders(regions: Sequence[tuple[str, float, float]], size: int) -> list[float]:
    """Return where lines part the regions, in cells: one line between neighbours, two around a stretch of no region."""
    borders: list[float] = []
    for place in sorted(v for _, start, end in regions for v in (start, end)):
        if borders and place - borders[-1] < 1.5:
            borders[-1] = (borders[-1] + place) / 2
        else:
            borders.append(place)
    return [b for b in borders if 1.5 <= b <= size - 1.5]


def _draw_scale(canvas: Canvas, top_value: float, y: float) -> float:
    """Draw the legend of the eight steps with the weight at their borders; return the height of the drawing."""
    box = min(44.0, (canvas.width - 40) / STEPS)
    for step in range(STEPS):
        canvas.bars([(step * box, y + 6, box)], cls=f"h{step}", height=12)
        if step % 2 and top_value > 0:
            border = top_value / 2 ** (STEPS - 1 - step)
            canvas.text((step + 1) * box, y + 28, f"{border:.2g}", cls="mute num", anchor="middle")
    canvas.polyline([(0, y), (STEPS * box, y), (STEPS * box, y + 12), (0, y + 12), (0, y)], cls="zero", width=1)
    return y + 34


def draw_matrices(matrices: Sequence[Matrix], width: float) -> Canvas:
    """Return the matrices: a row per attending region, a column per attended one, squares whose area is the share."""
    names = [f"{i + 1} {n}" for m in matrices for i, n in enumerate(m.names)]
    gutter = min(max(text_width(n, 12) for n in names) + 10, 118.0)
    canvas, columns, cell = _layout(len(matrices), width, 230.0)
    size = min((cell - gutter) / max(len(m.names) for m in matrices), 76.0)
    y = 0.0
    for first in range(0, len(matrices), columns):
        row = matrices[first : first + columns]
        for column, matrix in enumerate(row):
            _draw_matrix(canvas, matrix, column * (cell + 26), y, gutter, size)
        y += max(len(m.names) for m in row) * size + 58
    canvas.height = y - 14
    return canvas


def _draw_matrix(canvas: Canvas, matrix: Matrix, x: float, y: float, gutter: float, size: float) -> None:
    left, top = x + gutter, y + 40
    _head(canvas, matrix.title, matrix.style, x, y, gutter + size * len(matrix.names))
    squares = []
    for i, name in enumerate(matrix.names):
        words = f"{i + 1} {name}"
        canvas.text(left + (i + 0.5) * size, top - 6, str(i + 1), cls="mute", anchor="middle")
        middle = top + (i + 0.5) * size + 4
        canvas.text(left - 8, middle, shorten(words, gutter - 8, 12), cls="mute", anchor="end", full=words)
        for j, share in enumerate(matrix.shares[i]):
            canvas.text(left + (j + 0.5) * size, top + (i + 1) * size - 5, matrix.words[i][j], cls="num", anchor="middle")
            if share is not None and share > 0:
                edge = math.sqrt(min(share, 1.0)) * (size - 22)
                middle_x, middle_y = left + (j + 0.5) * size, top + i * size + (size - 18) / 2 + 1
                squares.append((middle_x - edge / 2, middle_y - edge / 2, edge, edge))
    canvas.boxes(squares, cls="area h5")
    span, steps = size * len(matrix.names), [i * size for i in range(len(matrix.names) + 1)]
    rules = [line for s in steps for line in ((left, top + s, left + span, top + s), (left + s, top, left + s, top + span))]
    canvas.lines(rules, cls="rule")
