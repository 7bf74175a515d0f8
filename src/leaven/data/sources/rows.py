"""A data file (JSONL, JSON, Parquet, each also gzipped) -> its raw rows, one by one, with where each one stood.

The content decides over the suffix: gzip and Parquet are known by their magic bytes, JSON documents by their first
character. JSONL is streamed; a JSON document and a Parquet file are read whole. A row that cannot be parsed is yielded
with its problem instead of being skipped, so that every line of the file is accounted for.
Not covered: what the columns mean (shapes.py), CSV, archives of several files.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import polars as pl

from leaven.errors import DataError, did_you_mean

_QUOTE = 160
_CONVERSATIONS = ("conversations", "messages")


@dataclass(frozen=True, slots=True)
class RawRow:
    """Row `number` (from 0; blank lines are no rows) found at `where`; `problem` says why `value` is missing, if so."""

    number: int
    where: str
    value: Any
    start: str
    problem: str = ""


def read_rows(path: Path, limit: int | None = None) -> Iterator[RawRow]:
    """Yield the first `limit` rows of a file in file order.

    Raises:
        DataError: no such file, a folder, an empty file, damaged gzip or Parquet, a broken JSON document.
    """
    _check_file(path)
    try:
        yield from islice(_READERS[_kind(path)](path), limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip data is damaged or cut short ({error}); fetch the file again") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir())[:5]
        raise DataError(f"{path}: expected a file, found a folder holding {inside}; name one of its files")
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: expected a JSONL, JSON or Parquet file (also .gz), found nothing there."
                        f"{did_you_mean(path.name, siblings)}")


def _open(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, through gzip when its first two bytes say so."""
    with path.open("rb") as handle:
        zipped = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


def _kind(path: Path) -> Literal["parquet", "jsonl", "document"]:
    """Return how the rows of a file are stored; raise DataError when its start fits none of the known ways."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    with _open(path) as handle:
        start = handle.read(4)
        if start == b"PAR1":
            return "parquet"
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path}: expected UTF-8 text, found UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
        handle.seek(0)
        lines = [line for line in islice((line.removeprefix(b"\xef\xbb\xbf").strip() for line in handle), 1000) if line]
    if not lines:
        raise DataError(f"{path}: expected rows, found an empty file")
    first = lines[0]
    if suffix in (".parquet", ".pq") or first[:1] not in (b"{", b"["):
        if suffix in (".jsonl", ".ndjson"):
            return "jsonl"
        raise DataError(f"{path}: expected JSONL, JSON or Parquet rows, found {first[:60]!r} at the start; "
                        "convert it, for example with polars.read_csv(...).write_ndjson(...)")
    if first[:1] == b"[":
        return "document"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    return "jsonl" if len(lines) > 1 and _is_object(first) else "document"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read_jsonl(path: Path) -> Iterator[RawRow]:
    number = 0
    with _open(path) as handle:
        for line_number, line in enumerate(handle, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else line
            if not line.strip():
                continue
            start = line[:4 * _QUOTE].decode("utf-8", "replace").strip()[:_QUOTE]
            value, problem = None, ""
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                problem = "not UTF-8"
            except (ValueError, RecursionError):
                problem = "broken JSON"
            yield RawRow(number, f"line {line_number}", value, start, problem)
            number += 1


def _read_document(path: Path) -> Iterator[RawRow]:
    with _open(path) as handle:
        data = handle.read()
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: expected UTF-8 text, found byte 0x{data[error.start]:02x} at line {line}; "
                        "convert it: iconv -f LATIN1 -t UTF-8 (or its true encoding)") from error
    except json.JSONDecodeError as error:
        quoted = error.doc[max(0, error.pos - 40):error.pos + 40]
        raise DataError(f"{path}: broken JSON at line {error.lineno} column {error.colno} ({error.msg}), near "
                        f"{quoted!r}; if each line is one row, name the file .jsonl") from error
    except RecursionError as error:
        raise DataError(f"{path}: expected rows, found JSON nested too deeply to read") from error
    for number, row in enumerate(_rows_of(value, path)):
        yield RawRow(number, f"row {number + 1}", row, json.dumps(row, ensure_ascii=False)[:_QUOTE])


def _rows_of(value: Any, path: Path) -> list[Any]:
    """Return the rows of a JSON document: a list, an object with a single list of objects, or one row."""
    if isinstance(value, list):
        rows = value
    elif isinstance(value, dict):
        lists = [k for k, v in value.items() if isinstance(v, list) and any(isinstance(x, dict) for x in v)]
        lists = [] if len(lists) == 1 and lists[0] in _CONVERSATIONS else lists
        if len(lists) > 1:
            raise DataError(f"{path}: expected one list of rows, found {len(lists)}: {', '.join(lists)}; "
                            "keep one of them, or write one row per line")
        rows = value[lists[0]] if lists else [value]
    else:
        rows = []
    if not rows:
        raise DataError(f"{path}: expected a list of rows, found {type(value).__name__} without any")
    return rows


def _read_parquet(path: Path) -> Iterator[RawRow]:
    with _open(path) as handle:
        data: Any = io.BytesIO(handle.read()) if isinstance(handle, gzip.GzipFile) else path
    try:
        frame = pl.read_parquet(data)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: expected a readable Parquet file, found: {error}") from error
    if not frame.height:
        raise DataError(f"{path}: expected rows, found an empty table with columns {frame.columns}")
    for number, row in enumerate(frame.iter_rows(named=True)):
        yield RawRow(number, f"row {number + 1}", row, json.dumps(row, ensure_ascii=False, default=str)[:_QUOTE])


_READERS = {"parquet": _read_parquet, "jsonl": _read_jsonl, "document": _read_document}
