"""One validation error of pydantic -> the path as the study file writes it, and a sentence: expected, found, to do.

Plain functions over the spec types; pydantic itself is imported by load.py alone. Not covered: the line (lines.py).
"""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

from leaven.errors import did_you_mean

KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "dataclass_type": "a mapping",
    "dataclass_exact_type": "a mapping",
}


def location_of(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    """Drop the union-branch labels that pydantic adds to a location."""
    steps: list[str] = []
    current: Any = kind
    for part in loc:
        following = _child(current, part)
        if (
            following is None
            and isinstance(part, str)
            and (part in {"str", "int", "float", "none"} or "[" in part or part[:1].isupper())
        ):
            continue
        steps.append(str(part))
        current = following
    return steps


def _child(kind: Any, part: Any) -> Any:
    """Return the type of field, key or index `part` of a spec type, or None when it has none."""
    for option in _options(kind):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if dataclasses.is_dataclass(option):
            hints = typing.get_type_hints(option)
            names = {f.name for f in dataclasses.fields(option)}
            if part in names:
                return hints[part]
        elif origin is dict and isinstance(part, str):
            return args[1]
        elif origin in (list, tuple) and isinstance(part, int):
            return args[0]
    return None


def _options(kind: Any) -> list[Any]:
    """Return the members of a union, or the type itself."""
    args = typing.get_args(kind)
    return (
        [a for a in args if a is not type(None)]
        if typing.get_origin(kind) in (typing.Union, type(int | str))
        else [kind]
    )


def _known_keys(kind: Any, location: list[str]) -> list[str]:
    """Return the field names allowed beside the last element of a location."""
    current: Any = kind
    for part in location[:-1]:
        current = _child(current, int(part) if part.isdigit() else part)
        if current is None:
            return []
    return [f.name for o in _options(current) if dataclasses.is_dataclass(o) for f in dataclasses.fields(o)]


def shown(value: Any) -> str:
    """Return a short text of a value found in a study file."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def explained(kind: Any, item: Any, location: list[str]) -> str:
    """Say what was expected and found for one pydantic error."""
    name = item["type"]
    if name in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_keys(kind, location)
        return f"unknown key {location[-1]!r}.{did_you_mean(location[-1], known)} Known keys: {', '.join(known)}"
    if name in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"required key {location[-1]!r} is missing; add it"
    if name == "literal_error":
        allowed = item["ctx"]["expected"]
        options = [t.strip().strip("'") for t in allowed.replace(" or ", ", ").split(",")]
        return f"expected one of {allowed}, found {shown(item['input'])}.{did_you_mean(str(item['input']), options)}"
    if name in KINDS and item["input"] is None:
        keys = (
            "remove the line, or indent names below it"
            if name == "dict_type"
            else "remove the line, or give it keys ({} for none)"
        )
        advice = keys if "mapping" in KINDS[name] else "remove the line, or give it a value"
        return f"expected {KINDS[name]}, found nothing; {advice}"
    if name in KINDS:
        return f"expected {KINDS[name]}, found {shown(item['input'])}"
    return f"{item['msg']}, found {shown(item['input'])}"
