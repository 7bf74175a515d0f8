"""humaneval: HumanEval and HumanEval+ in their official row format {task_id, prompt, canonical_solution, test, entry_point}.

The question is the prompt (signature and docstring), the gold is the function's body. Metrics: accuracy (all of `check` passes;
with one greedy sample this is pass@1) and, on request, bits per byte of the gold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.rows import problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program


@BENCHMARKS("humaneval")
class HumanEval:
    """Complete a function, run its check."""

    metrics = ("accuracy",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task."""
        for index, row in enumerate(rows):
            entry = str(required(row, "entry_point", index, "humaneval"))
            gold = str(required(row, "canonical_solution", index, "humaneval"))
            test = f"{required(row, 'test', index, 'humaneval')}\ncheck({entry})\n"
            yield problem_item(
                "humaneval",
                str(required(row, "task_id", index, "humaneval")),
                str(required(row, "prompt", index, "humaneval")),
                answer=gold,
                code=gold,
                tests=(test,),
                entry_point=entry,
                domain="code",
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for one completion."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run the prompt (imports and helpers) followed by the extracted code."""
        prefix = item.example.question + "    pass\n\n"
        return [judge_program(item, sample, setting, prefix=prefix) for sample in outputs]
