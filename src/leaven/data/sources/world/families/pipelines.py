"""Pipelines: "write f(...) that does k things to a list or text; what does f(this) return?" -> a commented function.

The program is the answer that tests judge; the value it returns for the example in the question is the answer text, so
that the same problem serves text-only formats. Expected values come from plain functions here, never from the program.
Difficulty counts steps; each one changes the example. Not covered: loops and branches (programs.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from leaven.data.sources.world.family import Family, Problem
from leaven.data.sources.world.words import WORDS, sentence

N_TESTS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a pipeline: its words, its line of code over `values` or `text`, and what it does."""

    words: str
    code: str
    apply: Callable[[Any], Any]


def _number_steps(random: Random) -> list[Step]:
    """Return the operations on a list of integers, with their constants drawn."""
    k, limit = random.randint(2, 9), random.randint(-5, 10)
    return [
        Step("keep only the even numbers", "[n for n in values if n % 2 == 0]", lambda v: [n for n in v if not n & 1]),
        Step("keep only the odd numbers", "[n for n in values if n % 2 == 1]", lambda v: [n for n in v if n & 1]),
        Step(f"keep only the numbers greater than {limit}", f"[n for n in values if n > {limit}]",
             lambda v: list(filter(lambda n: n > limit, v))),
        Step("double every number", "[2 * n for n in values]", lambda v: [n + n for n in v]),
        Step(f"add {k} to every number", f"[n + {k} for n in values]", lambda v: [k + n for n in v]),
        Step(f"subtract {k} from every number", f"[n - {k} for n in values]", lambda v: [-k + n for n in v]),
        Step("replace every number by its absolute value", "[abs(n) for n in values]",
             lambda v: [-n if n < 0 else n for n in v]),
        Step("change the sign of every number", "[-n for n in values]", lambda v: [0 - n for n in v]),
        Step("sort the numbers in increasing order", "sorted(values)", lambda v: sorted(v, reverse=True)[::-1]),
        Step("sort the numbers in decreasing order", "sorted(values, reverse=True)", lambda v: sorted(v)[::-1]),
        Step("reverse the list", "values[::-1]", lambda v: list(reversed(v))),
        Step("drop the first number", "values[1:]", lambda v: [n for i, n in enumerate(v) if i > 0]),
        Step("drop the last number", "values[:-1]", lambda v: v[: max(len(v) - 1, 0)]),
        Step("replace every number by the sum of all numbers up to and including it",
             "[sum(values[:i + 1]) for i in range(len(values))]", _running_sums),
        Step("remove repeated numbers, keeping the first of each", "list(dict.fromkeys(values))", _first_of_each),
    ]


def _running_sums(values: list[int]) -> list[int]:
    total, sums = 0, []
    for n in values:
        total += n
        sums.append(total)
    return sums


def _first_of_each(values: list[int]) -> list[int]:
    return [n for i, n in enumerate(values) if n not in values[:i]]


def _text_steps(random: Random) -> list[Step]:
    """Return the operations on a text, with their constants drawn."""
    k, old, new = random.randint(3, 6), random.choice("aeiou"), random.choice("xyz")
    return [
        Step("reverse the text", "text[::-1]", lambda t: "".join(reversed(t))),
        Step("change all letters to upper case", "text.upper()", lambda t: "".join(c.upper() for c in t)),
        Step(f'replace every "{old}" by "{new}"', f'text.replace("{old}", "{new}")', lambda t: new.join(t.split(old))),
        Step(f"keep only the first {k} characters", f"text[:{k}]",
             lambda t: "".join(c for i, c in enumerate(t) if i < k)),
        Step(f"keep only the last {k} characters", f"text[-{k}:]", lambda t: t[max(len(t) - k, 0) :]),
        Step("remove all lower-case vowels", '"".join([c for c in text if c not in "aeiou"])',
             lambda t: "".join("" if c in set("aeiou") else c for c in t)),
        Step("write every character twice", '"".join([c + c for c in text])', lambda t: "".join(2 * c for c in t)),
        Step("remove the first character", "text[1:]", lambda t: "".join(list(t)[1:])),
        Step("move the first character to the end", "text[1:] + text[:1]", lambda t: "".join([*t[1:], *t[:1]])),
        Step("replace every space by a hyphen", 'text.replace(" ", "-")', lambda t: "-".join(t.split(" "))),
        Step("put the words in reverse order", '" ".join(text.split(" ")[::-1])',
             lambda t: " ".join(reversed(t.split(" ")))),
        Step("append an exclamation mark", 'text + "!"', lambda t: f"{t}!"),
    ]


