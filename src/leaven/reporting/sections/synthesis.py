"""Counts of synthesis and perturbation -> the funnel from seed rows to consistent ones, and what each operation did.

Shares carry Wilson intervals over rows. Counts that do not add up are said, never repaired.
Paper: Liu et al. 2025, table 10 (funnel), figures 7 and 8 (perturbed data).
Not covered: filtering, executing and perturbing (data/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from leaven.analysis.stats import wilson
from leaven.reporting.bars import Bar, draw_bars
from leaven.reporting.marks import Figure
from leaven.reporting.sections.inputs import FunnelRow, OrderInputs, Perturbation
from leaven.reporting.sections.section import Cell, Column, Section, Table
from leaven.reporting.svg import Canvas
from leaven.reporting.wording import MISSING, interval, number, plural

SHOWN_REASONS = 6


def share(k: int, n: int) -> tuple[str, str]:
    """Return "25.6 %" and its Wilson interval "[25.1, 26.1]" over n rows; en dashes for no rows or impossible counts."""
    if n <= 0 or not 0 <= k <= n:
        return MISSING, MISSING
    found = wilson(k, n)
    return f"{number(found.estimate, percent=True)} %", interval(found.low, found.high, percent=True)


def _share_cell(k: int, n: int) -> Cell:
    words, ends = share(k, n)
    return Cell(text=words, tags=(ends,) if ends != MISSING else ())


def _reasons(reasons: Mapping[str, int]) -> tuple[str, ...]:
    """Return the most frequent reasons with their counts, and how many rows the others hold."""
    ranked = sorted(((n, r) for r, n in reasons.items() if n), key=lambda pair: (-pair[0], pair[1]))
    shown = [f"{r}: {n:,}" for n, r in ranked[:SHOWN_REASONS]]
    rest = ranked[SHOWN_REASONS:]
    return (*shown, f"{plural(len(rest), 'more reason')}: {sum(n for n, _ in rest):,}") if rest else tuple(shown)


def _reason_cell(reasons: Mapping[str, int]) -> Cell:
    first, *others = _reasons(reasons) or (MISSING,)
    return Cell(text=first, tags=tuple(others))


def funnel_section(inputs: OrderInputs) -> Section | None:
    """Return the funnel of synthesis, or None without one."""
    rows = inputs.funnel
    if not rows:
        return None
    total = FunnelRow(
        source="all sources",
        total=sum(r.total for r in rows),
        filtered=sum(r.filtered for r in rows),
        consistent=sum(r.consistent for r in rows),
    )
    shown = (*rows, total) if len(rows) > 1 else rows
    return Section(
        id="funnel",
        title="Funnel of synthesis",
        short="Synthesis",
        paragraphs=(
            "How many seed rows passed the filter, and how many of those kept a solution that passes its own tests when executed.",
        ),
        figures=(_funnel_figure(shown),),
        tables=(_funnel_table(shown),),
        notes=tuple(note for r in rows for note in _books(r)),
    )


def _books(row: FunnelRow) -> list[str]:
    """Return what does not add up in a row of the funnel."""
    notes = []
    if not 0 <= row.consistent <= row.filtered <= row.total:
        notes.append(f"{row.source}: {row.total:,}, {row.filtered:,} and {row.consistent:,} rows do not make a funnel.")
    told, lost = sum(row.reasons.values()), row.total - row.consistent
    if row.reasons and told != lost:
        notes.append(f"{row.source}: {lost:,} rows were lost, but the reasons account for {told:,}.")
    return notes


def _funnel_figure(rows: Sequence[FunnelRow]) -> Figure:
    bars = [
        Bar(
            label=r.source,
            counts=(r.consistent, max(r.filtered - r.consistent, 0), max(r.total - r.filtered, 0)),
            words=f"{r.total:,} \u2192 {r.filtered:,} \u2192 {r.consistent:,} ({share(r.consistent, r.total)[0]})",
        )
        for r in rows
    ]
    said = "; ".join(f"{r.source}: {r.total:,} rows, {r.filtered:,} filtered, {r.consistent:,} consistent" for r in rows[:10])
    return Figure(
        name="funnel",
        title="From seed rows to consistent ones",
        description=f"Funnel of synthesis. {said}.",
        caption="Each bar is all rows of a source.",
        table="funnel-counts",
        draw=_bars(bars, ("consistent", "passed the filter, failed its tests", "rejected by the filter")),
    )


def _bars(bars: Sequence[Bar], outcomes: Sequence[str]) -> Callable[[float], Canvas]:
    return lambda width: draw_bars(bars, outcomes, width)


def _funnel_table(rows: Sequence[FunnelRow]) -> Table:
    columns = [
        Column(name="Source"),
        Column(name="Rows", numeric=True),
        Column(name="Passed the filter", numeric=True),
        Column(name="Consistent", numeric=True),
        Column(name="Share", numeric=True, tags=("consistent of all",)),
        Column(name="Share", numeric=True, tags=("consistent of filtered",)),
    ]
    told = any(r.reasons for r in rows)
    cells = []
    for r in rows:
        counts = [Cell(text=f"{v:,}") for v in (r.total, r.filtered, r.consistent)]
        line = [Cell(text=r.source), *counts, _share_cell(r.consistent, r.total), _share_cell(r.consistent, r.filtered)]
        cells.append((*line, _reason_cell(r.reasons)) if told else tuple(line))
    records = [
        {
            "source": r.source,
            "total": r.total,
            "filtered": r.filtered,
            "consistent": r.consistent,
            "ratio": r.consistent / r.total if r.total else None,
            "reasons": "; ".join(f"{reason}: {n}" for reason, n in r.reasons.items()),
        }
        for r in rows
    ]
    return Table(
        id="funnel-counts",
        caption="Rows of each source that survived, shares with 95 % Wilson intervals over rows",
        columns=(*columns, *([Column(name="Why rows were lost")] if told else [])),
        rows=tuple(cells),
        records=tuple(records),
    )


def perturbation_section(inputs: OrderInputs) -> Section | None:
    """Return what each perturbation changed, skipped and refused, or None without one."""
    rows = inputs.perturbations
    if not rows:
        return None
    return Section(
        id="perturbations",
        title="What the perturbations did",
        short="Perturbations",
        paragraphs=(
            "Every row is counted once: changed, unchanged (there was nothing to change), skipped (it cannot be changed) or refused "
            "(running it before and after did not prove the change harmless, or harmful where harm was asked for).",
        ),
        figures=(_outcome_figure(rows),),
        tables=tuple(t for t in (_outcome_table(rows), _verdict_table(rows)) if t),
    )


def _operation(r: Perturbation, rows: Sequence[Perturbation]) -> str:
    """Return the operation in words, with its target where one operation has several."""
    name = r.operation.replace("_", " ")
    return name if sum(o.operation == r.operation for o in rows) == 1 else f"{name} ({r.target})"


def _counts(r: Perturbation) -> tuple[int, int, int, int]:
    return r.changed, r.unchanged, r.skipped, r.refused


def _outcome_figure(rows: Sequence[Perturbation]) -> Figure:
    names = ("changed", "unchanged", "skipped", "refused")
    bars = [
        Bar(
            label=_operation(r, rows),
            counts=_counts(r),
            words=f"{r.changed:,} of {sum(_counts(r)):,} ({share(r.changed, sum(_counts(r)))[0]})",
        )
        for r in rows
    ]
    said = "; ".join(f"{_operation(r, rows)}: " + ", ".join(f"{n:,} {w}" for n, w in zip(_counts(r), names, strict=True)) for r in rows[:8])
    return Figure(
        name="perturbations",
        title="Rows that each operation changed",
        description=f"Outcomes of perturbations. {said}.",
        caption="Each bar is all rows that the operation was given; the numbers beside it are the changed ones.",
        table="perturbation-counts",
        draw=_bars(bars, names),
    )


def _outcome_table(rows: Sequence[Perturbation]) -> Table:
    cells = []
    for r in rows:
        total = sum(_counts(r))
        counts = [Cell(text=f"{n:,}") for n in (total, *_counts(r))]
        head = Cell(text=r.operation.replace("_", " "), tags=(r.target,))
        cells.append((head, *counts, _share_cell(r.changed, total), _reason_cell(r.reasons)))
    names = ("Rows", "Changed", "Unchanged", "Skipped", "Refused")
    return Table(
        id="perturbation-counts",
        caption="Rows by outcome of each operation, share changed with its 95 % Wilson interval over rows",
        columns=(
            Column(name="Operation"),
            *(Column(name=name, numeric=True) for name in names),
            Column(name="Share changed", numeric=True),
            Column(name="Why skipped or refused"),
        ),
        rows=tuple(cells),
        records=tuple(
            {
                "operation": r.operation,
                "target": r.target,
                "changed": r.changed,
                "unchanged": r.unchanged,
                "skipped": r.skipped,
                "refused": r.refused,
                "reasons": "; ".join(f"{reason}: {n}" for reason, n in r.reasons.items()),
                "seeds": " ".join(map(str, r.seeds)),
            }
            for r in rows
        ),
    )


def _verdict_table(rows: Sequence[Perturbation]) -> Table | None:
    """Return what the programs' verdicts were before and after; None when nothing was executed."""
    if not any(r.verdicts for r in rows):
        return None
    cells, records = [], []
    for r in rows:
        if not r.verdicts:
            continue
        ran = sum(v.n for v in r.verdicts)
        kept = sum(v.n for v in r.verdicts if v.before == v.after)
        passed = sum(v.n for v in r.verdicts if v.before == "pass")
        broke = sum(v.n for v in r.verdicts if v.before == "pass" and v.after != "pass")
        moves = {f"{_status(v.before)} \u2192 {_status(v.after)}": v.n for v in r.verdicts if v.before != v.after}
        cells.append(
            (
                Cell(text=r.operation.replace("_", " "), tags=(r.target,)),
                Cell(text=f"{ran:,}"),
                Cell(text=f"{kept:,}"),
                Cell(text=f"{passed:,}"),
                Cell(text=f"{broke:,}", tags=tuple(t for t in share(broke, passed) if t != MISSING)),
                _reason_cell(moves),
            )
        )
        records += [
            {"operation": r.operation, "target": r.target, "before": v.before, "after": v.after, "n": v.n} for v in r.verdicts
        ]
    return Table(
        id="perturbation-verdicts",
        caption="Verdicts of the programs that were run before and after",
        columns=(
            Column(name="Operation"),
            Column(name="Programs run", numeric=True),
            Column(name="Same verdict", numeric=True),
            Column(name="Passed before", numeric=True),
            Column(name="of those, broken", numeric=True),
            Column(name="Verdicts that changed"),
        ),
        rows=tuple(cells),
        records=tuple(records),
    )


def _status(status: str) -> str:
    return status.replace("_", " ") or "not run"
