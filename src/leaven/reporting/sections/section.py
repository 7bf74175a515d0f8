"""Figures, tables and their words -> Section, the one record that the template and the exports know of a section.

A table keeps two forms of its rows: cells for readers, and records with plain numbers for tables/<id>.csv. What all
cells of a table rest on stands once in its caption; a cell that rests on something else says so itself.
Not covered: which sections there are (order.py), their markup (sections.html).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leaven.reporting.marks import Figure, inline_mark
from leaven.reporting.sections.inputs import Measured
from leaven.reporting.wording import MISSING, amount, interval, number, plural, seeds_counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a number says and rests on, for the table of numbers at the end of the page."""

    what: str
    measured: Measured
    percent: bool = False
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: its words, smaller lines under them, a marker drawing, a class that colours a verdict, its source."""

    text: str = MISSING
    tags: tuple[str, ...] = ()
    mark: str = ""
    kind: str = ""
    source: Source | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The head of a column; `numeric` columns are set to the right, `tags` are smaller lines under the name."""

    name: str
    numeric: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: the first cell of a row is its head. A table that is not open is folded under `summary`, together with
    neighbours of the same summary.

    `records` are its rows as plain values for CSV and Parquet, and may be finer than what the page shows. The rows of a
    `text` table hold sentences: on a phone they stand as blocks instead of a wide table.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    records: tuple[Mapping[str, Any], ...] = ()
    summary: str = ""
    open: bool = True
    text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownStrip:
    """One text token by token: `pieces` are (text, mark, class of its shading); `cut` says what is left out."""

    title: str
    about: str
    pieces: tuple[tuple[str, str, str], ...]
    cut: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of the page: title, its short name in the contents, paragraphs, figures, then tables, strips and notes."""

    id: str
    title: str
    short: str = ""
    paragraphs: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    strips: tuple[ShownStrip, ...] = ()
    notes: tuple[str, ...] = ()


class Styles:
    """The look of each condition, the same as in the rest of the report: by its position in the study."""

    def __init__(self, conditions: Iterable[str]) -> None:
        self._index = {name: i for i, name in enumerate(dict.fromkeys(conditions))}

    def of(self, condition: str) -> int:
        """Return the style index of a condition; one that the study does not list looks like the last colour."""
        return self._index.get(condition, 6)

    def cell(self, condition: str, *tags: str) -> Cell:
        """Return the head of a row about one condition, with its marker."""
        return Cell(text=condition, tags=tuple(t for t in tags if t), mark=inline_mark(self.of(condition)))

    def sorted(self, conditions: Iterable[str]) -> list[str]:
        """Return distinct conditions in the order of the study."""
        return sorted(dict.fromkeys(conditions), key=lambda c: (self._index.get(c, len(self._index)), c))


def basis_of(measured: Measured, noun: str = "item") -> str:
    """Return "240 items, 4 seeds"; "" when neither is known."""
    parts = [plural(measured.n, noun) if measured.n else "", plural(len(measured.seeds), "seed") if measured.seeds else ""]
    return ", ".join(p for p in parts if p)


def shared_basis(measures: Iterable[Measured], noun: str = "item") -> str:
    """Return what all numbers rest on, "240 items, seeds 4 (0-3)", or "" when they differ."""
    found = {(m.n, m.seeds) for m in measures}
    if len(found) != 1:
        return ""
    n, seeds = found.pop()
    parts = [plural(n, noun) if n else "", f"{plural(len(seeds), 'seed')} {seeds_counted(seeds).partition(' ')[2]}" if seeds else ""]
    return ", ".join(p for p in parts if p)


def measured_cell(
    measured: Measured | None,
    *,
    percent: bool = False,
    signed: bool = False,
    noun: str = "item",
    shared: str = "",
    what: str = "",
    say: Callable[[float | None], str] | None = None,
) -> Cell:
    """Return a number with its interval, and with what it rests on unless `shared` says it for the whole table.

    `say` words the numbers (default: three decimals); `what` names the quantity in the table of numbers, where it has runs.
    """
    if measured is None:
        return Cell()
    say = say or (lambda value: number(value, sign=signed, percent=percent))
    ends = MISSING if measured.low is None or measured.high is None else f"[{say(measured.low)}, {say(measured.high)}]"
    tags = [ends if ends != MISSING else ""]
    tags.append("" if shared else basis_of(measured, noun))
    source = Source(what=what, measured=measured, percent=percent, signed=signed) if what and measured.runs else None
    return Cell(text=say(measured.estimate), tags=tuple(t for t in tags if t), source=source)


def tokens(value: float | None) -> str:
    """Return a count of tokens: whole above 1000, one decimal below."""
    if value is None:
        return MISSING
    return amount(round(value)) if abs(value) >= 1000 else f"{value:,.1f}".removesuffix(".0")


def fine(value: float | None, *, sign: bool = False) -> str:
    """Return a measured value with three decimals, or with three digits where it is small."""
    if value is None or not math.isfinite(value) or abs(value) >= 0.1 or abs(value) < 1e-12:
        return number(value, sign=sign)
    text = f"{abs(value):.2e}" if abs(value) < 1e-4 else f"{abs(value):#.3g}"
    return ("\u2212" if value < 0 else "+" if sign else "") + text


def measured_record(measured: Measured | None, prefix: str = "") -> dict[str, Any]:
    """Return a Measured as plain columns: estimate, low, high, n, seeds (space-joined)."""
    m = measured or Measured(estimate=None)
    seeds = " ".join(map(str, m.seeds))
    names = ("estimate", "low", "high", "n", "seeds")
    return dict(zip((f"{prefix}{n}" for n in names), (m.estimate, m.low, m.high, m.n, seeds), strict=True))


def bracketed(measured: Measured, *, percent: bool = False, signed: bool = False) -> str:
    """Return "0.31 [0.28, 0.34]", the number alone when it has no interval; small values keep three digits."""
    if percent:
        ends = interval(measured.low, measured.high, percent=True, sign=signed)
        return number(measured.estimate, percent=True, sign=signed) + ("" if ends == MISSING else f" {ends}")
    told = fine(measured.estimate, sign=signed)
    if measured.low is None or measured.high is None:
        return told
    return f"{told} [{fine(measured.low, sign=signed)}, {fine(measured.high, sign=signed)}]"


def with_rest(words: str, shared: str) -> str:
    """Return a caption with what all its numbers rest on, where that is one thing."""
    return f"{words}; each number rests on {shared}" if shared else words


def sentence(words: str) -> str:
    """Return words with a capital letter at the beginning."""
    return words[:1].upper() + words[1:]


def listed(words: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}" if words else ""
