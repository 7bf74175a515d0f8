"""Seeds and what became of them -> the funnel table: per source, how many rows were read, kept, answered, well formed, consistent.

Also the published funnel (Liu et al. 2025, Table 10) as data, and the arithmetic that checks its printed ratios: 27.56 % is printed
where the counts give 25.58 %. Not covered: making the records (synthesis.py), drawing the table in a report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

COUNTED = ("total", "filtered", "asked", "answered", "parsed", "consistent", "inconsistent", "unjudged")


@dataclass(frozen=True, slots=True)
class FunnelRow:
    """What became of one source's seeds; `source` is "sum" in the last row.

    total: candidates read (rows; definitions for raw code); filtered: kept by the seed filter, as the paper calls it; asked: of these,
    put to the teacher; answered: with at least one reply; parsed: with a well-formed one; then consistent, inconsistent, or unjudged
    where the sandbox failed.
    """

    source: str
    total: int = 0
    filtered: int = 0
    asked: int = 0
    answered: int = 0
    parsed: int = 0
    consistent: int = 0
    inconsistent: int = 0
    unjudged: int = 0

    @property
    def ratio_percent(self) -> float | None:
        """Consistent records per hundred candidates, as in Table 10; None when not every kept seed was asked about."""
        return 100 * self.consistent / self.total if self.total and self.asked == self.filtered else None

    @property
    def yield_percent(self) -> float | None:
        """Consistent records per hundred seeds asked about; None when nothing was answered."""
        return 100 * self.consistent / self.asked if self.answered else None

    def row(self) -> dict[str, Any]:
        """Return the row of the FUNNEL table."""
        return {**asdict(self), "ratio_percent": self.ratio_percent, "yield_percent": self.yield_percent}


def funnel(counts: Mapping[str, Mapping[str, int]]) -> list[FunnelRow]:
    """Return one row per source (source -> column -> count) and, for more than one, their sum."""
    rows = [FunnelRow(source, **{c: found.get(c, 0) for c in COUNTED}) for source, found in counts.items()]
    if len(rows) > 1:
        rows.append(FunnelRow("sum", **{c: sum(getattr(r, c) for r in rows) for c in COUNTED}))
    return rows


def funnel_text(rows: Sequence[FunnelRow]) -> str:
    """Return the funnel as an aligned text table."""
    head = ["source", *COUNTED, "ratio %", "of asked %"]
    body = [[r.source, *(f"{getattr(r, c):,}" for c in COUNTED), _percent(r.ratio_percent), _percent(r.yield_percent)] for r in rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(t.ljust(w) if i == 0 else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True)))
             for line in [head, *body]]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# ---- the published funnel ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """A line of Table 10: counts and the ratio (per cent) as printed."""

    source: str
    total: int
    filtered: int
    consistent: int
    printed_percent: float | None


TABLE_10 = (
    Published("CodeExercise-Python-27k", 27224, 14736, 6963, 27.56),  # its second count is printed as "147,36"
    Published("Codefuse-Evol-Instruct-66k", 66862, 16176, 8000, 11.96),
    Published("Evol-Instruct-Code-80k", 78264, 23175, 12003, 15.34),
    Published("Evol-CodeAlpaca-110k", 111272, 27566, 13529, 12.16),
    Published("Python-Code-ShareGPT-23k", 22608, 14061, 6131, 27.11),
    Published("Magicoder-OSS-Instruct-75k", 75197, 14499, 5667, 7.54),
    Published("sum", 381427, 110213, 52293, None),
)


@dataclass(frozen=True, slots=True)
class Erratum:
    """A printed number that its own table contradicts."""

    source: str
    what: str
    printed: float
    recomputed: float


def errata(table: Iterable[Published] = TABLE_10) -> list[Erratum]:
    """Return every ratio that differs from consistent / total by a hundredth of a point or more, and every sum that is off.

    A hundredth is what cutting off digits instead of rounding explains (27.11 for 27.119 is no erratum).
    """
    lines = [line for line in table if line.source != "sum"]
    found = []
    for line in lines:
        ratio = 100 * line.consistent / line.total
        if line.printed_percent is not None and abs(ratio - line.printed_percent) >= 0.01:
            found.append(Erratum(line.source, "ratio, per cent", line.printed_percent, round(ratio, 2)))
    for total in (line for line in table if line.source == "sum"):
        for name in ("total", "filtered", "consistent"):
            recomputed = sum(getattr(line, name) for line in lines)
            if recomputed != getattr(total, name):
                found.append(Erratum("sum", name, getattr(total, name), recomputed))
    return found
