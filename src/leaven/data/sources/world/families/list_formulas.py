"""List formulas: "write f(scores): rearrange a list of 4, then return a formula of two places" -> a real function.

The smallest family whose programs have everything that the ablations of Liu et al. 2025 (section 6.2) take away or
change: a signature, a docstring, a comment, several variables, operators and constants. Names, formula and layout can be
copied from the question; the order of the items after all operations has to be worked out, and the thought does that one
operation per line. A guess of the order is right once in 24 times (of the two items that count, once in 12). Digits of a
state say where the item in each place came from, so 1230 is "rotate left". Difficulty counts operations.
Not covered: bare lists with one-word operations for a word tokenizer (list_programs.py).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from leaven.core.rng import python_rng
from leaven.data.sources.world.family import Family, Problem

N_ITEMS = 4
N_TESTS = 3
PLACES = ("first", "second", "third", "last")
LISTS = tuple("ages costs heights lengths numbers points prices rates scores sizes values weights".split())

OPERATIONS: dict[str, tuple[int, ...]] = {
    "reverse": (3, 2, 1, 0),
    "rotate left": (1, 2, 3, 0),
    "rotate right": (3, 0, 1, 2),
    "swap ends": (3, 1, 2, 0),
    "swap middle": (0, 2, 1, 3),
    "swap start": (1, 0, 2, 3),
    "swap halves": (2, 3, 0, 1),
}
"""Operation -> for every place afterwards, the place its item comes from."""


def generate(random: Random, difficulty: int) -> Problem:
    """Draw `difficulty` operations (repetitions allowed), two places, a factor, a sign and a name."""
    operations = random.choices(list(OPERATIONS), k=difficulty)
    one, two = random.sample(range(N_ITEMS), 2)
    factor, plus = random.randint(2, 9), random.random() < 0.5
    argument = random.choice(LISTS)
    origin = list(range(N_ITEMS))
    steps = []
    for operation in operations:
        origin = [origin[i] for i in OPERATIONS[operation]]
        steps.append(f"{operation}: {''.join(map(str, origin))}")
    words = f"{factor} times the {PLACES[one]} {'plus' if plus else 'minus'} the {PLACES[two]}"
    question = f"Write f({argument}) for {N_ITEMS} numbers: {', '.join(operations)}; return {words}."
    sign = "+" if plus else "-"
    code = [
        f"def f({argument}):",
        f'    """Return {words}."""',
        "    # the new order",
        f"    order = {origin}",
        f"    moved = [{argument}[i] for i in order]",
        f"    result = {factor} * moved[{one}] {sign} moved[{two}]",
        "    return result",
    ]
    return Problem(
        question=question, thought="\n".join(steps), code="\n".join(code), entry_point="f",
        answer=f"{factor} * x[{origin[one]}] {sign} x[{origin[two]}]", group=f"list_formula: {', '.join(operations)}",
        tests=_tests(question, lambda x: factor * x[origin[one]] + (1 if plus else -1) * x[origin[two]]),
    )


def _tests(question: str, value: Callable[[list[int]], int]) -> tuple[str, ...]:
    """Return asserts on lists that depend on the question alone."""
    random = python_rng(0, "world", "list_formula", question)
    inputs = [random.sample(range(10, 100), N_ITEMS) for _ in range(N_TESTS)]
    return tuple(f"assert f({x}) == {value(x)}" for x in inputs)


def detail(step: str) -> str:
    """Return what the operation of a step does by itself: the place that each place takes its item from."""
    operation = step.split(":")[0]
    return f"{operation} takes {''.join(map(str, OPERATIONS[operation]))}"


FAMILIES = (
    Family(name="list_formula", domain="program", difficulty_unit="operations", generate=generate, detail=detail),
)
