"""humaneval: HumanEval (Chen et al. 2021) in its official row format {task_id, prompt, canonical_solution, test, entry_point}.

The question is the prompt (signature and docstring) or, with the option `prompt: chat`, the prompt in a fence after a request; the gold
is the function's body. The prompt's helpers (tasks 32, 38, 50) stand in the tests too, so that an answer cannot redefine what the tests
compute with. Metrics: accuracy (all of `check` passes; with one greedy sample this is pass@1) and, on request, bits per byte of the gold.
Not covered: HumanEval+ (humaneval_plus.py).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.prune import parse
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.errors import StudyError, did_you_mean
from leaven.evals.benchmarks.rows import broken, problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program, names_of_tests

CHAT = "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n```python\n{}\n```\n"
"""The request of EvalPlus and OpenCodeEval (Liu et al. 2025, appendix D)."""
PROMPTS = ("completion", "chat")


@BENCHMARKS("humaneval")
class HumanEval:
    """Complete a function, run its check."""

    metrics: tuple[str, ...] = ("accuracy",)
    options = ("prompt",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task."""
        for index, row in enumerate(rows):
            if row.get("plus_input"):
                raise broken("humaneval", index, "expected HumanEval, found plus_input; its benchmark is humaneval_plus")
            yield function_item("humaneval", row, index, options, (checked(row, index, "humaneval"),))

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run the prompt (imports and helpers) followed by the extracted code, or by the prompt that the text continues."""
        return [judge_completion(item, sample, setting) for sample in outputs]


def function_item(name: str, row: Mapping[str, Any], index: int, options: Mapping[str, Any], tests: tuple[str, ...]) -> Item:
    """Return the item of a row whose prompt is code up to a function's docstring; `prompt` is kept in its meta."""
    prompt = required(row, "prompt", index, name, kind=str)
    gold = required(row, "canonical_solution", index, name, kind=str)
    wording = choice(name, options, "prompt", PROMPTS)
    return problem_item(
        name,
        str(required(row, "task_id", index, name)),
        CHAT.format(prompt.strip("\n")) if wording == "chat" else prompt,
        answer=gold,
        code=gold,
        tests=tests,
        entry_point=required(row, "entry_point", index, name, kind=str),
        domain="code",
        meta={"prompt": prompt},
    )


def choice(benchmark: str, options: Mapping[str, Any], option: str, known: Sequence[str]) -> str:
    """Return the value of an option, by default the first of `known`; raise StudyError for a value it does not have."""
    value = str(options.get(option, known[0]))
    if value not in known:
        raise StudyError(
            f"benchmark {benchmark}, option {option}: expected {' or '.join(known)}, found {value!r}.{did_you_mean(value, known)}"
        )
    return value


def checked(row: Mapping[str, Any], index: int, name: str) -> str:
    """Return a row's test text with the prompt's helpers before it and a call of `check` after it."""
    entry = required(row, "entry_point", index, name, kind=str)
    test = required(row, "test", index, name, kind=str)
    call = "" if f"\ncheck({entry})" in test else f"\ncheck({entry})\n"
    return helpers(required(row, "prompt", index, name, kind=str), entry, test) + test + call


def helpers(prompt: str, entry_point: str, test: str) -> str:
    """Return the prompt's own functions and imports as far as the tests use functions of the prompt, else nothing."""
    tree = parse(prompt + "    pass\n")
    own = [n for n in tree.body if getattr(n, "name", entry_point) != entry_point] if tree else []
    if not names_of_tests((test,)) & {n.name for n in own if isinstance(n, ast.FunctionDef | ast.ClassDef)}:
        return ""
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)] if tree else []
    return "".join(f"{ast.unparse(n)}\n" for n in [*imports, *own])


def judge_completion(
    item: Item, sample: Sample, setting: Setting, tests: Sequence[str] | None = None, metric: str = "accuracy"
) -> Verdict | Execution:
    """Judge a text that answers a prompt made of code: helpers and imports of the prompt stand before the program."""
    prompt = item.example.meta["prompt"]
    return judge_program(item, sample, setting, prompt=prompt, prefix=prompt + "    pass\n\n", tests=tests, metric=metric)
