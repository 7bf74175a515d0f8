"""leetcode: the LeetCode contest problems of DeepSeek-Coder (Guo et al. 2024; 180 of July 2023 - January 2024), rows {task_id, prompt,
prompt_sft, test, meta, start_time}.

The answer is a class Solution, whole or as the continuation of its stub. Options: `prompt` (instruction: prompt_sft, default; completion:
the stub), `start` and `end` (dates of the contest, inclusive). Difficulty 1, 2, 3 = easy, medium, hard. Names that the site brings
(List, Counter, inf ...) need no import. There is no gold, hence no bits per byte. Metric: accuracy.
"""

from __future__ import annotations

import ast
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.prune import parse
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.contest import LIBRARY, in_window
from leaven.evals.benchmarks.humaneval import choice
from leaven.evals.benchmarks.rows import broken, problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program

NAME = "leetcode"
LEVELS = {"easy": 1, "medium": 2, "hard": 3}


@BENCHMARKS(NAME)
class LeetCode:
    """Write a class Solution, run its asserts."""

    metrics: tuple[str, ...] = ("accuracy",)
    options = ("prompt", "start", "end")

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per problem whose contest lies in the window."""
        wording = choice(NAME, options, "prompt", ("instruction", "completion"))
        for index, row in enumerate(rows):
            meta = required(row, "meta", index, NAME, kind=dict)
            level = str(meta.get("difficulty", "")).lower()
            if level not in LEVELS:
                raise broken(NAME, index, f"expected easy, medium or hard in column 'meta.difficulty', found {meta.get('difficulty')!r}")
            seconds = required(row, "start_time", index, NAME, kind=(int, float))
            date = datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()
            if not in_window(date, options, NAME):
                continue
            stub = required(row, "prompt", index, NAME, kind=str)
            asked = stub if wording == "completion" else required(row, "prompt_sft", index, NAME, kind=str)
            yield problem_item(
                NAME,
                str(required(row, "task_id", index, NAME)),
                asked,
                tests=(by_identity(required(row, "test", index, NAME, kind=str)),),
                entry_point="Solution",
                domain="code",
                difficulty=LEVELS[level],
                difficulty_unit="level",
                meta={"prompt": stub, "date": date.isoformat()},
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run the classes of the stub (ListNode) followed by the extracted code."""
        stub = item.example.meta["prompt"]
        return [judge_program(item, sample, setting, prompt=stub, prefix=classes_of(stub), library=LIBRARY) for sample in outputs]


def classes_of(stub: str) -> str:
    """Return the classes that a stub defines beside Solution."""
    tree = parse(stub.rstrip() + " pass\n")
    own = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name != "Solution"] if tree else []
    return "".join(f"{ast.unparse(n)}\n" for n in own)


def by_identity(test: str) -> str:
    """Return a test whose linked-list helper asks `node is not None`: the judge does not ask an answer's objects whether they are true."""
    return test.replace("if node else []", "if node is not None else []")