def _numbers(random: Random) -> list[int]:
    return [random.randint(-9, 20) for _ in range(random.randint(5, 7))]


def _text(random: Random) -> str:
    return " ".join(random.sample(WORDS, random.choice([2, 3])))


def _pipeline(random: Random, n_steps: int, start: Any, library: Callable[[Random], list[Step]]) -> list[Step] | None:
    """Draw steps that each change the example and leave it non-empty and short; None when that fails."""
    chosen: list[Step] = []
    value = start
    for _ in range(n_steps):
        fitting = []
        for step in library(random):
            result = step.apply(value)
            new = step.words not in {s.words for s in chosen} and result != value
            if new and _is_plain(result):
                fitting.append(step)
        if not fitting:
            return None
        chosen.append(random.choice(fitting))
        value = chosen[-1].apply(value)
    return chosen


def _is_plain(value: list[int] | str) -> bool:
    """Say whether a value is neither trivial nor long nor hard to read (spaces at an end or next to each other)."""
    if isinstance(value, str):
        return 3 <= len(value) <= 60 and value == " ".join(value.split())
    return len(value) >= 2 and max(map(abs, value)) < 500


def _pipeline_problem(random: Random, n_steps: int, argument: str, local: str, start_code: str, intro: str,
                      library: Callable[[Random], list[Step]], draw: Callable[[Random], Any]) -> Problem:
    """Return the problem of a drawn pipeline over a drawn example, with tests on further drawn inputs."""
    steps = None
    while steps is None:
        example = draw(random)
        steps = _pipeline(random, n_steps, example, library)
    code = [f"def f({argument}):", f"    {local} = {start_code}"]
    thought = []
    value = example
    for step in steps:
        value = step.apply(value)
        code += [f"    # {step.words}", f"    {local} = {step.code}"]
        thought.append(f"{sentence(step.words)[:-1]}: {value!r}")
    code.append(f"    return {local}")
    inputs = [example, *(draw(random) for _ in range(N_TESTS))]
    question = (f"{intro} in this order: {'; '.join(s.words for s in steps)}. It returns the result. "
                f"What does f({example!r}) return?")
    return Problem(
        question=question, thought="\n".join([*thought, f"The answer is {value!r}."]), code="\n".join(code),
        answer=repr(value), entry_point="f", group=f"pipeline: {'; '.join(s.words for s in steps)}",
        tests=tuple(f"assert f({x!r}) == {_run(steps, x)!r}" for x in inputs),
    )


def _run(steps: list[Step], value: Any) -> Any:
    for step in steps:
        value = step.apply(value)
    return value


def number_pipeline(random: Random, difficulty: int) -> Problem:
    """Write a function that changes a list of integers in some steps."""
    intro = "Write a Python function f(numbers) that takes a list of integers and does the following"
    return _pipeline_problem(random, difficulty, "numbers", "values", "list(numbers)", intro, _number_steps, _numbers)


def text_pipeline(random: Random, difficulty: int) -> Problem:
    """Write a function that changes a text in some steps."""
    intro = "Write a Python function f(phrase) that takes a text and does the following"
    return _pipeline_problem(random, difficulty, "phrase", "text", "str(phrase)", intro, _text_steps, _text)


FAMILIES = (
    Family(name="number_pipeline", domain="program", difficulty_unit="steps", generate=number_pipeline),
    Family(name="text_pipeline", domain="program", difficulty_unit="steps", generate=text_pipeline),
)
