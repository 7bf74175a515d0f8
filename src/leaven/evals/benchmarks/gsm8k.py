"""gsm8k: grade-school word problems (Cobbe et al. 2021), rows {question, answer} with the final number after `####`.

Metrics: accuracy (final number equal) and, on request, bits per byte of the gold solution without its `<<...>>` calculator marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.rows import problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_answer


@BENCHMARKS("gsm8k")
class Gsm8k:
    """Generate a solution, compare its final number."""

    metrics = ("accuracy",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per row."""
        for index, row in enumerate(rows):
            gold = re.sub(r"<<[^>]*>>", "", str(required(row, "answer", index, "gsm8k")))
            yield problem_item(
                "gsm8k", f"gsm8k/{index}", str(required(row, "question", index, "gsm8k")), answer=gold, domain="math"
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for one completion."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Compare final numbers."""
        gold = item.example.answer.rpartition("####")[2].strip()
        return [judge_answer(item, sample, kind="number", gold=gold) for sample in outputs]
