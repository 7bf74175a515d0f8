"""mbpp: MBPP full, sanitized and MBPP+ rows {task_id, text|prompt, code, test_list, test_setup_code|test_imports}.

The question is the task's text and its first assert (the tests fix the function's name). Metrics: accuracy (all asserts pass) and,
on request, bits per byte of the gold code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.rows import problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_program


@BENCHMARKS("mbpp")
class Mbpp:
    """Write a function, run its asserts."""

    metrics = ("accuracy",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per task."""
        for index, row in enumerate(rows):
            tests = tuple(str(t) for t in required(row, "test_list", index, "mbpp"))
            setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
            name = re.search(r"assert\s+(?:\w+\()*([A-Za-z_]\w*)\(", tests[0]) if tests else None
            code = str(required(row, "code", index, "mbpp"))
            defined = re.findall(r"^def\s+(\w+)", code, flags=re.M)
            entry = next(
                (d for d in defined if any(re.search(rf"\b{d}\b", t) for t in tests)), name.group(1) if name else ""
            )
            question = f"{required(row, 'text', index, 'mbpp', 'prompt')}\nYour code should pass the test:\n{tests[0] if tests else ''}"
            yield problem_item(
                "mbpp",
                f"mbpp/{required(row, 'task_id', index, 'mbpp')}",
                question,
                code=code,
                answer=code,
                tests=tests,
                entry_point=entry,
                domain="code",
                meta={"setup": setup} if setup else None,
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for one completion."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Run the set-up code, the extracted code, and the asserts."""
        setup = item.example.meta.get("setup", "")
        return [judge_program(item, sample, setting, prefix=f"{setup}\n" if setup else "") for sample in outputs]
