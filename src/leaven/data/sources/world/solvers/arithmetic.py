"""Arithmetic questions -> answers, by reading each sentence into exact fractions, recursion or clock time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from fractions import Fraction


def word_problem(question: str) -> str:
    """Update the count sentence by sentence."""
    first, *rest = re.split(r"(?<=\.) ", question.rpartition(" How many ")[0])
    count = Fraction(re.findall(r"\d+", first)[0])
    for text in rest:
        number = Fraction((re.findall(r"\d+", text) or ["0"])[0])
        if "doubles" in text:
            count *= 2
        elif "triples" in text:
            count *= 3
        elif " half of them" in text:
            count /= 2
        elif "keeps only a third" in text:
            count /= 3
        elif number and " more" in text:
            count += number
        elif number and "of them" in text:
            count -= number
        else:
            raise ValueError(f"cannot read {text!r}")
    return str(count)


SCALE = {"half": Fraction(1, 2), "one third": Fraction(1, 3), "twice": Fraction(2), "three times": Fraction(3)}


def comparison(question: str) -> str:
    """Ask for the last person's count, and for whoever it is stated in terms of, recursively."""
    def count(name: str) -> Fraction:
        text = re.findall(rf"\b{name} has ([^.]*)\.", question)[0]
        if more := re.fullmatch(r"(\d+) (more|fewer) \w+ than (\w+)", text):
            return count(more[3]) + (1 if more[2] == "more" else -1) * int(more[1])
        if times := re.fullmatch(r"(\D+) as many \w+ as (\w+)", text):
            return count(times[2]) * SCALE[times[1]]
        return Fraction(text.split()[0])

    return str(count(re.findall(r"How many \w+ does (\w+) have", question)[0]))


def variables(question: str) -> str:
    """Evaluate the asked variable recursively from its definition."""
    defined = {name: terms.split() for name, terms in re.findall(r"(\w) = ([^,]*),", question)}

    def value(term: str) -> int:
        if term not in defined:
            return int(term)
        left, *more = defined[term]
        result = value(left)
        if more:
            operator, right = more
            result = {"+": result.__add__, "-": result.__sub__, "*": result.__mul__}[operator](value(right))
        return result

    return str(value(re.findall(r"what is (\w)\?", question)[0]))


def clock(question: str) -> str:
    """Add the durations to a date and read its clock."""
    now = datetime.strptime(re.findall(r"\d\d:\d\d", question)[0], "%H:%M")
    for number, unit in re.findall(r"(\d+) (hour|minute)s?\b", question):
        now += timedelta(**{f"{unit}s": int(number)})
    return now.strftime("%H:%M")


def shopping(question: str) -> str:
    """Sum count times price over the list."""
    return str(sum(int(n) * int(price) for n, price in re.findall(r"(\d+) \w+ for (\d+) dollars", question)))


def remainders(question: str) -> str:
    """Compute with whole numbers all the way and take the remainder once at the end."""
    value = int(re.findall(r"Begin with (\d+)\.", question)[0])
    for verb, number in re.findall(r"(add|multiply by) (\d+)", question):
        value = value + int(number) if verb == "add" else value * int(number)
    return str(value % int(re.findall(r"division by (\d+)", question)[0]))
