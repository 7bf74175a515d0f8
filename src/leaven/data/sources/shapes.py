"""The first rows of a file -> its shape: which column is what, detected, named or mapped.

A shape says which columns hold question, answer, turns or text; `fields` (our field -> their column) overrides it or
stands alone. A column may be a dotted path ("instances.0.output"), and several may be joined ("Body + Question").
Detection refuses rather than guesses: raw text or problems beside further columns of substance must be mapped or named.
Not covered: turning rows into examples (convert.py), chat templates (formats.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leaven.errors import DataError, did_you_mean

Row = Mapping[str, Any]
TEXTS = ("question", "input", "thought", "code", "answer", "text", "system", "entry_point", "domain", "family", "group",
         "difficulty_unit", "licence")
FIELDS = (*TEXTS, "turns", "tests", "difficulty")
LEARNED = ("thought", "code", "answer", "tests")
PROVENANCE = ("id", "task_id", "path", "_src", "source", "url")
_SUBSTANCE = ("answer", "output", "response", "completion", "target", "solution", "solutions", "canonical_solution",
              "code", "tests", "test", "test_list", "label", "summary", "context", "passage", "premises", "options",
              "choices", "rationale")


@dataclass(frozen=True, slots=True)
class Shape:
    """Our field -> the column names it may have; every field of `required` must be found, of `any_of` at least one."""

    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    any_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SHAPES: dict[str, Shape] = {
    "messages": Shape({"turns": ("messages",)}, {"system": ("system",)}),
    "sharegpt": Shape({"turns": ("conversations", "conversation")}, {"system": ("system",)}),
    "alpaca": Shape({"question": ("instruction",), "answer": ("output",)},
                    {"input": ("input",), "system": ("system",)}),
    "instruction_response": Shape({"question": ("instruction",), "answer": ("response",)},
                                  {"input": ("input",), "system": ("system",)}),
    "prompt_completion": Shape({"question": ("prompt",), "answer": ("completion",)}),
    "input_target": Shape({"question": ("input",), "answer": ("target",)}),
    "problem": Shape({"question": ("question", "problem")}, {"tests": ("tests",), "entry_point": ("entry_point",)},
                     any_of={"thought": ("thought",), "code": ("code",), "answer": ("answer",)}),
    "text": Shape({"text": ("text", "content", "document")}),
}
_SUGGESTED = {
    "question": ("question", "problem", "instruction", "prompt", "query", "text"),
    "code": ("canonical_solution", "solutions", "code"),
    "answer": ("output", "answer", "solution", "label", "correct"),
    "tests": ("functional", "tests", "test", "test_list"),
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
        paths = {path for paths in self.of.values() for path in paths}
        return sorted(_columns(heads) - paths - {p.split(".")[0] for p in paths} - set(PROVENANCE))


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
    raise DataError(f"{where}: no known shape fits. Found columns: {_described(heads)}. {_near(heads)} "
                    f"Say which column is what, for example fields: {_suggested_fields(heads)} "
                    f"(our fields: {', '.join(FIELDS)})")


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
    pairs = [(ours, path) for ours, names in _SUGGESTED.items()
             if (path := next((present[c] for c in names if c in present), None)) is not None]
    pairs = pairs if pairs and pairs[0][0] == "question" else [("question", "THEIR_COLUMN"), *pairs]
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
        if not any(walk(row, path)[0] for row in heads):
            known = [*_columns(heads), *_nested(heads).values()]
            raise DataError(f"{where}: fields.{ours}: no column {path!r} in the first {len(heads)} rows."
                            f"{did_you_mean(path, known)} Found columns: {_described(heads)}")
    if len(paths) > 1 and ours not in TEXTS:
        raise DataError(f"{where}: fields.{ours}: expected one column, found {len(paths)}; only text joins")
    return paths


def walk(row: Any, path: str) -> tuple[bool, Any]:
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
