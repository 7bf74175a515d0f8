"""Raw rows -> Examples: which column is what, detected or named, and what makes a row bad.

A shape says which columns hold question, answer, turns or text; `fields` (our field -> their column) overrides it or stands
alone. A column may be a dotted path ("instances.0.output") and several columns may be joined ("Body + Question"). `input`
follows the question after a blank line; `meta.input_at` is where it starts, so both can be taken apart again.
Detection refuses rather than guesses: a file of raw text or problems with further columns of substance must be mapped.
Validity of conversations: papers.md section 1.2.1 (Zhang et al. 2024 as reproduced): not empty, starts with the user after an
optional system turn, strictly alternating; tool turns may follow the assistant. Not covered: chat templates (formats.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leaven.core.types import Example
from leaven.data.sources.conversations import BadRow, turns_of
from leaven.errors import DataError, did_you_mean

Row = Mapping[str, Any]
TEXTS = ("question", "input", "thought", "code", "answer", "text", "system", "entry_point", "domain", "family", "group",
         "difficulty_unit", "licence")
FIELDS = (*TEXTS, "turns", "tests", "difficulty")
LEARNED = ("thought", "code", "answer", "tests")
_PROVENANCE = ("id", "task_id", "path", "_src", "source", "url")
_SUBSTANCE = ("answer", "output", "response", "completion", "target", "solution", "solutions", "canonical_solution", "code",
              "tests", "test", "test_list", "label", "summary", "context", "passage", "premises", "options", "choices",
              "rationale")


@dataclass(frozen=True, slots=True)
class Shape:
    """Our field -> the column names it may have; every field of `required` must be found, of `any_of` at least one."""

    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    any_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SHAPES: dict[str, Shape] = {
    "messages": Shape({"turns": ("messages",)}, {"system": ("system",)}),
    "sharegpt": Shape({"turns": ("conversations", "conversation")}, {"system": ("system",)}),
    "alpaca": Shape({"question": ("instruction",), "answer": ("output",)}, {"input": ("input",), "system": ("system",)}),
    "instruction_response": Shape({"question": ("instruction",), "answer": ("response",)},
                                  {"input": ("input",), "system": ("system",)}),
    "prompt_completion": Shape({"question": ("prompt",), "answer": ("completion",)}),
    "input_target": Shape({"question": ("input",), "answer": ("target",)}),
    "problem": Shape({"question": ("question", "problem")}, {"tests": ("tests",), "entry_point": ("entry_point",)},
                     any_of={"thought": ("thought",), "code": ("code",), "answer": ("answer",)}),
    "text": Shape({"text": ("text", "content", "document")}),
}
_ALWAYS = {"licence": ("licence", "license")}


@dataclass(frozen=True, slots=True)
class Columns:
    """The resolved reading of a file: our field -> the columns joined for it; `mapped` are the fields a user named."""

    shape: str
    of: Mapping[str, tuple[str, ...]]
    mapped: frozenset[str]

    def unused(self, heads: Sequence[Row]) -> list[str]:
        """Return the columns of the first rows that nothing reads."""
        used = {path.split(".")[0] for paths in self.of.values() for path in paths} | {p for v in self.of.values() for p in v}
        return sorted(_columns(heads) - used - set(_PROVENANCE))


def resolve(heads: Sequence[Row], shape: str, fields: Mapping[str, str] | None, where: str) -> Columns:
    """Return which columns hold what, from the first rows of a file.

    Raises:
        DataError: unknown shape or field, a mapped column that is not there, or no shape that fits; the message names
            the columns found, what each near shape lacks and how to map fields.
    """
    if shape != "auto" and shape not in SHAPES:
        raise DataError(f"{where}: no shape is called {shape!r}.{did_you_mean(shape, list(SHAPES))} "
                        f"Known: auto, {', '.join(SHAPES)}")
    mapped = {ours: _mapped_paths(ours, theirs, heads, where) for ours, theirs in (fields or {}).items()}
    if shape == "auto" and mapped:
        name, found = "fields", {}
    elif shape == "auto":
        name, found = _detect(heads, where)
    else:
        name, found = shape, _find(SHAPES[shape], _columns(heads))
    columns = Columns(name, {**_find(Shape({}, _ALWAYS), _columns(heads)), **found, **mapped}, frozenset(mapped))
    _check_complete(columns, heads, where)
    return columns


def to_example(row: Any, number: int, columns: Columns, *, source: str, licence: str = "", domain: str = "") -> Example:
    """Return the Example of one row, with the row number as id; raise BadRow with the reason when the row is not valid."""
    if not isinstance(row, Mapping):
        raise BadRow("not an object")
    values = {ours: _joined(row, paths, ours, columns) for ours, paths in columns.of.items() if ours in TEXTS}
    meta = {p: row[p] for p in _PROVENANCE if isinstance(row.get(p), str | int) and 0 < len(str(row[p])) <= 200}
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


def _detect(heads: Sequence[Row], where: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    present = _columns(heads)
    for name, shape in SHAPES.items():
        if _lacking(shape, present):
            continue
        found = _find(shape, present)
        dropped = sorted(present & set(_SUBSTANCE) - {p for paths in found.values() for p in paths})
        if name in ("text", "problem") and dropped:
            raise DataError(
                f"{where}: the columns fit the shape {name!r}, but {', '.join(map(repr, dropped))} would be left out. "
                f"Found columns: {_described(heads)}. Say which column is what, for example "
                f"fields: {_suggested_fields(heads)}, or name shape: {name} to leave them out")
        return name, found
    raise DataError(f"{where}: no known shape fits. Found columns: {_described(heads)}. {_near(heads)} Say which column "
                    f"is what, for example fields: {_suggested_fields(heads)} (our fields: {', '.join(FIELDS)})")


def _find(shape: Shape, present: set[str]) -> dict[str, tuple[str, ...]]:
    """Return our field -> the first of its column names that is present."""
    wanted = {**shape.required, **shape.any_of, **shape.optional}
    found = {ours: next((c for c in names if c in present), None) for ours, names in wanted.items()}
    return {ours: (column,) for ours, column in found.items() if column is not None}


def _lacking(shape: Shape, present: set[str]) -> list[str]:
    """Return what a shape misses, in words; empty when it fits."""
    def words(names: Iterable[str]) -> str:
        return " or ".join(map(repr, names))

    lacking = [words(names) for names in shape.required.values() if not present & set(names)]
    choices = [name for names in shape.any_of.values() for name in names]
    return lacking + ([words(choices)] if choices and not present & set(choices) else [])


def _near(heads: Sequence[Row]) -> str:
    """Return, for each shape with at least one of its columns present, what it lacks (all shapes when none is near)."""
    present, nested = _columns(heads), _nested(heads)
    sentences = []
    for name, shape in SHAPES.items():
        names = {c for names in (*shape.required.values(), *shape.any_of.values()) for c in names}
        hints = [f"{c!r} is nested at {nested[c]}" for c in sorted(names - present) if c in nested]
        if names & present or hints:
            sentences.append(f"{name} lacks {', '.join(_lacking(shape, present))}"
                             + (f" ({'; '.join(hints)})" if hints else "") + ".")
    return " ".join(sentences) or "Known shapes: " + "; ".join(
        f"{name} needs {', '.join(_lacking(shape, set()))}" for name, shape in SHAPES.items()) + "."


def _suggested_fields(heads: Sequence[Row]) -> str:
    """Return an example mapping made of the file's own columns where a name says what it is."""
    present = {**_nested(heads), **{c: c for c in _columns(heads)}}
    asked = next((present[c] for c in ("question", "problem", "instruction", "prompt", "query", "text") if c in present), None)
    target = {"code": ("canonical_solution", "solutions", "code"), "answer": ("output", "answer", "solution", "label", "correct")}
    pairs = [("question", asked or "THEIR_COLUMN")]
    pairs += [(ours, path) for ours, names in target.items() if (path := next((present[c] for c in names if c in present), None))]
    tests = next((present[c] for c in ("tests", "test", "test_list") if c in present), None)
    pairs += [("tests", tests)] if tests else []
    pairs += [("answer", "THEIR_COLUMN")] if len(pairs) == 1 else []
    return "{" + ", ".join(f"{ours}: {path}" for ours, path in pairs) + "}"


