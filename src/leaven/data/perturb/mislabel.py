"""Questions and responses that do not belong together: planted harm and planted noise, whose right influence is known.

`swap_phrases` exchanges phrases where they stand, so that every such example teaches the same wrong meaning ("loses 3 of
them" followed by an addition): it must hurt. `exchange` gives every question the response of another problem of
equal family and difficulty: what a response looks like stays right, what it says of the question is noise. Both keep
the words and lengths that a source has. Papers that attribute results have no such truth to be judged by
(Kou et al. 2025); planted examples are one. Not covered: responses that are wrong by themselves (broken.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from leaven.core.rng import rng
from leaven.core.types import Example
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip
from leaven.errors import StudyError

ARROW = "<->"
PARTS = ("question", "thought", "code", "answer")


@PERTURBATIONS("swap_phrases")
class SwapPhrases:
    """Exchange phrases in the question and what else is asked for.

    Options:
        pairs: "buys {} more <-> loses {} of them"; {} stands for one word that stays.
        parts: where: question, thought, code (comments, say), answer. A part that repeats the question's words and keeps them
            would teach their right meaning all the same.
    """

    options: Mapping[str, Option] = {"pairs": Option(("a <-> b",)), "parts": Option(("question",), PARTS)}
    rate_of = "examples"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "anything" if "code" in options["parts"] else "unexecuted"

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        instead = _instead(tuple(options["pairs"]))
        pattern = re.compile("|".join(f"(?P<p{n}>{_pattern(phrase)})" for n, phrase in enumerate(instead)))
        phrases = list(instead.items())
        edits = 0

        def swapped(match: re.Match[str]) -> str:
            nonlocal edits
            edits += 1
            phrase, other = phrases[int(str(match.lastgroup)[1:])]
            found = re.fullmatch(_pattern(phrase, r"(\S+)"), match[0])
            assert found is not None
            words = iter(found.groups())
            return re.sub(r"\{\}", lambda _: next(words), other)

        changed = {part: pattern.sub(swapped, getattr(example, part)) for part in options["parts"]}
        if not edits:
            raise Skip("none of the phrases")
        return Change(replace(example, **changed), edits, edits)


def _pattern(phrase: str, word: str = r"\S+") -> str:
    """Return the regular expression of a phrase: {} is one word."""
    inner = word.join(re.escape(part) for part in phrase.split("{}"))
    return rf"\b{inner}" if phrase[:1].isalnum() else inner


def _instead(pairs: Sequence[str]) -> dict[str, str]:
    """Return every phrase -> what stands in its place."""
    found: dict[str, str] = {}
    for pair in pairs:
        sides = [side.strip() for side in pair.split(ARROW)]
        if len(sides) != 2 or not all(sides) or len({side.count("{}") for side in sides}) != 1 or sides[0] == sides[1]:
            raise StudyError(
                f"swap_phrases.pairs: expected two different phrases with equally many {{}} as in 'buys {{}} more {ARROW} loses {{}} of "
                f"them', found {pair!r}"
            )
        for phrase, other in (sides, sides[::-1]):
            if phrase in found:
                raise StudyError(f"swap_phrases.pairs: expected every phrase once, found {phrase!r} twice")
            found[phrase] = other
    return found


@PERTURBATIONS("exchange")
class Exchange:
    """Give every question the thought, code and answer of another problem of its source, family and difficulty."""

    options: Mapping[str, Option] = {}
    rate_of = "examples"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "anything"

    def apply_all(self, examples: Sequence[Example], seed: int, options: Mapping[str, Any]) -> list[Change | Skip]:
        strata: dict[tuple[str, str, int | None], list[int]] = defaultdict(list)
        for place, example in enumerate(examples):
            if example.question and not example.turns:
                strata[example.source, example.family, example.difficulty].append(place)
        changes: list[Change | Skip] = [Skip("no question")] * len(examples)
        for (source, family, difficulty), places in strata.items():
            places.sort(key=lambda p: examples[p].id)  # the draw does not depend on the order of the file
            order = rng(seed, "perturb", "exchange", source, family, str(difficulty)).permutation(len(places)).tolist()
            for at, donor in zip(order, order[1:] + order[:1], strict=True):  # one cycle: nobody keeps their own
                changes[places[at]] = _given(examples[places[at]], examples[places[donor]])
        return changes


def _given(example: Example, donor: Example) -> Change | Skip:
    response = {"thought": donor.thought, "code": donor.code, "answer": donor.answer}
    if all(getattr(example, name) == text for name, text in response.items()):
        return Skip("no other response of its difficulty")
    return Change(replace(example, **response), 1, 1)
