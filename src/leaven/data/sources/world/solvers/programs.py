"""Descriptions of functions -> what they return for the example, by interpreting the description's words directly."""

from __future__ import annotations

import ast
import re
from itertools import accumulate


def _parts(question: str) -> tuple[list[str], object]:
    """Return the described operations and the example argument."""
    steps = re.findall(r"in this order: (.*)\. It returns the result\.", question)[0].split("; ")
    return steps, ast.literal_eval(re.findall(r"What does f\((.*)\) return\?", question)[0])


def _constant(text: str) -> int:
    return int(re.findall(r"-?\d+", text)[0])


def _number_step(text: str, values: list[int]) -> list[int]:
    """Do one described operation."""
    if text.startswith("keep only"):
        if "even" in text or "odd" in text:
            return [n for n in values if (n % 2 != 0) == ("odd" in text)]
        return [n for n in values if n > _constant(text)]
    if text.startswith("sort"):
        return sorted(values, key=lambda n: n if "increasing" in text else -n)
    if text.startswith(("add", "subtract")):
        change = _constant(text) * (1 if text.startswith("add") else -1)
        return [n + change for n in values]
    if text.startswith("remove repeated"):
        return [n for n in sorted(set(values), key=values.index)]
    if text.startswith("drop"):
        return values[1:] if "first" in text else values[: len(values) - 1]
    if "sum of all numbers up to" in text:
        return list(accumulate(values))
    return {
        "double every number": [n * 2 for n in values],
        "replace every number by its absolute value": [max(n, -n) for n in values],
        "change the sign of every number": [n * -1 for n in values],
        "reverse the list": [values[-1 - i] for i in range(len(values))],
    }[text]


def number_pipeline(question: str) -> str:
    """Run the described operations on the example list."""
    steps, values = _parts(question)
    assert isinstance(values, list)
    for text in steps:
        values = _number_step(text, values)
    return repr(values)


def _text_step(text: str, value: str) -> str:
    """Do one described operation."""
    if swap := re.fullmatch(r'replace every "(.)" by "(.)"', text):
        return "".join(swap[2] if c == swap[1] else c for c in value)
    if text.startswith("keep only the first"):
        return value[: _constant(text)]
    if text.startswith("keep only the last"):
        return value[::-1][: _constant(text)][::-1]
    match text:
        case "reverse the text":
            return value[::-1]
        case "change all letters to upper case":
            return value.upper()
        case "remove all lower-case vowels":
            return re.sub("[aeiou]", "", value)
        case "write every character twice":
            return re.sub("(.)", r"\1\1", value)
        case "remove the first character":
            return value[1:]
        case "move the first character to the end":
            return value[1:] + value[0]
        case "replace every space by a hyphen":
            return value.replace(" ", "-")
        case "put the words in reverse order":
            return " ".join(value.split(" ")[::-1])
        case "append an exclamation mark":
            return value + "!"
    raise ValueError(f"cannot read {text!r}")


def text_pipeline(question: str) -> str:
    """Run the described operations on the example text."""
    steps, value = _parts(question)
    assert isinstance(value, str)
    for text in steps:
        value = _text_step(text, value)
    return repr(value)


def _holds(condition: str, n: int) -> bool:
    """Say whether an integer is even, odd, negative, divisible by, greater than or less than something."""
    match condition.split():
        case ["even"]:
            return n % 2 == 0
        case ["odd"]:
            return n % 2 != 0
        case ["negative"]:
            return n < 0
        case ["divisible", "by", divisor]:
            return n % int(divisor) == 0
        case ["greater", "than", limit]:
            return n > int(limit)
        case ["less", "than", limit]:
            return n < int(limit)
    raise ValueError(f"cannot read {condition!r}")


def accumulator(question: str) -> str:
    """Go through the numbers one by one and apply each rule in turn."""
    total = int(re.findall(r"a total that starts at (\d+)", question)[0])
    rules = re.findall(r"if it is ([^,]*), (add|subtract) (the number|\d+) (?:to|from) the total", question)
    numbers = ast.literal_eval(re.findall(r"What does f\((.*)\) return\?", question)[0])
    for n in numbers:
        for condition, verb, what in rules:
            if _holds(condition, n):
                amount = n if what == "the number" else int(what)
                total += amount if verb == "add" else -amount
    return str(total)


def branching(question: str) -> str:
    """Return the word of the first rule whose condition holds."""
    n = int(re.findall(r"does f\((-?\d+)\) return\?", question)[0])
    for word, condition in re.findall(r'"(\w+)" if n is ([^;]*);', question):
        if _holds(condition, n):
            return str(word)
    return str(re.findall(r'"(\w+)" otherwise', question)[0])
