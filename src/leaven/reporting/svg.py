"""Lines, marks and words -> SVG text, byte for byte the same for the same calls, coloured by CSS variables.

Why not a plotting library: real text that a reader can select and a screen reader can skip, both colour schemes from
one drawing,
a few kilobytes each, and no generated ids. Every figure is drawn twice, wide and narrow, so that words keep their
size on a phone.
Colours: Okabe and Ito (2008), darkened or lightened where needed for 3:1 against the page; a marker shape goes with
each. Not covered: scales and what to draw (figures.py), PDF (pdf.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from markupsafe import escape

from leaven.reporting.wording import printable

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "down", "plus")
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#B5618F", "#B57A00", "#2B8CC4", "#3A3A3A")
DARK = ("#5FA8E0", "#EE7D3B", "#2BB78F", "#DB94BC", "#E69F00", "#8CD0F5", "#E6E3DC")
STEPS = 8
HEAT_LIGHT = ("#eef1f4", "#d3dde8", "#b3c6da", "#8fabca", "#6b8fb8", "#48719f", "#2a5280", "#12345c")
HEAT_DARK = ("#20252b", "#2a3a4d", "#34506f", "#406a94", "#5487b6", "#74a5d0", "#9dc3e6", "#d0e4f7")
"""The eight steps of a heat map, from the page's ground to its strongest contrast; style.css holds the same."""

_TEXT = re.compile(r'<text x="[^"]*" y="[^"]*" class="([^"]*)"')
ANCHORS = {"start": "", "middle": "m", "end": "e"}
"""Where a text lies beside its place -> its class."""

STANDALONE_STYLE = (
    "svg{background:#fff;font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif}"
    "svg{fill:#1f1e1b}.mute{fill:#5c5952}.rule{stroke:#d8d4ca}.zero{stroke:#6b675e}.band{fill:#efece4}.strong{font-weight:600}"
    + "".join(f".c{i}{{stroke:{c};fill:{c}}}" for i, c in enumerate(LIGHT))
    + "".join(f".h{i}{{stroke:{c};fill:{c}}}" for i, c in enumerate(HEAT_LIGHT))
    + ".gap{stroke:#fff}.area{stroke:none}.hollow{fill:#fff}.line,.dot{fill:none}"
    ".line{stroke-linejoin:round}.dot{stroke-linecap:round}.k{stroke-width:1.5}.m{text-anchor:middle}.e{text-anchor:end}"
)


def coordinate(value: float) -> str:
    """Return a coordinate with at most one decimal and no trailing zero."""
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")


