"""humaneval_plus: HumanEval+ (Liu et al. 2023), EvalPlus's own file {task_id, prompt, canonical_solution, base_input, plus_input, atol ...}
or the Hugging Face one {task_id, prompt, canonical_solution, test}.

Metrics: accuracy (base and plus inputs, what EvalPlus reports as HumanEval+) and base_accuracy (base inputs alone; not in the Hugging
Face file, which does not keep them apart). One generation set is scored under both. Limits: 20 CPU seconds for all inputs of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.sandbox import Limits
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.errors import DataError
from leaven.evals.benchmarks.evalplus import numpy_free, plus_tests
from leaven.evals.benchmarks.humaneval import checked, function_item, judge_completion
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request


@BENCHMARKS("humaneval_plus")
class HumanEvalPlus:
    """Complete a function, run it on base and plus inputs."""

    metrics: tuple[str, ...] = ("accuracy", "base_accuracy")
    options = ("prompt",)
    limits = Limits(cpu_s=20.0, wall_s=100.0, memory_bytes=4 << 30)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task."""
        for index, row in enumerate(rows):
            tests: tuple[str, ...]
            if "plus_input" in row or "test" not in row:
                tests = plus_tests(row, index, "humaneval_plus", list)
            else:
                tests = (numpy_free(checked(row, index, "humaneval_plus")),)
            yield function_item("humaneval_plus", row, index, options, tests)

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run every sample on what each metric asks for."""
        return [
            judge_completion(item, sample, setting, tests, metric)
            for metric, tests in tests_of(item, setting).items()
            for sample in outputs
        ]


def tests_of(item: Item, setting: Setting) -> dict[str, tuple[str, ...]]:
    """Return metric -> test texts for the metrics asked for; raise DataError for base tests that a file does not have."""
    tests = item.example.tests
    found = {"accuracy": tests} if "accuracy" in setting.metrics else {}
    if "base_accuracy" in setting.metrics:
        if len(tests) == 1:
            raise DataError(
                f"benchmark {item.benchmark}, item {item.id}: base_accuracy needs base_input and plus_input, found one test text "
                "for both; use EvalPlus's own file, or ask for accuracy alone"
            )
        found["base_accuracy"] = tests[:2]
    return found
