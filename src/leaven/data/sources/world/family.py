"""What a task family is: a named generator of problems whose difficulty is a structural number such as hops.

A problem is everything about one question before it becomes an Example; build.py adds split, id and licence.
Not covered: the generators themselves (families/), solving (solvers/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

Domain = Literal["symbolic", "logical", "arithmetic", "program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem: `code` passes `tests` (lines of Python that call `entry_point`); `thought` ends with the answer,
    or with the last state from which it is read off.

    `group` is the structure that several problems share (a net permutation, a sequence of operations), "" when none.
    """

    question: str
    thought: str
    code: str
    answer: str
    tests: tuple[str, ...]
    entry_point: str
    group: str = ""


def no_enumeration(difficulty: int) -> Iterator[Problem] | None:
    """Say that the problems of a difficulty are too many to list."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A named generator.

    `answers` says where an answer comes from: "open" ones are computed and never stand in the question as a word of
    their own; "choice" ones are picked from words that the question names (or yes and no). `enumerate` lists all
    problems of a difficulty when they are few enough, else returns None. `detail` turns one step of a thought into a
    true line that long thoughts put before it (thoughts.py); without it they repeat the steps.
    """

    name: str
    domain: Domain
    difficulty_unit: str
    generate: Callable[[Random, int], Problem]
    difficulties: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    answers: Literal["open", "choice"] = "open"
    enumerate: Callable[[int], Iterator[Problem] | None] = no_enumeration
    detail: Callable[[str], str] | None = None


def computed(question: str, steps: list[str], code: list[str], answer: str | int, group: str = "") -> Problem:
    """Return a problem whose program `solve()` computes the answer.

    Args:
        question: the whole question.
        steps: one line of thought per step; "The answer is ..." is added.
        code: the lines of the body of `solve`, unindented; its return value equals `answer`.
        answer: text, or a number for programs that return one.
        group: see Problem.
    """
    return Problem(
        question=question,
        thought="\n".join([*steps, f"The answer is {answer}."]),
        code="\n".join(["def solve():", *(f"    {line}" for line in code)]),
        answer=str(answer),
        tests=(f"assert solve() == {answer!r}",),
        entry_point="solve",
        group=group,
    )
