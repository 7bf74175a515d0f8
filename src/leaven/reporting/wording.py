"""Numbers, intervals and names -> the short texts a reader sees, in one form everywhere (a true minus sign, three
decimals).

Not covered: sentences about results (analysis/ writes those by the declared rule).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_PAIR = re.compile(r"(?<=\d) (?=%|(?:points?|seeds?|items?|clusters?|contrasts?)\b)")

MISSING = "\u2013"
"""Shown where there is no number; tables explain it as "not measured"."""


def number(value: float | None, *, sign: bool = False, percent: bool = False) -> str:
    """Return `value` with three decimals below 100 and none above 1000; as a percentage with one; an en dash for
    null or NaN.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    value = 100 * value if percent else value
    size = abs(value)
    digits = 1 if percent else 3 if size < 100 else 1 if size < 1000 else 0
    text = f"{size:,.{digits}f}"
    zero = not text.strip("0.,")
    return ("\u2212" if value < 0 and not zero else "+" if sign and not zero else "") + text


def amount(value: float | None) -> str:
    """Return a count: whole numbers without decimals, thousands apart."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if float(value).is_integer() else number(value)


def interval(low: float | None, high: float | None, *, sign: bool = False, percent: bool = False) -> str:
    """Return "[low, high]", or an en dash when either end is missing."""
    if low is None or high is None:
        return MISSING
    return f"[{number(low, sign=sign, percent=percent)}, {number(high, sign=sign, percent=percent)}]"


def p_value(p: float | None) -> str:
    """Return a p value with three decimals, "< 0.001" below that."""
    if p is None or not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def unbroken(text: str) -> str:
    """Return `text` with no-break spaces between a number and its unit, so that lines keep them whole."""
    return _PAIR.sub("\u00a0", text)


def seeds_text(seeds: Iterable[int]) -> str:
    """Return seeds as ranges: (0, 1, 2, 5) -> "0-2, 5" with an en dash."""
    spans: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}\u2013{b}" for a, b in spans) or MISSING


def seeds_counted(seeds: Iterable[int]) -> str:
    """Return how many seeds and which: "4 (0-3)" with an en dash."""
    chosen = set(seeds)
    return f"{len(chosen)} ({seeds_text(chosen)})" if chosen else MISSING


def plural(n: int, noun: str, many: str = "") -> str:
    """Return "1 seed", "4 seeds"."""
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def level_text(level: str) -> str:
    """Return the canonical JSON of a vary cell as "learning_rate = 0.001, size = small"; "" for the empty cell."""
    if not level or level == "{}":
        return ""
    try:
        cell = json.loads(level)
    except json.JSONDecodeError:
        return level
    if not isinstance(cell, dict):
        return level
    return ", ".join(f"{path.rsplit('.', 1)[-1]} = {value_text(value)}" for path, value in sorted(cell.items()))


def value_text(value: object) -> str:
    """Return a study value the way a study file would write it; an en dash for null."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return str(value)


def text_width(text: str, size: float = 13, *, bold: bool = False) -> float:
    """Return a generous estimate of the width of `text` in px at font size `size`, for the wider of the usual system
    fonts.
    """
    return size * (1.1 if bold else 1.0) * sum(_ems(c) for c in text if not unicodedata.combining(c))


def _ems(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in "mwMW@%":
        return 0.9
    return 0.36 if character in "iljtf.,:;|![]() '" else 0.68 if character.isupper() else 0.61


def shorten(text: str, width: float, size: float = 13, *, bold: bool = False) -> str:
    """Return `text`, cut in its middle with an ellipsis so that it fits `width` px (ends of long names tell
    them apart); both sides of "a vs b" are cut alike."""
    if text_width(text, size, bold=bold) <= width:
        return text
    sides = text.split(" vs ")
    if len(sides) == 2 and width > 8 * size:
        room = width - text_width(" vs ", size, bold=bold)
        needed = [text_width(side, size, bold=bold) for side in sides]
        rooms = [max(room / 2, room - needed[1]), max(room / 2, room - needed[0])]
        return " vs ".join(shorten(side, r, size, bold=bold) for side, r in zip(sides, rooms, strict=True))
    for keep in range(len(text) - 1, 1, -1):
        head = (keep + 1) // 2
        cut = text[:head].rstrip() + "\u2026" + text[len(text) - (keep - head) :].lstrip()
        if text_width(cut, size, bold=bold) <= width:
            return cut
    return "\u2026"


def printable(text: str) -> str:
    """Return `text` with control characters and lone surrogates replaced by U+FFFD; newlines and tabs stay."""
    return _UNPRINTABLE.sub("\ufffd", text)


def clip(text: str, limit: int) -> tuple[str, int]:
    """Return the first `limit` characters of `text` and how many were left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)
