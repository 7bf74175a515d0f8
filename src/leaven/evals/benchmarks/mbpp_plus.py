"""mbpp_plus: MBPP+ (Liu et al. 2023), EvalPlus's own file {task_id, prompt, canonical_solution, base_input, plus_input, atol ...} or the
Hugging Face one {task_id, prompt, code, test, test_list}.

The question follows the option `prompt` (mbpp.py). Metrics: accuracy (base and plus inputs, what EvalPlus reports as MBPP+) and
base_accuracy (base inputs alone: what it reports as MBPP). Limits: 20 CPU seconds for all inputs of a task, 75 for Mbpp/599, whose
reference counts to a hundred million. Argument types that JSON cannot hold: EvalPlus's table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.sandbox import Limits
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.evalplus import numpy_free, plus_tests
from leaven.evals.benchmarks.humaneval import choice
from leaven.evals.benchmarks.humaneval_plus import tests_of
from leaven.evals.benchmarks.mbpp import PROMPTS, entry_of, question
from leaven.evals.benchmarks.rows import broken, problem_item, required, texts
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program

SLOW = {"Mbpp/599": 75.0}
"""Task -> CPU seconds it needs beyond the benchmark's own limit."""
UNJUDGED = {"Mbpp/255": (85, 86, 90, 96, 100)}
"""Task -> plus inputs left out: the right answer (up to 1.7 million tuples of 77) is larger than the 64 MiB that leave a sandbox."""


@BENCHMARKS("mbpp_plus")
class MbppPlus:
    """Write a function, run it on base and plus inputs."""

    metrics: tuple[str, ...] = ("accuracy", "base_accuracy")
    options = ("prompt",)
    limits = Limits(cpu_s=20.0, wall_s=100.0, memory_bytes=4 << 30)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task."""
        wording = choice("mbpp_plus", options, "prompt", [p for p in PROMPTS if p != "three_shot"])
        for index, row in enumerate(rows):
            number = str(required(row, "task_id", index, "mbpp_plus"))
            identity = number if number.startswith("Mbpp/") else f"Mbpp/{number}"
            if "plus_input" in row or "test" not in row:
                tests: tuple[str, ...] = plus_tests(_judgeable(row, identity), index, "mbpp_plus", retyped(int(identity.split("/")[1])))
                words, first = _docstring(row, index)
                code = required(row, "canonical_solution", index, "mbpp_plus", kind=str).strip("\n") + "\n"
                entry = required(row, "entry_point", index, "mbpp_plus", kind=str)
            else:
                tests = (numpy_free(required(row, "test", index, "mbpp_plus", kind=str)),)
                words = required(row, "prompt", index, "mbpp_plus", "text", kind=str)
                listed = texts(row, "test_list", index, "mbpp_plus")
                first = listed[0] if listed else ""
                code = required(row, "code", index, "mbpp_plus", kind=str)
                entry = entry_of(code, listed)
            yield problem_item(
                "mbpp_plus",
                identity,
                question(wording, words, [first]),
                code=code,
                answer=code,
                tests=tests,
                entry_point=entry,
                domain="code",
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run every sample on what each metric asks for."""
        cpu_s = max(setting.limits.cpu_s, SLOW.get(item.id, 0.0))
        limits = dataclasses.replace(setting.limits, cpu_s=cpu_s, wall_s=max(setting.limits.wall_s, 5 * cpu_s))
        checks = item.example.entry_point != "check"  # Mbpp/56 defines a function of that name
        return [
            judge_program(item, sample, setting, tests=tests, limits=limits, checks=checks, metric=metric)
            for metric, tests in tests_of(item, setting).items()
            for sample in outputs
        ]


def _judgeable(row: Mapping[str, Any], identity: str) -> Mapping[str, Any]:
    """Return a row without the inputs of UNJUDGED."""
    given = row.get("plus_input")
    if identity not in UNJUDGED or not isinstance(given, list):
        return row
    return {**row, "plus_input": [g for number, g in enumerate(given) if number not in UNJUDGED[identity]]}


def _docstring(row: Mapping[str, Any], index: int) -> tuple[str, str]:
    """Return the task's words and its first assert from an EvalPlus prompt (a docstring that holds both)."""
    prompt = required(row, "prompt", index, "mbpp_plus", kind=str)
    found = re.fullmatch(r'\s*"""\n(.*?)\n(assert .*)\n"""\s*', prompt, flags=re.DOTALL)
    if not found:
        raise broken("mbpp_plus", index, f"expected words and an assert in a docstring in 'prompt', found {prompt[:80]!r}")
    return found[1], found[2]


# ---- argument types ------------------------------------------------------------------------------------------------


def _tuple(value: Any) -> Any:
    return {"(tuple)": value} if isinstance(value, list) else value


def _tuples(value: Any) -> Any:
    return [_tuple(v) for v in value]


def _deep(value: Any) -> Any:
    return {"(tuple)": [_deep(v) for v in value]} if isinstance(value, list) else value


def _same(value: Any) -> Any:
    return value


def _sets(value: Any) -> Any:
    return [{"(set)": v} if isinstance(v, list) and v else {} for v in value]


def _complex(value: Any) -> Any:
    return {"(complex)": value}


_BY_TASK: dict[tuple[int, ...], tuple[Callable[[Any], Any], ...]] = {
    (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809): (_tuple,),
    (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780): (_tuples,),
    (75, 413, 444, 753): (_tuples, _same),
    (106, 750): (_same, _tuple),
    (115,): (_sets,),
    (124,): (float, _complex),
    (250, 307, 405, 446, 617, 720, 763, 808): (_tuple, _same),
    (259, 401, 445, 580, 615, 791): (_deep,),
    (278,): (lambda value: _tuple(_tuples(value)),),
    (722,): (lambda value: {k: _tuple(v) for k, v in value.items()}, _same),
    (252,): (_complex,),
}
"""Tasks -> what to make of the first, second ... argument; the last entry serves for all further ones."""


def retyped(task: int) -> Callable[[Sequence[Any]], list[Any]]:
    """Return what rebuilds the argument lists of an MBPP+ task as tagged JSON."""
    made = next((kinds for tasks, kinds in _BY_TASK.items() if task in tasks), (_same,))

    def rebuild(inputs: Sequence[Any]) -> list[Any]:
        return [[made[min(i, len(made) - 1)](v) for i, v in enumerate(given)] for given in inputs]

    return rebuild
