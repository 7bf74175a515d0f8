"""A dataset file -> examples.parquet + report.json: every row is kept or counted with its reason.

rows.py reads the rows, shapes.py says what the columns mean, convert.py makes examples; this step keeps the books:
rows_read = rows_kept + bad rows. Ids are row numbers (content-independent: an edited row keeps its id).
Not covered: deduplication and filters (dedupe.py), downloads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import write_examples
from leaven.core.types import Example
from leaven.data.sources.conversations import BadRow
from leaven.data.sources.convert import to_example
from leaven.data.sources.rows import RawRow, read_rows
from leaven.data.sources.shapes import Columns, resolve
from leaven.errors import DataError

_HEADS = 20
_QUOTED = 5
_PROGRESS_EVERY = 2000


@dataclass(slots=True)
class _Books:
    """What happened to the rows of one file."""

    read: int = 0
    kept: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    quoted: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def refuse(self, row: RawRow, reason: str) -> None:
        self.bad[reason] = self.bad.get(reason, 0) + 1
        quotes = self.quoted.setdefault(reason, [])
        if len(quotes) < _QUOTED:
            start = row.start.encode("utf-8", "replace").decode("utf-8")
            quotes.append({"row": row.number, "where": row.where, "start": start})


@step(version=1)
def load_file(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Read `inputs["file"]` into `out`/examples.parquet and write `out`/report.json.

    `spec`: name (source), shape ("auto" or a name of shapes.SHAPES), fields ({our field: column} | None), limit (rows
    read at most | None), licence, domain, on_bad_row ("count" | "error"). Inputs called "plugin:..." are Python
    files that add shapes to SHAPES.

    Raises:
        DataError: the file cannot be read, its shape cannot be told, a row is bad under on_bad_row "error", or all are.
    """
    load_plugins(inputs)
    path = Path(inputs["file"])
    strict = spec.get("on_bad_row", "count")
    if strict not in ("count", "error"):
        raise DataError(f"on_bad_row: expected 'count' or 'error', found {strict!r}")
    where = f"source {spec['name']!r} ({path})"
    rows = read_rows(path, spec.get("limit"))
    heads = list(islice(rows, _HEADS))
    objects = [r.value for r in heads if isinstance(r.value, Mapping)]
    if not objects:
        raise DataError(f"{where}: expected rows that are objects, found {_first_problem(heads)}; write one JSON "
                        "object per line, or name the right file")
    columns = resolve(objects, spec.get("shape") or "auto", spec.get("fields"), where)
    books = _Books()
    write_examples(out / "examples.parquet", _examples(chain(heads, rows), columns, spec, books, ctx, where))
    if not books.kept:
        raise DataError(f"{where}: none of the {books.read} rows can be used: {_summary(books)}")
    report = {"source": spec["name"], "file": path.name, "shape": columns.shape,
              "fields": {ours: " + ".join(paths) for ours, paths in columns.of.items()},
              "unused_columns": columns.unused(objects), "licence": spec.get("licence") or "", "rows_read": books.read,
              "rows_kept": books.kept, "bad_rows": books.bad, "quoted": books.quoted}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def _examples(rows: Iterator[RawRow], columns: Columns, spec: Mapping[str, Any], books: _Books, ctx: StepContext,
              where: str) -> Iterator[Example]:
    """Yield the valid examples and count every row in `books`."""
    facts = {"source": spec["name"], "licence": spec.get("licence") or "", "domain": spec.get("domain") or ""}
    for row in rows:
        if row.number % _PROGRESS_EVERY == 0:
            ctx.check_stop()
            ctx.progress(row.number, 0, f"{spec['name']}: {row.number} rows")
        books.read += 1
        try:
            if row.problem:
                raise BadRow(row.problem)
            example = to_example(row.value, row.number, columns, **facts)
        except BadRow as error:
            if spec.get("on_bad_row") == "error":
                raise DataError(f"{where}: {row.where}: {error}. The row starts {row.start!r}. Mend it, or "
                                "count bad rows instead with on_bad_row: count") from error
            books.refuse(row, str(error))
            continue
        books.kept += 1
        yield example


def _first_problem(heads: Sequence[RawRow]) -> str:
    if not heads:
        return "no rows"
    row = heads[0]
    return f"{row.problem or type(row.value).__name__} at {row.where}: {row.start!r}"


def _summary(books: _Books) -> str:
    return "; ".join(f"{reason}: {n} (first at {books.quoted[reason][0]['where']}, which starts "
                     f"{books.quoted[reason][0]['start'][:60]!r})" for reason, n in books.bad.items())
