"""Texts of answers -> whether they say the same, for telling where in a thought the right answer is first reached.

Numbers are compared exactly as fractions (0.25 = 1/4 = \\frac{1}{4} = 25 %... is not: a per cent sign is dropped, as
graders of GSM8K and MATH do); everything else as text after LaTeX spellings without meaning are taken out. Lenient on
purpose: a wrong "same" moves a cut in a thought, it never scores a model.
Not covered: symbolic equality (x + 1 and 1 + x differ here); judging models (evals/judge.py).
"""

from __future__ import annotations

import re
from fractions import Fraction

from leaven.core.types import Example

_BOXED = re.compile(r"\\boxed\s*\{|\\fbox\s*\{")
_DROPPED = re.compile(r"\\left|\\right|\\!|\\,|\\;|\\ |\\\$|\$|\\%|%|\\displaystyle|\^\\circ|\^\{\\circ\}|°|\s+")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac(\d)(\d)")
_LONGEST = 200
_NAMES = "zero one two three four five six seven eight nine ten eleven twelve".split()
_SYNONYMS = {name: str(number) for number, name in enumerate(_NAMES)} | {"infinity": r"\infty", "∞": r"\infty"}


def boxed(text: str) -> list[str]:
    """Return the contents of every \\boxed{...}, in order; braces inside must match."""
    found = []
    for match in _BOXED.finditer(text):
        depth = 1
        for place in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                found.append(text[match.end() : place])
                break
    return found


def normalised(answer: str) -> str:
    """Return an answer without the spellings that carry no meaning: spaces, dollar signs, \\text, \\left, units of angle."""
    text = _WRAPPED.sub(r"\1", answer.strip())
    text = _DROPPED.sub("", text).strip(".,;:")
    text = _SHORT_FRACTION.sub(r"\1/\2", text)
    while (shorter := _FRACTION.sub(lambda m: _over(m[1], m[2]), text)) != text:
        text = shorter
    text = text.lower()
    return _SYNONYMS.get(text, text)


def _over(above: str, below: str) -> str:
    def part(text: str) -> str:
        return text if re.fullmatch(r"\w+", text) else f"({text})"

    return f"{part(above)}/{part(below)}"


def number_of(answer: str) -> Fraction | None:
    """Return the exact number that an answer is, None when it is no plain number or fraction."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", normalised(answer)).lstrip("+")
    match = re.fullmatch(r"\(?(-?\d*\.?\d+)\)?(?:/\(?(-?\d*\.?\d+)\)?)?", text)
    if match is None:
        return None
    try:
        return Fraction(match[1]) / Fraction(match[2] or 1)
    except ZeroDivisionError:
        return None


def same_answer(found: str, gold: str) -> bool:
    """Return whether two answers say the same; an empty one says nothing."""
    one, other = number_of(found), number_of(gold)
    if one is not None or other is not None:
        return one == other
    text = normalised(found)
    return bool(text) and text == normalised(gold)


def gold_of(example: Example) -> str:
    """Return the final answer of an example: what stands after `####`, in the last box, or a short answer itself; "" if none."""
    text = example.answer or next((t.content for t in reversed(example.turns) if t.role == "assistant"), "")
    if "####" in text:
        return text.rsplit("####", 1)[1].strip().split("\n")[0]
    if inside := boxed(text):
        return inside[-1]
    return text.strip() if "\n" not in text.strip() and len(text) <= _LONGEST and not example.turns else ""
