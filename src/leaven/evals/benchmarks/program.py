"""program: problems whose answer is a program that is executed against the problem's own tests.

Rows: the embedded world, a file with the columns of core.tables.EXAMPLES, or one's own rows {id, prompt, tests, entry_point}: `tests` is
assert text, a list of it, or a list of {input, output} for programs that read stdin and write stdout; a reference (code, solution or
canonical_solution) is optional and makes bits per byte measurable. Metric: accuracy (the program found in the text passes all tests).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.extract import defines
from leaven.core.sandbox import Job
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.rows import broken, item_from_problem
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program, judge_runs

OWN = {
    "id": ("task_id", "question_id", "name"),
    "question": ("prompt", "instruction", "problem"),
    "code": ("solution", "canonical_solution"),
    "tests": ("test", "test_list"),
}
"""Column of EXAMPLES -> what people call it in rows of their own."""


@BENCHMARKS("program")
class Program:
    """Generate a program, run its tests."""

    metrics: tuple[str, ...] = ("accuracy",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per problem row; rows without tests raise DataError."""
        for index, row in enumerate(rows):
            yield item_from_problem(_renamed(row, index), index, "program", needs="tests")

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions of the problem's prompt."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Execute the program found in each sample."""
        runs = json.loads(item.example.meta.get("runs", "[]"))
        if runs:
            jobs = [Job(id="", program="", stdin=i, expected_stdout=o, limits=setting.limits) for i, o in runs]
            return [judge_runs(item, sample, jobs) for sample in outputs]
        asked, entry = item.example.question, item.example.entry_point
        stub = asked if entry and defines(f"{asked}    pass\n", entry) else ""
        prefix = f"{stub}    pass\n\n" if stub else ""
        return [judge_program(item, sample, setting, prompt=stub, prefix=prefix) for sample in outputs]


def _renamed(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return a row with the columns of EXAMPLES; tests of {input, output} become runs in its meta."""
    found = dict(row)
    for column, others in OWN.items():
        if found.get(column) is None:
            value = next((row[name] for name in others if row.get(name) is not None), None)
            found |= {} if value is None else {column: value}
    meta = found.get("meta") or {}
    meta = json.loads(meta) if isinstance(meta, str) else dict(meta)
    tests = found.get("tests")
    if isinstance(tests, str):
        found["tests"] = [tests] if tests.strip() else []
    elif isinstance(tests, list) and tests and all(isinstance(t, dict) for t in tests):
        if lacking := [t for t in tests if not {"input", "output"} <= t.keys()]:
            raise broken("program", index, f"expected tests of {{input, output}} in column 'tests', found {str(lacking[0])[:80]}")
        meta["runs"] = json.dumps([[_text(t["input"]), _text(t["output"])] for t in tests])
        found["tests"] = [f"{len(tests)} runs"]
    elif tests is not None and not (isinstance(tests, list) and all(isinstance(t, str) for t in tests)):
        what = "expected assert text, a list of it or of {input, output} in column 'tests', found"
        raise broken("program", index, f"{what} {str(tests)[:80]}")
    for column in ("question", "code", "entry_point"):
        if not isinstance(found.get(column, ""), str | None):
            raise broken("program", index, f"expected a text in column {column!r}, found {str(found[column])[:80]}")
    return {**found, "meta": json.dumps(meta) if meta else ""}


def _text(value: Any) -> str:
    """Return stdin or stdout of a run; lists are lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
