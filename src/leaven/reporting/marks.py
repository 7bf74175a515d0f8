"""What figures and tables share: a condition's colour and marker, the words for a contrast or score, and the Figure
record.

A condition keeps its look through the whole report, so a reader learns it once.
Not covered: drawing (forest.py, lines.py), which figures a report has (figures.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from leaven.analysis.rule import direction_of
from leaven.core.types import Finding
from leaven.reporting.facts import ReportData, Score
from leaven.reporting.shared import shared_paths
from leaven.reporting.svg import LIGHT, SHAPES, Canvas
from leaven.reporting.wording import level_text

WIDE, NARROW = 860.0, 340.0
"""Widths in px of the two drawings of every figure."""

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: its drawing function, the words a screen reader says, the caption and the id of the table with its
    numbers.
    """

    name: str
    title: str
    description: str
    caption: str
    table: str
    draw: Callable[[float], Canvas]

    def wide(self) -> str:
        """Return the drawing for screens of 860 px and more, and for paper."""
        return self.pair()[0]

    def narrow(self) -> str:
        """Return the drawing for phones by itself."""
        return self.draw(NARROW).render(f"{self.name}-n", self.title, self.description, cls="narrow")

    def pair(self) -> tuple[str, str]:
        """Return the wide drawing, and the narrow one that belongs beside it and is named by its title and description."""
        wide, narrow = self.draw(WIDE), self.draw(NARROW)
        wide.parts, narrow.parts = shared_paths(wide.parts, narrow.parts, f"{self.name}.")
        return (
            wide.render(f"{self.name}-w", self.title, self.description, cls="wide"),
            narrow.render(f"{self.name}-w", cls="narrow"),
        )

    def standalone(self) -> str:
        """Return a self-contained SVG file in the light colours."""
        return self.draw(WIDE).render(self.name, self.title, self.description, standalone=True) + "\n"


def mark(style: int) -> tuple[str, str]:
    """Return the colour class and marker shape of the condition with index `style`; 49 pairs before one repeats."""
    return f"c{style % len(LIGHT)}", SHAPES[(style + style // len(LIGHT)) % len(SHAPES)]


def styles(data: ReportData) -> dict[str, int]:
    """Return the style index of each condition, in the order in which the study names them."""
    names = [c.name for c in data.conditions] + [s.condition for s in data.scores] + [c.condition for c in data.curves]
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def inline_mark(style: int) -> str:
    """Return the marker of a style as an empty element that style.css draws, hidden from screen readers (its name stands beside it)."""
    colour, shape = mark(style)
    return f'<i class="mark {colour} {shape}"></i>'


def drawn_mark(condition: str, data: ReportData) -> str:
    """Return the condition's marker as markup for tables."""
    return inline_mark(styles(data).get(condition, 6))


def contrast_label(contrast: Finding) -> str:
    """Return "treatment vs control" and the level, without the measure and its items, which stand beside it."""
    benchmark, metric = contrast_measure(contrast)
    return contrast.title.replace(f": {metric} on {benchmark}", "", 1)


def is_binary(contrast: Finding) -> bool:
    """Return whether a contrast is between pass rates, whose differences are shown in percentage points."""
    return bool(contrast.data.get("binary"))


def contrast_margin(contrast: Finding) -> float | None:
    """Return the declared margin within which the rule says "no difference"; None when the study declares none."""
    margin = contrast.data.get("margin")
    return float(margin) if margin else None


def contrast_measure(contrast: Finding) -> tuple[str, str]:
    """Return (benchmark with its restriction of items, metric) of a contrast."""
    benchmark, metric = (
        str(contrast.data.get("benchmark", "")),
        str(contrast.data.get("metric", "") or contrast.unit or "score"),
    )
    _, found, rest = contrast.title.partition(f": {metric} on {benchmark}")
    return benchmark + (rest.split(" @ ")[0] if found else ""), metric


def lower_is_better(data: ReportData, metric: str) -> bool:
    """Return whether less of a metric is better: what the contrasts on it declare, else what its name says."""
    declared = {
        str(c.data["direction"]) for c in data.contrasts if c.data.get("metric") == metric and c.data.get("direction")
    }
    return declared == {"lower"} if declared else direction_of(metric) == "lower"


def score_measure(score: Score) -> tuple[str, str]:
    """Return (benchmark with its restriction of items, metric) of a score."""
    return score.benchmark + (f" ({score.scope})" if score.scope else ""), score.metric


def series_label(condition: str, level: str) -> str:
    """Return "condition" or "condition (learning_rate = 0.001)"."""
    cell = level_text(level)
    return f"{condition} ({cell})" if cell else condition


def measure_words(metric: str, benchmark: str) -> str:
    """Return "accuracy on lists"."""
    name = metric.replace("_", " ")
    return f"{name} on {benchmark}" if benchmark else name


def grouped(rows: Iterable[T], key: Callable[[T], object]) -> dict[tuple[str, str], list[T]]:
    """Return rows by key, in the order in which keys first occur."""
    groups: dict[tuple[str, str], list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)  # type: ignore[arg-type]
    return groups


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the map from [low, high] to [start, end] px; values outside are held at the ends."""
    span = high - low or 1.0
    return lambda value: start + (min(max(value, low), high) - low) / span * (end - start)
