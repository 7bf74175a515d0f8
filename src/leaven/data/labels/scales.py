"""What a data set calls difficult -> a whole number on a named scale, and from 0 (easiest) to 1 (hardest).

The scales are those of the data that Kou et al. 2025 attribute (papers: MATH levels 1-5; in Bespoke-Stratos, AoPS 1-10
by a language model, APPS and TACO words) and LeetCode's. A value that says "not known" in its data set, and one that
is not on the scale, give no difficulty and a reason; nothing is guessed. Relative difficulty is (d - lowest) /
(highest - lowest), so that scales of different length can stand on one axis; equal numbers on two scales do not mean
equally hard problems.
Not covered: where values come from (attach.py), difficulty from a model's successes (passrate.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FAILED = -1.0
"""What `parse_grade` returns for a reply without a grade (SkyThought's label_math_difficulty.py does the same)."""

_GRADE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_NUMBER = re.compile(r"(?:level|difficulty|grade)?\s*:?\s*(-?\d+(?:\.\d+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scale:
    """A difficulty scale: its whole numbers, the words for them, and the columns it usually stands in.

    `unknown` are values by which the data set itself says that it does not know.
    """

    name: str
    lowest: int
    highest: int
    columns: tuple[str, ...]
    words: Mapping[str, int] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    def read(self, value: Any) -> tuple[float | None, str]:
        """Return (difficulty, "") of one cell, or (None, why it has none)."""
        text = "" if value is None else str(value).strip()
        word = re.sub(r"[\s_-]+", "_", text).lower()
        if not text or word in self.unknown:
            return None, "the data set does not know"
        if word in self.words:
            return float(self.words[word]), ""
        number = _NUMBER.fullmatch(text)
        if number is None or (self.words and not word.isdigit()):
            return None, f"not on the scale {self.name}: {text[:40]}"
        return self.check(float(number[1]))

    def check(self, number: float) -> tuple[float | None, str]:
        """Return (number, "") when it lies on the scale, else (None, why not)."""
        if number == FAILED:
            return None, "no grade in the reply"
        if not math.isfinite(number) or not self.lowest <= number <= self.highest:
            return None, f"not on the scale {self.name}: {number:g}"
        return number, ""

    def relative(self, difficulty: float) -> float:
        """Return where a difficulty lies between the easiest (0) and the hardest (1) of the scale."""
        return (difficulty - self.lowest) / (self.highest - self.lowest)

    def described(self) -> str:
        """Return the scale in words."""
        words = ", ".join(f"{w} = {n}" for w, n in self.words.items())
        return f"{self.lowest} to {self.highest}" + (f" ({words})" if words else "")


def _ranked(*words: str) -> dict[str, int]:
    return {word: number for number, word in enumerate(words, 1)}


SCALES: dict[str, Scale] = {
    s.name: s
    for s in (
        Scale("math", 1, 5, ("level", "difficulty"), unknown=frozenset({"level_?", "?"})),
        Scale("aops", 1, 10, ("difficulty", "gpt_difficulty", "gpt_difficulty_parsed"), unknown=frozenset({"-1", "_1"})),
        Scale("apps", 1, 3, ("difficulty",), _ranked("introductory", "interview", "competition")),
        Scale("taco", 1, 5, ("difficulty",), _ranked("easy", "medium", "medium_hard", "hard", "very_hard"),
              frozenset({"unknown_difficulty", "unknown"})),
        Scale("leetcode", 1, 3, ("difficulty", "meta.difficulty"), _ranked("easy", "medium", "hard")),
    )
}  # fmt: skip
"""MATH (Hendrycks et al. 2021), Art of Problem Solving, APPS (Hendrycks et al. 2021), TACO (Li et al. 2023), LeetCode."""


def parse_grade(reply: str) -> float:
    """Return the last number in double brackets of a teacher's reply, FAILED (-1) when there is none.

    The pattern is SkyThought's; the last one counts, because replies may quote the instruction before they grade.
    """
    found = _GRADE.findall(reply)
    return float(found[-1]) if found else FAILED


def rounded(difficulty: float) -> int:
    """Return the whole number nearest to a difficulty, halves upwards (graders answer 4.5)."""
    return math.floor(difficulty + 0.5)
