"""evalperf: EvalPerf (Liu et al. 2024), rows {task_id, prompt, entry_point, reference, scores, pe_input}.

Loads, asks and extracts; the differential performance score counts CPU instructions, which is not built yet, so that every verdict is
`not_measured`. The gold is the fastest reference (the last one), so bits per byte are measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.extract import extract_completion
from leaven.core.sandbox import Job
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.rows import broken, problem_item, required, texts
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_extracted

NAME = "evalperf"
MISSING = "EvalPerf programs are not profiled yet: the score needs counted instructions"


@BENCHMARKS(NAME)
class EvalPerf:
    """Write a fast function; not profiled yet."""

    metrics: tuple[str, ...] = ("accuracy",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task."""
        for index, row in enumerate(rows):
            references = texts(row, "reference", index, NAME)
            scores = required(row, "scores", index, NAME, kind=list)
            if not references or len(references) != len(scores):
                raise broken(NAME, index, f"expected one score per reference, found {len(scores)} scores and {len(references)} references")
            given = required(row, "pe_input", index, NAME, kind=(str, list))
            try:
                given = json.loads(given) if isinstance(given, str) else given
            except ValueError:
                raise broken(NAME, index, f"expected JSON in column 'pe_input', found {given[:60]!r}") from None
            yield problem_item(
                NAME,
                str(required(row, "task_id", index, NAME)),
                required(row, "prompt", index, NAME, kind=str),
                code=references[-1],
                answer=references[-1],
                tests=("not profiled",),
                entry_point=required(row, "entry_point", index, NAME, kind=str),
                domain="code",
                meta={"references": json.dumps(references), "scores": json.dumps(scores), "input": json.dumps(given)},
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Extract every sample's program; none is profiled."""
        verdicts = []
        for sample in outputs:
            found = extract_completion(sample.text, item.example.question, item.example.entry_point)
            verdicts.append(judge_extracted(item, sample, found, Job(id=item.id, program=found.code), missing=MISSING))
        return verdicts
