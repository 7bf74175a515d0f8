"""A raw row and the columns of its file -> an Example, or the reason why the row is bad.

`input` follows the question after a blank line; `meta.input_at` is where it starts, so both can be taken apart.
Numbers become text as people write them (18.0 -> "18"). Not covered: which column is what (shapes.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from leaven.core.types import Example
from leaven.data.sources.conversations import BadRow, turns_of
from leaven.data.sources.shapes import LEARNED, PROVENANCE, TEXTS, Columns, Row, walk


def to_example(row: Any, number: int, columns: Columns, *, source: str, licence: str = "", domain: str = "") -> Example:
    """Return the Example of one row, with the row number as id; raise BadRow with the reason when it is not valid."""
    if not isinstance(row, Mapping):
        raise BadRow("not an object")
    values = {ours: _joined(row, paths, ours, columns) for ours, paths in columns.of.items() if ours in TEXTS}
    meta = {p: row[p] for p in PROVENANCE if isinstance(row.get(p), str | int) and 0 < len(str(row[p])) <= 200}
    question, extra, system = (values.pop(k, "") for k in ("question", "input", "system"))
    if question.strip() and extra.strip():
        meta["input_at"] = len(question) + 2
        question = f"{question}\n\n{extra}"
    values["licence"] = values.get("licence") or licence
    values["domain"] = values.get("domain") or domain
    turns = turns_of(_first(row, columns, "turns"), system) if "turns" in columns.of else ()
    tests = _tests(_first(row, columns, "tests")) if "tests" in columns.of else ()
    difficulty = _difficulty(_first(row, columns, "difficulty")) if "difficulty" in columns.of else None
    example = Example(id=f"{number:07d}", source=source, question=question, turns=turns, tests=tests,
                      difficulty=difficulty, meta=meta, **values)
    _check_filled(example, columns)
    return example


def _first(row: Row, columns: Columns, ours: str) -> Any:
    found, value = walk(row, columns.of[ours][0])
    if not found and ours == "turns":
        raise BadRow(f"missing {columns.of[ours][0]}")
    return value


def _joined(row: Row, paths: Sequence[str], ours: str, columns: Columns) -> str:
    """Return the text of a field: its columns joined by newlines; a required column that is absent is a bad row."""
    texts = []
    for path in paths:
        found, value = walk(row, path)
        if not found and ours in ("question", "answer", "text") and columns.shape != "problem":
            raise BadRow(f"missing {path}")
        text = _text(value, ours, path, lenient=ours in columns.mapped)
        texts += [text] if text else []
    return "\n".join(texts)


def _text(value: Any, ours: str, path: str, lenient: bool) -> str:
    """Return a cell as text. Lists and objects are text only where a user mapped the column: lines, or JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))  # a JSON 18.0 is the answer 18
    if isinstance(value, int | float):
        return str(value)
    if not lenient:
        raise BadRow(f"{path} is not text")
    if isinstance(value, list):
        return "\n".join(_text(v, ours, path, lenient) for v in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _tests(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [] if value in (None, "") else [value]
    return tuple(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str) for v in values)


def _difficulty(value: Any) -> int | None:
    """Return a whole number; "Level 5" is 5, nothing stays nothing."""
    if value is None or value == "":
        return None
    text = "".join(c if c.isdigit() or c in ".-" else " " for c in str(value)).split()
    try:
        return int(float(text[0])) if len(text) == 1 else _not_a_number()
    except (ValueError, OverflowError):
        return _not_a_number()


def _not_a_number() -> int:
    raise BadRow("difficulty is not a number")


def _check_filled(example: Example, columns: Columns) -> None:
    """Raise BadRow for an example without content or with text that is not valid Unicode."""
    if "text" in columns.of and not example.text.strip():
        raise BadRow("empty text")
    if "question" in columns.of:
        if not example.question.strip():
            raise BadRow("empty question")
        learned = (example.thought, example.code, example.answer, *example.tests)
        if not any(v.strip() for v in learned):
            only = [k for k in LEARNED if k in columns.of]
            raise BadRow(f"empty {only[0]}" if len(only) == 1 else f"{', '.join(only)} all empty")
    texts = (example.question, example.thought, example.code, example.answer, example.text, *example.tests,
             *(t.content for t in example.turns), *map(str, example.meta.values()), example.licence, example.family,
             example.group, example.domain, example.entry_point)
    if any(not t.isascii() and not _encodes(t) for t in texts):
        raise BadRow("half of a surrogate pair")


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