def _columns(heads: Sequence[Row]) -> set[str]:
    return {name for row in heads for name in row}


def _nested(heads: Sequence[Row]) -> dict[str, str]:
    """Return the names one level down in the first rows -> their dotted path."""
    found: dict[str, str] = {}
    for row in heads:
        for name, value in row.items():
            inner, path = (value[0], f"{name}.0") if isinstance(value, list) and value else (value, name)
            if isinstance(inner, Mapping):
                found |= {k: f"{path}.{k}" for k in inner if k not in found}
    return found


def _described(heads: Sequence[Row]) -> str:
    inside: dict[str, list[str]] = {}
    for name, path in _nested(heads).items():
        inside.setdefault(path.split(".")[0], []).append(name)
    ordered = dict.fromkeys(name for row in heads for name in row)
    return ", ".join(f"{c} (holds {', '.join(inside[c][:6])})" if c in inside else c for c in ordered)


def _mapped_paths(ours: str, theirs: Any, heads: Sequence[Row], where: str) -> tuple[str, ...]:
    """Return the columns a user named for one field, checked against the first rows."""
    if ours not in FIELDS:
        raise DataError(f"{where}: fields.{ours}: leaven has no such field.{did_you_mean(ours, FIELDS)} "
                        f"Known: {', '.join(FIELDS)}")
    whole = isinstance(theirs, str) and any(theirs in row for row in heads)
    paths = (theirs,) if whole else tuple(theirs.split(" + ") if isinstance(theirs, str) else theirs)
    for path in paths:
        if not any(_has(row, path) for row in heads):
            known = [*_columns(heads), *_nested(heads).values()]
            raise DataError(f"{where}: fields.{ours}: no column {path!r} in the first {len(heads)} rows."
                            f"{did_you_mean(path, known)} Found columns: {_described(heads)}")
    if len(paths) > 1 and ours not in TEXTS:
        raise DataError(f"{where}: fields.{ours}: expected one column, found {len(paths)}; only text fields can be joined")
    return paths


