"""What the sections on influence share: which cell leads, names for methods, targets and forms, cells with intervals.

Not covered: what each section shows (influence_*.py beside).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from leaven.reporting.dots import Dot
from leaven.reporting.sections.influence_inputs import Attributed, InfluenceInputs
from leaven.reporting.sections.inputs import Measured
from leaven.reporting.sections.section import Cell, bracketed, fine, measured_cell
from leaven.reporting.wording import MISSING, interval, level_text, number, plural

FORMS = {"raw": "per text", "per_token": "per learned token", "regressed": "per text, length regressed out"}
METHOD_WORDS = {
    "ekfac": "EK-FAC",
    "gradient_dot": "gradient product",
    "gradient_cosine": "gradient cosine",
    "bm25": "BM25",
    "tracin": "TracIn",
    "tracin_adam": "TracIn, Adam-scaled",
    "less": "LESS-style",
}
NATS = "nats of the target's log-likelihood per removed training text; positive = the text helps"


class OfCell(Protocol):
    """A record that belongs to one cell."""

    @property
    def name(self) -> str: ...
    @property
    def condition(self) -> str: ...
    @property
    def level(self) -> str: ...


R = TypeVar("R", bound=OfCell)


def method_words(method: str) -> str:
    """Return a method in words: "ekfac+pcg" -> "EK-FAC, refined (pcg)"."""
    base, _, refined = method.partition("+")
    name = METHOD_WORDS.get(base, base.replace("_", " "))
    return f"{name}, refined ({refined})" if refined else name


def cell_words(record: OfCell, inputs: InfluenceInputs) -> str:
    """Return the condition of a cell, with its attribution where there are several, and its level."""
    several = len({m.name for m in inputs.models}) > 1
    return ", ".join(w for w in (record.condition, record.name if several else "", level_text(record.level)) if w)


def key_of(record: OfCell) -> tuple[str, str, str]:
    """Return the cell of a record."""
    return record.name, record.condition, record.level


def cells(inputs: InfluenceInputs) -> list[Attributed]:
    """Return the cells that have means, the leading one first; all of them when none has."""
    whole = [m for m in inputs.models if m.complete]
    return whole or list(inputs.models)


def of_cell(rows: Iterable[R], cell: OfCell) -> list[R]:
    """Return the records of one cell."""
    return [r for r in rows if key_of(r) == key_of(cell)]


def targets_of(rows: Iterable[Any]) -> list[str]:
    """Return the targets that records speak of, in their order."""
    return list(dict.fromkeys(r.target for r in rows))


def influence_cell(measured: Measured | None, *, shared: str = "", noun: str = "text", what: str = "") -> Cell:
    """Return a cell with an influence, its interval and, unless shared, what it rests on."""
    return measured_cell(measured, signed=True, shared=shared, noun=noun, what=what, say=lambda v: fine(v, sign=True))


def dot(
    label: str, measured: Measured, style: int = 6, base: float | None = None, *, percent: bool = False, plain: bool = False
) -> Dot | None:
    """Return a row of a chart; None without a number. `plain` numbers (correlations) have no plus sign and three decimals."""
    if measured.estimate is None:
        return None
    words = bracketed(measured, percent=percent, signed=not percent)
    if plain:
        words = f"{number(measured.estimate)} {interval(measured.low, measured.high)}".removesuffix(f" {MISSING}")
    return Dot(label=label, words=words, estimate=measured.estimate, low=measured.low, high=measured.high, style=style, base=base)


def rests(rows: Sequence[Measured], noun: str) -> str:
    """Return "20 to 60 texts and 3 seeds": what a table's numbers rest on."""
    counts = [m.n for m in rows if m.n]
    seeds = {len(m.seeds) for m in rows if m.seeds}
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    many = plural(high, noun) if low == high else f"{low:,} to {plural(high, noun)}"
    return many + (f" and {plural(max(seeds), 'seed')}" if seeds else "")


def share_words(value: float | None) -> str:
    """Return a share as per cent."""
    return MISSING if value is None or not math.isfinite(value) else f"{number(value, percent=True)} %"