@dataclass(slots=True)
class Canvas:
    """A drawing under construction; x to the right, y down, px."""

    width: float
    height: float = 0.0
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, *, cls: str = "", anchor: str = "start", full: str = "") -> None:
        """Place words with their baseline at y; `full` is the untruncated text shown on hover."""
        cls = f"{cls} {ANCHORS[anchor]}".strip()
        hint = f"<title>{escape(printable(full))}</title>" if full and full != words else ""
        self.parts.append(
            f'<text x="{coordinate(x)}" y="{coordinate(y)}"{_class(cls)}>{hint}{escape(printable(words))}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, cls: str, width: float = 1.0, dash: str = "") -> None:
        """Draw a straight line."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<path d="M{coordinate(x1)} {coordinate(y1)}{_to(x1, y1, x2, y2)}"{_class(cls)}{_thick(width)}{dashes}/>'
        )

    def lines(self, segments: list[tuple[float, float, float, float]], *, cls: str, width: float = 1.0) -> None:
        """Draw straight lines (x1, y1, x2, y2) of one look as a single path; upright and level ones take few bytes."""
        path = ""
        for x1, y1, x2, y2 in segments:
            path += f"M{coordinate(x1)} {coordinate(y1)}{_to(x1, y1, x2, y2)}"
        if segments:
            self.parts.append(f'<path d="{path}"{_class(cls)}{_thick(width)}/>')

    def rect(self, x: float, y: float, width: float, height: float, *, cls: str) -> None:
        """Draw a filled rectangle."""
        self.parts.append(
            f'<rect x="{coordinate(x)}" y="{coordinate(y)}" width="{coordinate(max(width, 0))}" '
            f'height="{coordinate(max(height, 0))}"{_class(cls)}/>'
        )

    def polyline(
        self,
        points: list[tuple[float, float]],
        *,
        cls: str,
        width: float = 2.0,
        opacity: float = 1.0,
        dash: str = "",
    ) -> None:
        """Draw a line through points."""
        self.polylines([points], cls=cls, width=width, opacity=opacity, dash=dash)

    def polylines(
        self,
        lines: Sequence[list[tuple[float, float]]],
        *,
        cls: str,
        width: float = 2.0,
        opacity: float = 1.0,
        dash: str = "",
    ) -> None:
        """Draw lines of one look as a single path."""
        path = "".join(_path(points) for points in lines if len(points) > 1)
        if not path:
            return
        fade = f' opacity="{opacity:g}"' if opacity < 1 else ""
        fade += f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<path d="{path}"{_class("line " + cls)}{_thick(width)}{fade}/>'
        )

    def area(self, points: list[tuple[float, float]], *, cls: str, opacity: float = 0.2) -> None:
        """Fill the polygon through points, without an outline."""
        self.parts.append(f'<path d="{_path(points)}Z"{_class("area " + cls)} opacity="{opacity:g}"/>')

    def steps(self, points: list[tuple[float, float]], *, cls: str, width: float = 1.25, opacity: float = 0.2) -> None:
        """Draw a histogram's outline through points that differ in x or in y, its area filled faintly."""
        path = f"M{coordinate(points[0][0])} {coordinate(points[0][1])}"
        for (x, y), (a, b) in pairwise([(round(10 * x), round(10 * y)) for x, y in points]):
            path += f"v{_step(b - y).lstrip()}" if a == x else f"h{_step(a - x).lstrip()}"
        self.parts.append(f'<path d="{path}"{_class(cls)}{_thick(width)} fill-opacity="{opacity:g}"/>')

    def bars(self, runs: list[tuple[float, float, float]], *, cls: str, height: float) -> None:
        """Fill many boxes of one look and height, each (x, y of its middle, width), as the strokes of a single path."""
        path, at_x, at_y = "", 0, 0  # tenths of a px, so that rounding does not add up
        for x, y, w in ((round(10 * x), round(10 * y), round(10 * w)) for x, y, w in runs):
            fixed, moved = f"M{coordinate(x / 10)} {coordinate(y / 10)}", f"m{_step(x - at_x).lstrip()}{_step(y - at_y)}"
            path += (moved if path and len(moved) < len(fixed) else fixed) + f"h{_step(w).lstrip()}"
            at_x, at_y = x + w, y
        if runs:
            self.parts.append(f'<path d="{path}"{_class(cls)}{_thick(height)}/>')

    def boxes(self, boxes: list[tuple[float, float, float, float]], *, cls: str) -> None:
        """Fill boxes (x, y, width, height) of one look as a single path."""
        path = "".join(f"M{coordinate(x)} {coordinate(y)}h{coordinate(w)}v{coordinate(h)}h{coordinate(-w)}Z" for x, y, w, h in boxes)
        if boxes:
            self.parts.append(f'<path d="{path}"{_class(cls)}/>')

    def marker(self, shape: str, x: float, y: float, *, cls: str, size: float = 5.0) -> None:
        """Draw one of SHAPES centred at (x, y) with radius `size`."""
        self.markers(shape, [(x, y)], cls=cls, size=size)

    def markers(self, shape: str, points: list[tuple[float, float]], *, cls: str, size: float = 5.0) -> None:
        """Draw one of SHAPES at every point, as a single path."""
        if shape == "circle":  # a stroke of no length with round ends is a dot, in a tenth of the bytes of its outline
            path = "".join(f"M{coordinate(x)} {coordinate(y)}h0" for x, y in points)
            self.parts.append(f'<path d="{path}"{_class("dot " + cls)}{_thick(2 * size + 1.5)}/>')
            return
        path = "".join(_outline(shape, x, y, size) for x, y in points)
        self.parts.append(f'<path d="{path}"{_class("k " + cls)}/>')

    def render(self, ident: str, title: str = "", description: str = "", *, cls: str = "", standalone: bool = False) -> str:
        """Return the SVG element; title and description are what a screen reader says, and `ident` must be unique in the page.

        Without a title the element is named by those of the one that was rendered with `ident`.
        """
        margin = 16.0 if standalone else 0.0
        width, height = coordinate(self.width + 2 * margin), coordinate(self.height + 2 * margin)
        box = f"{coordinate(-margin)} {coordinate(-margin)} {width} {height}"
        size = f'viewBox="{box}" width="{width}" height="{height}"'
        name = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
        style = f"<style>{STANDALONE_STYLE}</style>" if standalone else ""
        return (
            f'<svg{name} {size}{_class(cls)} role="img" aria-labelledby="{ident}-t {ident}-d">'
            + (f'<title id="{ident}-t">{escape(printable(title))}</title>' if title else "")
            + (f'<desc id="{ident}-d">{escape(printable(description))}</desc>' if title else "")
            + "".join([style, *_grouped(self.parts), "</svg>"])
        )


def _grouped(parts: Sequence[str]) -> Iterator[str]:
    """Yield parts, neighbouring texts of one class inside a group that says it once."""
    for cls, run in groupby(parts, lambda part: found[1] if (found := _TEXT.match(part)) else ""):
        texts = list(run)
        if cls and len(texts) > 1:
            yield f'<g class="{cls}">' + "".join(t.replace(f' class="{cls}"', "", 1) for t in texts) + "</g>"
        else:
            yield from texts


def _class(cls: str) -> str:
    return f' class="{cls}"' if cls else ""


def _path(points: list[tuple[float, float]]) -> str:
    """Return a line through points in tenths of a px, relative from the second point on, which halves its length."""
    tenths = [(round(10 * x), round(10 * y)) for x, y in points]
    steps = ((c - a, d - b) for (a, b), (c, d) in pairwise(tenths))
    words = "".join(f"{_step(dx)}{_step(dy)}" for dx, dy in steps)
    return f"M{coordinate(tenths[0][0] / 10)} {coordinate(tenths[0][1] / 10)}l{words.lstrip()}"


def _step(tenths: int) -> str:
    """Return a relative coordinate with the sign or space that parts it from the one before."""
    text = coordinate(abs(tenths) / 10).removeprefix("0") or "0"
    return ("-" if tenths < 0 else " ") + text


def _to(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return the command that draws a line on from (x1, y1)."""
    return f"V{coordinate(y2)}" if x1 == x2 else f"H{coordinate(x2)}" if y1 == y2 else f"L{coordinate(x2)} {coordinate(y2)}"


def _thick(width: float) -> str:
    """Return the attribute of a stroke's width; 1 is what a stroke has anyway."""
    return "" if width == 1 else f' stroke-width="{coordinate(width)}"'


def _outline(shape: str, x: float, y: float, r: float) -> str:
    s, k = 0.88 * r, r * 0.38
    arm = r - k
    corners = {
        "square": [(-s, -s), (s, -s), (s, s), (-s, s)],
        "triangle": [(0, -1.15 * r), (1.05 * r, 0.75 * r), (-1.05 * r, 0.75 * r)],
        "down": [(0, 1.15 * r), (1.05 * r, -0.75 * r), (-1.05 * r, -0.75 * r)],
        "diamond": [(0, -1.25 * r), (1.25 * r, 0), (0, 1.25 * r), (-1.25 * r, 0)],
        "plus": _turned([(-k, -r), (k, -r), (k, -r + arm)]),
        "cross": _turned([(0, -k), (s - k, -s), (s, k - s)]),
    }[shape]
    return _path([(x + dx, y + dy) for dx, dy in corners]) + "Z"


def _turned(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return corners and what they become by a quarter, half and three quarters of a turn."""
    found = list(corners)
    for _ in range(3):
        corners = [(-y, x) for x, y in corners]
        found += corners
    return found


def ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Return round tick positions (steps of 1, 2 or 5 times a power of ten) that cover [low, high] without leaving
    it.
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(target, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    unit = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / unit - 1e-9)
    return [round(i * unit, 10) + 0.0 for i in range(first, math.floor(high / unit + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """Return a tick label: short, with a true minus sign."""
    text = f"{value:.10g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return text.replace("-", "\u2212")


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Return label positions at least `gap` apart, in the order of `positions`, near them and within [low, high] if
    they fit.
    """
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    placed = [0.0] * len(positions)
    floor = low
    for i in order:
        placed[i] = max(positions[i], floor)
        floor = placed[i] + gap
    ceiling = max(high, low + gap * (len(positions) - 1))
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
