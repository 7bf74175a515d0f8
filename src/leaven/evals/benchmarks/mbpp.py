"""mbpp: MBPP full and sanitized (Austin et al. 2021), rows {task_id, text|prompt, code, test_list, test_setup_code|test_imports}.

Option `prompt`, the three in use: `one_test` (default: the task and its first assert after "You are an expert Python programmer", as Liu
et al. 2025 ask), `three_shot` (the file's tasks 1-3, solved, and all asserts; these tasks are then no items), `docstring` (EvalPlus's).
Option `split`: all (default), test, train, validation or prompt; by the column of that name, else by the paper's task numbers. Set-up
code stands in the tests, where it may use the answer's classes. Metrics: accuracy (all asserts pass) and, on request, bits per byte of
the gold code. Not covered: MBPP+ (mbpp_plus.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.prune import parse
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.errors import DataError
from leaven.evals.benchmarks.humaneval import choice
from leaven.evals.benchmarks.rows import broken, problem_item, required, texts
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program

PROMPTS = ("one_test", "three_shot", "docstring")
SPLITS = ("all", "test", "train", "validation", "prompt")
SHOTS = (1, 2, 3)
"""Task numbers of the worked examples (OpenCodeEval's choice; Austin et al. used 2-4)."""


@BENCHMARKS("mbpp")
class Mbpp:
    """Write a function, run its asserts."""

    metrics: tuple[str, ...] = ("accuracy",)
    options = ("prompt", "split")

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task of the split."""
        wording = choice("mbpp", options, "prompt", PROMPTS)
        split = choice("mbpp", options, "split", SPLITS)
        listed = [(index, row) for index, row in enumerate(rows)]
        before = _worked(listed) if wording == "three_shot" else ""
        for index, row in listed:
            number = required(row, "task_id", index, "mbpp")
            if (before and number in SHOTS) or (split != "all" and split_of(row, number, index) != split):
                continue
            tests = texts(row, "test_list", index, "mbpp")
            if not tests:
                raise broken("mbpp", index, "expected at least one assert in column 'test_list', found none")
            setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
            judged = ((setup,) if setup else ()) + held(tests)
            code = required(row, "code", index, "mbpp", kind=str)
            yield problem_item(
                "mbpp",
                f"mbpp/{number}",
                before + question(wording, required(row, "text", index, "mbpp", "prompt", kind=str), tests),
                code=code,
                answer=code,
                tests=judged,
                entry_point=entry_of(code, tests),
                domain="code",
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run the extracted code against set-up code and asserts; imports of the set-up code serve the answer too."""
        setup = item.example.tests[0]
        imports = re.findall(r"^(?:import|from) .*$", setup, flags=re.MULTILINE)
        prefix = "".join(f"{line.strip()}\n" for line in imports)
        return [judge_program(item, sample, setting, prefix=prefix) for sample in outputs]


def question(wording: str, text: str, tests: Sequence[str]) -> str:
    """Return the question of a task in one of PROMPTS (without worked examples)."""
    if wording == "docstring":
        return f'"""\n{text.strip()}\n{tests[0]}\n"""\n'
    task = f"You are an expert Python programmer, and here is your task:\n{text.strip()}\n"
    if wording == "three_shot":
        return f"{task}Your code should pass these tests:\n" + "\n".join(tests) + "\n"
    return f"{task}Your code should pass the test:\n{tests[0]}"


def entry_of(code: str, tests: Sequence[str]) -> str:
    """Return the function that the tests call: one the reference defines, else the first name an assert calls."""
    defined = re.findall(r"^def\s+(\w+)", code, flags=re.MULTILINE)
    called = re.search(r"assert\s+(?:\w+\()*([A-Za-z_]\w*)\(", tests[0]) if tests else None
    used = (name for name in defined if any(re.search(rf"\b{name}\b", test) for test in tests))
    return next(used, called.group(1) if called else "")


HELD = """
def _held(value):
    plain = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
    return bool(value) if value is None or isinstance(value, plain) else True
"""


def held(tests: Sequence[str]) -> tuple[str, ...]:
    """Return the tests with `assert f(x)` asking for a true value or any object (sanitized tasks 737, 787, 794 return a match).

    The judge does not ask an answer's own objects whether they are true, since they would decide; an object that is no plain
    value counts as true, as it would by default.
    """
    changed = []
    for test in tests:
        tree = parse(test)
        only = tree.body[0] if tree and len(tree.body) == 1 else None
        bare = isinstance(only, ast.Assert) and isinstance(only.test, ast.Call)
        changed.append(f"assert _held({ast.unparse(only.test)})" if bare else test)  # type: ignore[union-attr]
    return tuple(changed) if changed == list(tests) else (HELD, *changed)


def split_of(row: Mapping[str, Any], number: Any, index: int) -> str:
    """Return the split of a task: its own column, else by number (prompt 1-10, test 11-510, validation 511-600, train 601-974)."""
    if "split" in row:
        return required(row, "split", index, "mbpp", kind=str)
    if not isinstance(number, int):
        raise broken("mbpp", index, f"expected a whole number in column 'task_id' to tell the split, found {number!r}")
    last = {10: "prompt", 510: "test", 600: "validation"}
    return next((name for limit, name in last.items() if number <= limit), "train")


def _worked(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """Return the three worked examples of `three_shot`; raise DataError when the file lacks them."""
    by_number = {required(row, "task_id", index, "mbpp"): (index, row) for index, row in rows}
    if missing := [number for number in SHOTS if number not in by_number]:
        raise DataError(
            f"benchmark mbpp: option prompt: three_shot shows tasks {', '.join(map(str, SHOTS))}, found no task "
            f"{', '.join(map(str, missing))} in the file; use the full MBPP file, or prompt: one_test"
        )
    parts = []
    for index, row in (by_number[number] for number in SHOTS):
        asked = question("three_shot", required(row, "text", index, "mbpp", "prompt", kind=str), texts(row, "test_list", index, "mbpp"))
        code = required(row, "code", index, "mbpp", kind=str).replace("\r", "").strip()
        parts.append(f"{asked}\n```python\n{code}\n```\n")
    return "\n".join(parts) + "\n"
