"""program: problems whose answer is a program that is executed against the problem's own tests.

Rows: the embedded world, or a file with the columns of core.tables.EXAMPLES (id, question, code, tests, entry_point, difficulty ...).
Metric: accuracy (the first program found in the text passes all tests).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.rows import item_from_problem
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program


@BENCHMARKS("program")
class Program:
    """Generate a program, run its tests."""

    metrics = ("accuracy",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per problem row; rows without tests raise DataError."""
        for index, row in enumerate(rows):
            yield item_from_problem(row, index, "program", needs="tests")

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for one completion of the problem's prompt."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Execute the program found in each sample."""
        return [judge_program(item, sample, setting) for sample in outputs]
