"""livecodebench: LiveCodeBench code generation (Jain et al. 2024), rows {question_title, question_content, platform, question_id,
contest_id, contest_date, starter_code, difficulty, public_test_cases, private_test_cases, metadata}.

Test cases are JSON, or base64 of a zlib-packed pickle of JSON text (code_generation_lite); only a text is ever unpickled. `stdin` cases
run the program as a script: lines are compared stripped, then as decimal numbers (outputs of 2000 characters or more as text alone);
`functional` cases call Solution().f or f with one JSON value per input line. All cases have to pass, 6 CPU seconds each, stopped at the
first that does not. Options `start` and `end` are the window of contest dates (inclusive), `platform` keeps leetcode, codeforces or
atcoder. Difficulty 1, 2, 3 = easy, medium, hard. The prompt is the release's generic one. Metric: accuracy. No gold, hence no bits per
byte. Not covered: self-repair, execution and test prediction.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from leaven.core.sandbox import Job, Limits
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.contest import LIBRARY, day, in_window
from leaven.evals.benchmarks.humaneval import choice
from leaven.evals.benchmarks.leetcode import LEVELS
from leaven.evals.benchmarks.rows import broken, problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_runs

NAME = "livecodebench"
WITH_STARTER = "You will use the following starter code to write the solution to the problem and enclose your code within delimiters."
WITHOUT = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample inputs). "
    "Enclose your code within delimiters as follows."
)
CALL = """
import json
try:
    _answer = Solution().{name}
except NameError:
    _answer = {name}
_found = _answer(*[json.loads(_line) for _line in {lines!r}])
_found = list(_found) if isinstance(_found, tuple) else _found
assert _found == json.loads({wanted!r})
"""
DEEP = "import sys\nsys.setrecursionlimit(50000)\n"


@BENCHMARKS(NAME)
class LiveCodeBench:
    """Write a program, run it on every test case."""

    metrics: tuple[str, ...] = ("accuracy",)
    options = ("start", "end", "platform")
    limits = Limits(cpu_s=6.0, wall_s=30.0, memory_bytes=4 << 30, output_bytes=16 << 20)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per problem in the window of contest dates."""
        platform = choice(NAME, options, "platform", ("all", "leetcode", "codeforces", "atcoder"))
        for index, row in enumerate(rows):
            date = required(row, "contest_date", index, NAME, kind=str)
            inside = in_window(day(date, f"benchmark {NAME}, row {index + 1}, column 'contest_date'"), options, NAME)
            if not inside or platform not in ("all", row.get("platform")):
                continue
            yield _item(row, index, date)

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run every sample on every case."""
        cases = json.loads(item.example.meta["cases"])
        jobs = [_job(case, item.example.meta["function"], setting.limits) for case in cases]
        return [judge_runs(item, sample, jobs, accepts=same_numbers, prefix=DEEP, library=LIBRARY) for sample in outputs]


def _item(row: Mapping[str, Any], index: int, date: str) -> Item:
    """Return the item of a problem."""
    level = str(row.get("difficulty", "")).lower()
    if level not in LEVELS:
        raise broken(NAME, index, f"expected easy, medium or hard in column 'difficulty', found {row.get('difficulty')!r}")
    cases = [
        case
        for column in ("public_test_cases", "private_test_cases")
        for case in cases_of(required(row, column, index, NAME, kind=(str, list)), index, column)
    ]
    if not cases:
        raise broken(NAME, index, "expected at least one test case in public_test_cases and private_test_cases, found none")
    metadata = _parsed(row.get("metadata") or "{}", index, "metadata")
    function = str(metadata.get("func_name") or "") if isinstance(metadata, dict) else ""
    if not function and any(case["testtype"] == "functional" for case in cases):
        raise broken(NAME, index, "expected func_name in column 'metadata' for functional test cases, found none")
    starter = str(row.get("starter_code") or "")
    return problem_item(
        NAME,
        str(required(row, "question_id", index, NAME)),
        prompt(required(row, "question_content", index, NAME, kind=str), starter),
        tests=(f"{len(cases)} cases",),
        entry_point="Solution" if "class Solution" in starter else function,
        domain="code",
        difficulty=LEVELS[level],
        difficulty_unit="level",
        meta={"cases": json.dumps(cases), "function": function, "date": date[:10], "platform": str(row.get("platform", ""))},
    )


def prompt(content: str, starter: str) -> str:
    """Return the question in the release's generic template (without its system message)."""
    shown = starter if starter else "# YOUR CODE HERE"
    return (
        f"### Question:\n{content}\n\n### Format: {WITH_STARTER if starter else WITHOUT}\n```python\n{shown}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )


def cases_of(packed: str | list[Any], index: int, column: str) -> list[dict[str, str]]:
    """Return the test cases {input, output, testtype} of a column: a list, JSON, or packed JSON.

    Raises:
        DataError: For text that is neither, and for cases that lack a field.
    """
    found = packed if isinstance(packed, list) else _parsed(packed, index, column)
    if not isinstance(found, list):
        raise broken(NAME, index, f"expected a list of test cases in column {column!r}, found {type(found).__name__}")
    for case in found:
        if not isinstance(case, dict) or not {"input", "output", "testtype"} <= case.keys():
            raise broken(NAME, index, f"expected test cases {{input, output, testtype}} in column {column!r}, found {str(case)[:80]}")
        if case["testtype"] not in ("stdin", "functional"):
            raise broken(NAME, index, f"expected testtype stdin or functional in column {column!r}, found {case['testtype']!r}")
    return [{k: str(case[k]) for k in ("input", "output", "testtype")} for case in found]


class _TextOnly(pickle.Unpickler):
    """Unpickles plain values; any class or function in the bytes is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"{module}.{name} is no text")


def _parsed(text: Any, index: int, column: str) -> Any:
    """Return the value of JSON, or of base64(zlib(pickle(JSON text)))."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        inner = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(text, validate=True)))).load()
        return json.loads(inner)
    except (ValueError, TypeError, EOFError, zlib.error, binascii.Error, pickle.UnpicklingError) as problem:
        raise broken(
            NAME, index, f"expected JSON or packed JSON in column {column!r}, found {text[:40]!r} ({type(problem).__name__}: {problem})"
        ) from None


def _job(case: Mapping[str, str], function: str, limits: Limits) -> Job:
    """Return the job of one case, its program still to come."""
    if case["testtype"] == "stdin":
        return Job(id="", program="", stdin=case["input"], expected_stdout=case["output"], limits=limits)
    test = CALL.format(name=function, lines=case["input"].split("\n"), wanted=case["output"])
    return Job(id="", program="", tests=(test,), limits=limits)


def same_numbers(found: str, expected: str) -> bool:
    """Return whether two outputs agree line by line, stripped, as text or as decimal numbers."""
    ours, theirs = (text.strip().split("\n") for text in (found, expected))
    if len(ours) != len(theirs):
        return False
    return all(a.strip() == b.strip() or _equal_numbers(a, b) for a, b in zip(ours, theirs, strict=True))


def _equal_numbers(found: str, expected: str) -> bool:
    numbers = _decimals(found)
    return numbers is not None and numbers == _decimals(expected)


def _decimals(line: str) -> list[Decimal] | None:
    """Return the numbers of a line, None when something in it is no number."""
    try:
        return [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return None
