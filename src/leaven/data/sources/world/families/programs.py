"""Loops and branches: "write f(...) with these rules; what does f(this) return?" -> a commented function.

The program is the answer that tests judge; the value it returns for the example in the question is the answer text, so
that the same problem serves text-only formats. Expected values come from plain functions here, never from the program.
Difficulty counts rules. Not covered: steps one after the other (pipelines.py, list_programs.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from leaven.data.sources.world.family import Family, Problem
from leaven.data.sources.world.words import WORDS

N_TESTS = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on an integer n: its words, its code and what it means."""

    words: str
    code: str
    holds: Callable[[int], bool]


def _conditions(random: Random) -> list[Condition]:
    """Return the conditions on an integer n, with their constants drawn."""
    divisor, limit = random.choice([3, 4, 5, 7]), random.randint(-3, 14)
    return [
        Condition("even", "n % 2 == 0", lambda n: not n & 1),
        Condition("odd", "n % 2 == 1", lambda n: bool(n & 1)),
        Condition(f"divisible by {divisor}", f"n % {divisor} == 0", lambda n: n // divisor * divisor == n),
        Condition(f"greater than {limit}", f"n > {limit}", lambda n: not n <= limit),
        Condition(f"less than {limit}", f"n < {limit}", lambda n: not n >= limit),
        Condition("negative", "n < 0", lambda n: n != abs(n)),
    ]


def _draw_conditions(random: Random, count: int, usable: Callable[[Condition], bool]) -> list[Condition]:
    """Draw conditions with different words."""
    chosen: dict[str, Condition] = {}
    while len(chosen) < count:
        condition = random.choice(_conditions(random))
        if usable(condition):
            chosen.setdefault(condition.words, condition)
    return list(chosen.values())


@dataclass(frozen=True, slots=True)
class Action:
    """What an accumulator does with a number n: its words, the new total in code and the change it means."""

    words: str
    code: str
    change: Callable[[int], int]


def _action(random: Random) -> Action:
    constant = random.randint(2, 9)
    return random.choice([
        Action("add the number to the total", "total + n", lambda n: n),
        Action("subtract the number from the total", "total - n", lambda n: -n),
        Action(f"add {constant} to the total", f"total + {constant}", lambda n: constant),
    ])


def accumulator(random: Random, difficulty: int) -> Problem:
    """Write a loop that adds to a total by some rules."""
    start = random.randint(0, 9)
    example = [random.randint(-9, 20) for _ in range(4)]
    conditions = _draw_conditions(random, difficulty, lambda c: any(map(c.holds, example)))
    rules = [(condition, _action(random)) for condition in conditions]

    def change(condition: Condition, action: Action, numbers: list[int]) -> int:
        return sum(action.change(n) for n in numbers if condition.holds(n))

    total = start
    code = ["def f(numbers):", f"    total = {start}", "    for n in numbers:"]
    thought = []
    for condition, action in rules:
        hits = ", ".join(str(n) for n in example if condition.holds(n))
        total += change(condition, action, example)
        thought.append(f"{condition.words.capitalize()} ({hits}), {action.words}: the total is {total}.")
        code += [f"        # if it is {condition.words}, {action.words}", f"        if {condition.code}:",
                 f"            total = {action.code}"]
    code.append("    return total")
    inputs = [example, *([random.randint(-9, 20) for _ in range(random.randint(5, 7))] for _ in range(N_TESTS))]
    expected = [start + sum(change(*rule, numbers) for rule in rules) for numbers in inputs]
    question = (f"Write a Python function f(numbers) with a total that starts at {start}. For each number in the list: "
                f"{'; '.join(f'if it is {c.words}, {a.words}' for c, a in rules)}. It returns the total. "
                f"What does f({example}) return?")
    return Problem(
        question=question, thought="\n".join([*thought, f"The answer is {total}."]), code="\n".join(code),
        answer=str(total), entry_point="f", group=f"accumulator: {'; '.join(c.words for c in conditions)}",
        tests=tuple(f"assert f({x}) == {y}" for x, y in zip(inputs, expected, strict=True)),
    )


def branching(random: Random, difficulty: int) -> Problem:
    """Write a chain of conditions that gives an integer a word: the first rule that applies decides."""
    by_rule: dict[int, list[int]] = {}
    while len(by_rule) < difficulty + 1:  # until each rule decides for some integer and some are left for the last word
        rules = _draw_conditions(random, difficulty, lambda c: True)
        by_rule = {}
        for n in range(-20, 41):
            by_rule.setdefault(_branch(rules, n), []).append(n)
    words = random.sample(WORDS, difficulty + 1)
    decided = random.choice([difficulty - 1, difficulty])  # so that all conditions have to be looked at
    example, answer = random.choice(by_rule[decided]), words[decided]
    code = ["def f(n):", "    # the first rule that applies decides", f'    result = "{words[-1]}"']
    thought = []
    for i, rule in enumerate(rules):
        code += [f"    {'if' if i == 0 else 'elif'} {rule.code}:", f'        result = "{words[i]}"']
        thought.append(f"{example} is {rule.words}, so the result is {answer}." if rule.holds(example)
                       else f"{example} is not {rule.words}.")
    code.append("    return result")
    inputs = dict.fromkeys([example, *(random.choice(by_rule[i]) for i in range(difficulty + 1))])
    listed = "; ".join(f'"{word}" if n is {rule.words}' for word, rule in zip(words, rules, strict=False))
    question = ("Write a Python function f(n) that takes an integer and returns a word; the first rule that applies "
                f'decides: {listed}; "{words[-1]}" otherwise. Which word does f({example}) return?')
    return Problem(
        question=question, thought="\n".join([*thought, f"The answer is {answer}."]), code="\n".join(code),
        answer=answer, entry_point="f", group=f"branching: {'; '.join(r.words for r in rules)}",
        tests=tuple(f'assert f({n}) == "{words[_branch(rules, n)]}"' for n in inputs),
    )


def _branch(rules: list[Condition], n: int) -> int:
    return next((i for i, rule in enumerate(rules) if rule.holds(n)), len(rules))


FAMILIES = (
    Family(name="accumulator", domain="program", difficulty_unit="rules", generate=accumulator),
    Family(name="branching", domain="program", difficulty_unit="rules", generate=branching, answers="choice"),
)
