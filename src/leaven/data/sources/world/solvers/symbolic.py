"""Symbolic questions -> answers, by reading the words and doing what they say to them."""

from __future__ import annotations

import re


def _listed(question: str) -> list[str]:
    return question.rstrip(".").split(": ")[-1].split(", ")


def first_letters(question: str) -> str:
    """Join the first letters of the listed words."""
    return "".join(re.findall(r"\b\w", ", ".join(_listed(question))))


def last_letters(question: str) -> str:
    """Join the last letters of the listed words."""
    return "".join(re.findall(r"\w\b", ", ".join(_listed(question))))


def reverse_words(question: str) -> str:
    """List the words from last to first."""
    words = _listed(question)
    return ", ".join(words.pop() for _ in range(len(words)))


def coin_flip(question: str) -> str:
    """Count the flips: an even number leaves the coin as it was."""
    turned = question.count(" flips the coin.") % 2 == 1
    starts_up = question.startswith("A coin shows heads.")
    return "yes" if starts_up != turned else "no"


def tracking_swaps(question: str) -> str:
    """Trace the asked person's ball back through the swaps to its first holder."""
    start, _, rest = question.partition(". ")
    color_of = dict(re.findall(r"(\w+) holds the (\w+) ball", start))
    holder = re.findall(r"that (\w+) holds at the end", rest)[0]
    for one, two in reversed(re.findall(r"(\w+) and (\w+) swap balls", rest)):
        holder = {one: two, two: one}.get(holder, holder)
    return color_of[holder]


def letter_edits(question: str) -> str:
    """Edit the list of the word's letters in place."""
    letters = list(re.findall(r'"(\w+)"', question)[0])
    for edit in re.findall(r"In this order: (.*)\. What", question)[0].split("; "):
        match edit.split():
            case ["reverse", *_]:
                letters.reverse()
            case ["remove", _, "first", *_]:
                letters.pop(0)
            case ["remove", _, "last", *_]:
                letters.pop()
            case ["move", _, "first", *_]:
                letters.append(letters.pop(0))
            case ["move", _, "last", *_]:
                letters.insert(0, letters.pop())
            case ["double", _, "last", *_]:
                letters.append(letters[-1])
            case ["swap", *_]:
                letters[0], letters[-1] = letters[-1], letters[0]
            case _:
                raise ValueError(f"no edit reads {edit!r}")
    return "".join(letters)
