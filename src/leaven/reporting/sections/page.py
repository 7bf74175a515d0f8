"""Section records -> what the template prints: every number with a source numbered and linked, as elsewhere on the page.

Not covered: making sections (order.py), their files (exports.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from leaven.reporting.sections.section import Cell, Section, Source, Table

MANY = 3
"""So many numbers of a table that rest on the same runs share one source."""


def shown_sections(
    sections: Sequence[Section], add: Callable[[Source], int], add_row: Callable[[Sequence[Source]], int]
) -> list[dict[str, Any]]:
    """Return the sections as the template reads them.

    `add` records one number's source and returns its number, `add_row` those of one table that rest on the same runs.
    """
    return [
        {
            "id": s.id,
            "title": s.title,
            "short": s.short or s.title,
            "paragraphs": s.paragraphs,
            "figures": s.figures,
            "blocks": _blocks([_table(t, add, add_row) for t in s.tables]),
            "strips": s.strips,
            "notes": s.notes,
        }
        for s in sections
    ]


def _blocks(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tables in reading order; folded neighbours of one summary share one fold."""
    blocks: list[dict[str, Any]] = []
    for t in tables:
        last = blocks[-1] if blocks else None
        if last and not t["open"] and not last["open"] and last["summary"] == t["summary"]:
            last["tables"].append(t)
        else:
            blocks.append({"open": t["open"], "summary": t["summary"], "tables": [t]})
    return blocks


def _table(table: Table, add: Callable[[Source], int], add_row: Callable[[Sequence[Source]], int]) -> dict[str, Any]:
    together = _together(table, add_row)
    rows = []
    for row in table.rows:
        numbers = [together.get(_basis(c.source)) or add(c.source) if c.source else 0 for c in row]
        if len(set(numbers) - {0}) == 1 and sum(map(bool, numbers)) >= MANY:  # said once, at the head of the row
            numbers = [max(numbers), *(0 for _ in row[1:])]
        rows.append([_cell(c, n) for c, n in zip(row, numbers, strict=True)])
    return {
        "id": table.id,
        "caption": table.caption,
        "columns": table.columns,
        "rows": rows,
        "summary": table.summary or table.caption,
        "open": table.open,
        "text": table.text,
        "look": _look(table),
    }


def _basis(source: Source) -> tuple[Any, ...]:
    return source.measured.runs, source.measured.seeds, source.percent, source.signed


def _together(table: Table, add_row: Callable[[Sequence[Source]], int]) -> dict[tuple[Any, ...], int]:
    """Record the numbers of a table that rest on the same runs as one each where they are many; return what to call them."""
    groups: dict[tuple[Any, ...], list[Source]] = {}
    for cell in (c for row in table.rows for c in row if c.source):
        groups.setdefault(_basis(cell.source), []).append(cell.source)
    return {basis: add_row(sources) for basis, sources in groups.items() if len(sources) >= MANY}


def _look(table: Table) -> str:
    """Return the class of a table: nums where all cells are numbers but the heads, and the second column if it has t2."""
    numeric = [c.numeric for c in table.columns[1:]]
    if table.text or not any(numeric):
        return "stack" if table.text else ""
    return "nums" if all(numeric) else "nums t2" if all(numeric[1:]) else ""


def _cell(cell: Cell, number: int) -> dict[str, Any]:
    return {"text": cell.text, "tags": cell.tags, "mark": cell.mark, "kind": cell.kind, "number": number}
