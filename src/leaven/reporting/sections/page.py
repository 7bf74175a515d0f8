"""Section records -> what the template prints: every number with a source numbered and linked, as elsewhere on the page.

Not covered: making sections (order.py), their files (exports.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from leaven.reporting.sections.section import Cell, Section, Source, Table

MANY = 3
"""A row with so many numbers that rest on the same runs gets one source for all of them."""


def shown_sections(
    sections: Sequence[Section], add: Callable[[Source], int], add_row: Callable[[Sequence[Source]], int]
) -> list[dict[str, Any]]:
    """Return the sections as the template reads them.

    `add` records one number's source and returns its number, `add_row` those of one row that rest on the same runs.
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
    return {
        "id": table.id,
        "caption": table.caption,
        "columns": table.columns,
        "rows": [_row(row, add, add_row) for row in table.rows],
        "summary": table.summary or table.caption,
        "open": table.open,
        "text": table.text,
    }


def _row(row: Sequence[Cell], add: Callable[[Source], int], add_row: Callable[[Sequence[Source]], int]) -> list[dict[str, Any]]:
    sources = [c.source for c in row if c.source]
    together = len(sources) >= MANY and len({(s.measured.runs, s.measured.seeds, s.percent) for s in sources}) == 1
    if not together:
        return [_cell(c, add(c.source) if c.source else 0) for c in row]
    number = add_row(sources)
    return [_cell(c, 0 if i else number) for i, c in enumerate(row)]


def _cell(cell: Cell, number: int) -> dict[str, Any]:
    return {"text": cell.text, "tags": cell.tags, "mark": cell.mark, "kind": cell.kind, "number": number}
