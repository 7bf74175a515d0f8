"""answer: problems whose final answer is compared with the gold after normalisation.

Rows: the embedded world, or a file with the columns of core.tables.EXAMPLES. Options: `kind` (number, choice, text, yes_no, label,
boxed; default: number when the gold is one, yes_no for yes/no, else text) and `choices`. Metric: accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.rows import item_from_problem
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_answer


def kind_of(gold: str) -> str:
    """Return the answer kind that fits a gold answer."""
    if re.fullmatch(r"-?[\d,]+(\.\d+)?", gold.strip()):
        return "number"
    return "yes_no" if gold.strip().lower() in ("yes", "no") else "text"


@BENCHMARKS("answer")
class Answer:
    """Generate, extract the final answer, compare."""

    metrics = ("accuracy",)
    options = ("kind", "choices")

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per problem row; rows without an answer raise DataError."""
        for index, row in enumerate(rows):
            yield item_from_problem(row, index, "answer", needs="answer")

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for one completion of the problem's prompt."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Compare each sample's final answer with the gold."""
        gold = item.example.answer
        kind = str(setting.options.get("kind") or kind_of(gold))
        choices = tuple(setting.options.get("choices") or ())
        return [judge_answer(item, sample, kind=kind, gold=gold, choices=choices) for sample in outputs]
