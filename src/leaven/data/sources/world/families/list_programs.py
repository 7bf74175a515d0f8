"""A list of 5 items and 1-6 named operations -> a one-expression program that does all of them: the quickstart's task.

The program must return the net permutation, so code without thought needs the whole composition in one go, while the
thought applies one operation per line. Chance level 1/120. Few words from a closed vocabulary, so that a word tokenizer
and a model of 160k parameters suffice: a question has four constant words, and an operation starts a line in question
and thought alike, so that it is the same token in both.

    reverse       e d c b a        swap_first    b a c d e        reverse_head  c b a d e
    rotate_left   b c d e a        swap_last     a b c e d        reverse_tail  a b e d c
    rotate_right  e a b c d        swap_ends     e b c d a
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random

from leaven.core.rng import python_rng
from leaven.data.sources.world.family import Family, Problem

N_ITEMS = 5
N_TESTS = 3

PERMUTATIONS: dict[str, tuple[int, ...]] = {
    "reverse": (4, 3, 2, 1, 0),
    "rotate_left": (1, 2, 3, 4, 0),
    "rotate_right": (4, 0, 1, 2, 3),
    "swap_first": (1, 0, 2, 3, 4),
    "swap_last": (0, 1, 2, 4, 3),
    "swap_ends": (4, 1, 2, 3, 0),
    "reverse_head": (2, 1, 0, 3, 4),
    "reverse_tail": (0, 1, 4, 3, 2),
}
"""Operation -> for every place afterwards, the place its item comes from."""

LISTED_DEPTH = 4
"""Up to this depth all 8 ** depth problems are listed; deeper ones are drawn."""


def problem(operations: tuple[str, ...]) -> Problem:
    """Return the problem of an operation sequence; its test lists depend on the question alone."""
    positions = list(range(N_ITEMS))
    lines = []
    for operation in operations:
        positions = [positions[i] for i in PERMUTATIONS[operation]]
        lines.append(f"{operation} : {' '.join(map(str, positions))}")
    question = f"f(x) rearranges {N_ITEMS} items:\n" + "\n".join(operations)
    expression = "[" + ", ".join(f"x[{i}]" for i in positions) + "]"
    random = python_rng(0, "world", "list_program", question)
    inputs = [random.sample(range(10, 100), N_ITEMS) for _ in range(N_TESTS)]
    return Problem(
        question=question,
        thought="\n".join(lines),
        code=f"def f(x):\n    return {expression}",
        answer=expression,
        tests=tuple(f"assert f({x}) == {[x[i] for i in positions]}" for x in inputs),
        entry_point="f",
        group=" ".join(map(str, positions)),
    )


def generate(random: Random, difficulty: int) -> Problem:
    """Draw `difficulty` operations, repetitions allowed."""
    return problem(tuple(random.choices(list(PERMUTATIONS), k=difficulty)))


def list_all(difficulty: int) -> Iterator[Problem] | None:
    """Yield all problems of a depth in lexicographic order, or return None beyond LISTED_DEPTH."""
    if difficulty > LISTED_DEPTH:
        return None
    return (problem(operations) for operations in product(PERMUTATIONS, repeat=difficulty))


def detail(step: str) -> str:
    """Return what the operation of a step does by itself: the place that each place takes its item from."""
    operation = step.split(" : ")[0]
    return f"{operation} takes {' '.join(map(str, PERMUTATIONS[operation]))}"


FAMILIES = (
    Family(name="list_program", domain="program", difficulty_unit="operations", generate=generate, enumerate=list_all,
           detail=detail),
)
