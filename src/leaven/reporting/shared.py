"""Two drawings of one figure -> the same two, long paths that differ by place and scale alone drawn once.

A figure is drawn wide and narrow; its curves, histograms and maps are the same shapes at another scale, and so are all normal
curves. Where a path is an upright scaling of an earlier one of the wide drawing (within a fifth of a px), it becomes a
reference to it, which is a fifth of its bytes. Strokes keep their width (class v) or, where they scale with the shape (maps), scale too.
Not covered: anything but straight commands; files beside the page, which hold whole drawings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from leaven.reporting.pdf import points_of

SHORTEST = 90
"""Paths of fewer characters are not worth a reference."""
TOLERANCE = 0.2
_KEPT = re.compile(r' (?:stroke-width|d)="[^"]*"')


def shared_paths(wide: Sequence[str], narrow: Sequence[str], ident: str) -> tuple[list[str], list[str]]:
    """Return both drawings' parts, long paths as references to equal ones of the first; `ident` begins the ids of those."""
    parts = [*wide, *narrow]
    known: dict[tuple[str, int], list[_Drawn]] = {}
    named: dict[int, tuple[str, bool]] = {}
    for i, part in enumerate(parts):
        if len(part) < SHORTEST or not part.startswith("<path"):
            continue
        drawn = _Drawn.of(i, part)
        alike = known.setdefault((_KEPT.sub("", part), len(drawn.points)), [])
        for earlier in alike:
            place = _matrix(earlier, drawn)
            fixed = earlier.stroke == drawn.stroke
            if place and named.get(earlier.number, ("", fixed))[1] == fixed:
                name = named.setdefault(earlier.number, (f"{ident}{len(named)}", fixed))[0]
                parts[i] = f'<use href="#{name}" transform="matrix({place})"/>'
                break
        else:
            if i < len(wide):
                alike.append(drawn)
    for i, (name, fixed) in named.items():
        parts[i] = _marked(parts[i], name, fixed)
    return parts[: len(wide)], parts[len(wide) :]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One path: its place among the parts, its corners and stroke width."""

    number: int
    points: list[tuple[float, float]]
    stroke: float

    @classmethod
    def of(cls, number: int, part: str) -> _Drawn:
        found = ElementTree.fromstring(part)
        default = "1.5" if "k" in found.get("class", "").split() else "1"
        return cls(number, points_of(found.get("d", "")), float(found.get("stroke-width", default)))


def _marked(part: str, name: str, fixed: bool) -> str:
    part = part.replace("<path", f'<path id="{name}"', 1)
    return part.replace(' class="', ' class="v ', 1) if fixed else part


def _matrix(a: _Drawn, b: _Drawn) -> str:
    """Return the matrix that turns one path into the other; "" where none does, or where the strokes do not fit."""
    scales, moves = [], []
    for axis in (0, 1):
        x, y = [p[axis] for p in a.points], [p[axis] for p in b.points]
        span = max(x) - min(x)
        scale = (max(y) - min(y)) / span if span else 1.0
        move = min(y) - scale * min(x)
        if scale <= 0 or any(abs(scale * u + move - v) > TOLERANCE for u, v in zip(x, y, strict=True)):
            return ""
        scales.append(scale)
        moves.append(move)
    if a.stroke != b.stroke and any(abs(a.stroke * s - b.stroke) > 0.03 * b.stroke + 0.05 for s in scales):
        return ""
    numbers = (scales[0], 0, 0, scales[1], moves[0], moves[1])
    return " ".join(_short(v, 4 if i < 4 else 1) for i, v in enumerate(numbers))


def _short(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    return text.replace("0.", ".", 1) if text.startswith("0.") else text.replace("-0.", "-.", 1)
