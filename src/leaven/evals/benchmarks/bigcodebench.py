"""bigcodebench: BigCodeBench (Zhuo et al. 2024), full or hard, rows {task_id, complete_prompt, instruct_prompt, canonical_solution,
code_prompt, test, entry_point, doc_struct, libs}.

Loads, asks and extracts; programs are not executed yet (they need 139 third-party libraries inside the sandbox), so that every verdict
is `not_measured`. Option `prompt`: instruct (default, the split of Liu et al. 2025) or complete. Bits per byte of the gold are measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.extract import extract_completion
from leaven.core.sandbox import Job
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.humaneval import choice
from leaven.evals.benchmarks.rows import problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_extracted

NAME = "bigcodebench"
MISSING = "BigCodeBench programs are not executed yet: they need third-party libraries inside the sandbox"


@BENCHMARKS(NAME)
class BigCodeBench:
    """Write a function that uses libraries; not executed yet."""

    metrics: tuple[str, ...] = ("accuracy",)
    options = ("prompt",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task."""
        wording = choice(NAME, options, "prompt", ("instruct", "complete"))
        for index, row in enumerate(rows):
            gold = required(row, "canonical_solution", index, NAME, kind=str)
            yield problem_item(
                NAME,
                str(required(row, "task_id", index, NAME)),
                required(row, f"{wording}_prompt", index, NAME, kind=str),
                code=gold,
                answer=gold,
                tests=(required(row, "test", index, NAME, kind=str),),
                entry_point=required(row, "entry_point", index, NAME, kind=str),
                domain="code",
                meta={"prompt": required(row, "code_prompt", index, NAME, kind=str), "libs": str(row.get("libs", ""))},
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Extract every sample's program; none is executed."""
        verdicts = []
        for sample in outputs:
            found = extract_completion(sample.text, item.example.meta["prompt"], item.example.entry_point)
            verdicts.append(judge_extracted(item, sample, found, Job(id=item.id, program=found.code), missing=MISSING))
        return verdicts
