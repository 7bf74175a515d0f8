"""humanevalfix: HumanEvalFix for Python (Muennighoff et al. 2023, OctoPack): repair a function with one planted bug.

Rows {task_id, prompt, declaration, buggy_solution, canonical_solution, test, entry_point ...}. Option `prompt`: `tests` (default: the
buggy function, its tests and "Fix bugs in f.") or `docs` (docstring instead of tests). The gold is the repaired body. An answer is the
whole function or its body. Metrics: accuracy and, on request, bits per byte of the gold. Not covered: the other five languages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.humaneval import checked, choice, function_item, judge_completion
from leaven.evals.benchmarks.rows import required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request

NAME = "humanevalfix"


@BENCHMARKS(NAME)
class HumanEvalFix:
    """Repair a function, run its check."""

    metrics: tuple[str, ...] = ("accuracy",)
    options = ("prompt",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task; the buggy body is in its meta."""
        wording = choice(NAME, options, "prompt", ("tests", "docs"))
        for index, row in enumerate(rows):
            item = function_item(NAME, row, index, {}, (checked(row, index, NAME),))
            buggy = required(row, "buggy_solution", index, NAME, kind=str)
            if wording == "docs":
                shown = required(row, "prompt", index, NAME, kind=str) + buggy
            else:
                shown = f"{required(row, 'declaration', index, NAME, kind=str)}{buggy}\n{required(row, 'test', index, NAME, kind=str)}"
            yield dataclasses.replace(
                item,
                example=dataclasses.replace(
                    item.example,
                    question=f"{shown.strip()}\nFix bugs in {item.example.entry_point}.\n",
                    meta={**item.example.meta, "buggy": buggy, "bug": str(row.get("bug_type", ""))},
                ),
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run the repaired function."""
        return [judge_completion(item, sample, setting) for sample in outputs]
