"""A drawing of the page (svg.py) -> the same drawing as a PDF file, for papers.

The parts of a canvas are read back, not drawn a second time, so that every figure has a PDF and none can differ from
its SVG. Text is set in the first installed of FONTS; without dates in the file, the same drawing gives the same bytes.
matplotlib is imported here alone. Not covered: any SVG that svg.py does not write.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from leaven.reporting.svg import HEAT_LIGHT, LIGHT, Canvas

FONTS = ("Liberation Sans", "Arial", "Helvetica", "DejaVu Sans")
INK, MUTE = "#1f1e1b", "#5c5952"
STROKES = {"rule": "#d8d4ca", "zero": "#6b675e", "gap": "#ffffff"}
COLOURS = {f"c{i}": c for i, c in enumerate(LIGHT)} | {f"h{i}": c for i, c in enumerate(HEAT_LIGHT)} | {"band": "#efece4"}
MARGIN = 16.0
_PART = re.compile(r"([MLHVZmlhv])([^MLHVZmlhv]*)")
_NUMBER = re.compile(r"-?\d*\.?\d+")


def write_pdfs(drawings: Sequence[tuple[str, Canvas]], folder: Path) -> None:
    """Write each canvas as folder/<name>.pdf, 1 px as 1 pt."""
    import matplotlib

    matplotlib.use("agg", force=False)
    from matplotlib import font_manager

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    known = {f.name for f in font_manager.fontManager.ttflist}
    family = [f for f in FONTS if f in known] or ["sans-serif"]
    with matplotlib.rc_context({"pdf.fonttype": 42, "text.parse_math": False, "font.family": family}):
        for name, canvas in drawings:
            _sheet(canvas).savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "ModDate": None})


def _sheet(canvas: Canvas) -> Any:
    """Return a matplotlib figure with the parts of a canvas in their order."""
    from matplotlib.figure import Figure

    width, height = canvas.width + 2 * MARGIN, canvas.height + 2 * MARGIN
    sheet = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = sheet.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-MARGIN, width - MARGIN), ylim=(height - MARGIN, -MARGIN))
    axes.axis("off")
    for i, part in enumerate(ElementTree.fromstring("<svg>" + "".join(canvas.parts) + "</svg>")):
        {"text": _text, "rect": _rect, "path": _line}[part.tag](axes, part, i)
    return sheet


def _classes(part: ElementTree.Element) -> list[str]:
    return part.get("class", "").split()


def _text(axes: Any, part: ElementTree.Element, order: int) -> None:
    words = (part.text or "") + "".join(child.tail or "" for child in part)
    names = _classes(part)
    axes.text(
        float(part.get("x", "0")),
        float(part.get("y", "0")),
        words,
        fontsize=11.5 if "mute" in names else 12.5,
        color=MUTE if "mute" in names else INK,
        fontweight="bold" if "strong" in names else "normal",
        ha="center" if "m" in names else "right" if "e" in names else "left",
        va="baseline",
        zorder=order,
    )


def _rect(axes: Any, part: ElementTree.Element, order: int) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = (float(part.get(k, "0")) for k in ("x", "y", "width", "height"))
    axes.add_patch(Rectangle((x, y), width, height, facecolor="#efece4", edgecolor="none", zorder=order))


def _line(axes: Any, part: ElementTree.Element, order: int) -> None:
    from matplotlib.patches import PathPatch

    names = _classes(part)
    colour = next((COLOURS[n] for n in names if n in COLOURS), INK)
    width = float(part.get("stroke-width", "1.5" if "k" in names else "1"))
    if "dot" in names:
        axes.add_patch(PathPatch(dots(part.get("d", ""), width / 2), facecolor=colour, edgecolor="none", zorder=order))
        return
    stroke = next((STROKES[n] for n in names if n in STROKES), colour)
    faint = float(part.get("opacity", "1"))
    filled = "line" not in names and not any(n in STROKES for n in names)
    inside = faint * float(part.get("fill-opacity", "1"))
    dash = part.get("stroke-dasharray")
    style: Any = (0, tuple(float(v) for v in dash.split())) if dash else "solid"
    axes.add_patch(
        PathPatch(
            outline(part.get("d", "")),
            facecolor=_with(colour, inside) if filled else "none",
            edgecolor="none" if "area" in names or not width else _with(stroke, faint),
            linewidth=width,
            linestyle=style,
            capstyle="butt",
            joinstyle="round" if "line" in names else "miter",
            zorder=order,
        )
    )


def _with(colour: str, alpha: float) -> tuple[float, float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue, alpha


def dots(words: str, radius: float) -> Any:
    """Return circles around every place that a path of dots moves to."""
    from matplotlib.path import Path as Outline

    places = [tuple(float(v) for v in _NUMBER.findall(rest)) for command, rest in _PART.findall(words) if command == "M"]
    return Outline.make_compound_path(*(Outline.circle((x, y), radius) for x, y in places))


def points_of(words: str) -> list[tuple[float, float]]:
    """Return the corners of a path of straight commands, in order."""
    found: list[tuple[float, float]] = []
    x = y = 0.0
    for command, rest in _PART.findall(words):
        if command != "Z":
            found += (ends := _ends(command, [float(v) for v in _NUMBER.findall(rest)], x, y))
            x, y = ends[-1]
    return found


def outline(words: str) -> Any:
    """Return a matplotlib path from the straight commands that svg.py writes."""
    from matplotlib.path import Path as Outline

    points: list[tuple[float, float]] = []
    codes: list[Any] = []
    x = y = 0.0
    for command, rest in _PART.findall(words):
        values = [float(v) for v in _NUMBER.findall(rest)]
        if command == "Z":
            points.append((x, y))
            codes.append(Outline.CLOSEPOLY)
        else:
            ends = _ends(command, values, x, y)
            points += ends
            codes += [Outline.MOVETO if command in "Mm" else Outline.LINETO] * len(ends)
            x, y = ends[-1]
    return Outline(points, codes)


def _ends(command: str, values: Sequence[float], x: float, y: float) -> list[tuple[float, float]]:
    """Return the points that a straight command leads to from (x, y)."""
    if command in "Hh":
        return [(value + (x if command == "h" else 0.0), y) for value in values]
    if command in "Vv":
        return [(x, value + (y if command == "v" else 0.0)) for value in values]
    found = []
    for dx, dy in zip(values[::2], values[1::2], strict=True):
        x, y = (x + dx, y + dy) if command in "lm" else (dx, dy)
        found.append((x, y))
    return found
