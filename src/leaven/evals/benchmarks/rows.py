"""File and world rows -> items: what several benchmarks share when they read a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaven.core.tables import EXAMPLES, example_from_row
from leaven.core.types import Example, Item
from leaven.errors import DataError, did_you_mean

EMPTY = {name: ([] if name == "tests" else None if name == "difficulty" else "") for name in EXAMPLES}


def item_from_problem(row: Mapping[str, Any], index: int, benchmark: str, needs: str) -> Item:
    """Return the item of a row with the columns of EXAMPLES (absent ones are empty).

    Raises:
        DataError: When the row has no question or lacks `needs` (tests or answer).
    """
    known = {k: v for k, v in row.items() if k in EXAMPLES and v is not None}
    values = {**EMPTY, "id": str(index), "source": benchmark, **known}
    example = example_from_row({**values, "id": str(values["id"])})
    for field in ("question", needs):
        if not getattr(example, field):
            raise DataError(
                f"benchmark {benchmark}, row {index + 1}: expected a value for {field!r}, found columns "
                f"{sorted(row)}.{did_you_mean(field, sorted(row))}"
            )
    return Item(
        id=example.id,
        benchmark=benchmark,
        example=example,
        cluster=example.group or example.id,
        seen=bool(example.meta.get("enumerated")),
    )


def required(row: Mapping[str, Any], field: str, index: int, benchmark: str, *others: str) -> Any:
    """Return the first of the named columns that a row has; raise DataError naming them all when it has none."""
    for name in (field, *others):
        if row.get(name) is not None:
            return row[name]
    raise DataError(
        f"benchmark {benchmark}, row {index + 1}: expected a column {' or '.join((field, *others))}, found "
        f"{sorted(row)}.{did_you_mean(field, sorted(row))}"
    )


def problem_item(
    benchmark: str,
    identity: str,
    question: str,
    *,
    code: str = "",
    answer: str = "",
    tests: tuple[str, ...] = (),
    entry_point: str = "",
    licence: str = "",
    domain: str = "",
    cluster: str = "",
    meta: Mapping[str, Any] | None = None,
) -> Item:
    """Return an item whose gold is code or an answer."""
    example = Example(
        id=identity,
        source=benchmark,
        question=question,
        code=code,
        answer=answer,
        tests=tests,
        entry_point=entry_point,
        licence=licence,
        domain=domain,
        meta=dict(meta or {}),
    )
    return Item(id=identity, benchmark=benchmark, example=example, cluster=cluster or identity)