def _check_complete(columns: Columns, heads: Sequence[Row], where: str) -> None:
    """Raise DataError unless the mapping fills exactly one of text, turns, or question with something to learn."""
    filled = [k for k in ("text", "turns", "question") if k in columns.of]
    if len(filled) == 1 and (filled != ["question"] or any(k in columns.of for k in LEARNED)):
        return
    shape = SHAPES.get(columns.shape)
    lacking = _lacking(shape, _columns(heads)) if shape else []
    lacks = f"the shape {columns.shape!r} lacks {', '.join(lacking)}. " if lacking else ""
    raise DataError(f"{where}: {lacks}Expected columns for exactly one of: text; turns; question with at least one of "
                    f"{', '.join(LEARNED)}. Found {', '.join(columns.of) or 'none of them'}. "
                    f"Found columns: {_described(heads)}. Map them, for example fields: {_suggested_fields(heads)}")


def _walk(row: Any, path: str) -> tuple[bool, Any]:
    """Return whether a column or dotted path exists in a row, and its value."""
    if isinstance(row, Mapping) and path in row:
        return True, row[path]
    value = row
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return False, None
    return True, value


def _has(row: Any, path: str) -> bool:
    return _walk(row, path)[0]


def _first(row: Row, columns: Columns, ours: str) -> Any:
    found, value = _walk(row, columns.of[ours][0])
    if not found and ours == "turns":
        raise BadRow(f"missing {columns.of[ours][0]}")
    return value


def _joined(row: Row, paths: Sequence[str], ours: str, columns: Columns) -> str:
    """Return the text of a field: its columns joined by newlines; a required column that is absent makes the row bad."""
    texts = []
    for path in paths:
        found, value = _walk(row, path)
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
