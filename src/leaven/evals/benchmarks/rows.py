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


def required(row: Mapping[str, Any], field: str, index: int, benchmark: str, *others: str, kind: type | tuple[type, ...] = object) -> Any:
    """Return the first of the named columns that a row has.

    Args:
        row: A row of a benchmark file.
        field: The column.
        index: Number of the row, from 0.
        benchmark: Named in errors.
        others: Columns that serve as well.
        kind: What the value has to be.

    Raises:
        DataError: When the row has none of the columns, or a value of another kind.
    """
    for name in (field, *others):
        value = row.get(name)
        if value is None:
            continue
        if not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise broken(
                benchmark,
                index,
                f"expected {' or '.join(WORDS.get(k, k.__name__) for k in kinds)} in column {name!r}, "
                f"found {type(value).__name__} {str(value)[:80]!r}",
            )
        return value
    raise broken(
        benchmark,
        index,
        f"expected a column {' or '.join((field, *others))}, found {sorted(row)}.{did_you_mean(field, sorted(row))}",
    )


WORDS = {str: "a text", list: "a list", dict: "a mapping", int: "a whole number"}


def broken(benchmark: str, index: int, what: str) -> DataError:
    """Return the error for row `index` (from 0) of a benchmark; the file is named by whoever reads it."""
    return DataError(f"benchmark {benchmark}, row {index + 1}: {what}")


def texts(row: Mapping[str, Any], field: str, index: int, benchmark: str, *others: str) -> tuple[str, ...]:
    """Return a column that holds a list of texts; raise DataError for anything else in it."""
    found = required(row, field, index, benchmark, *others, kind=list)
    for value in found:
        if not isinstance(value, str):
            raise broken(benchmark, index, f"expected texts in column {field!r}, found {type(value).__name__} among them")
    return tuple(found)


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
    difficulty: int | None = None,
    difficulty_unit: str = "",
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
        difficulty=difficulty,
        difficulty_unit=difficulty_unit,
    )
    return Item(id=identity, benchmark=benchmark, example=example, cluster=cluster or identity)
