"""The seed filter: each rule with a row that it refuses, where code is found, raw code cut into snippets, real rows."""

from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from leaven.core.types import Example, Turn
from leaven.data.seeds import CODE_RULES, Rejected, Seed, filter_seeds, snippets
from leaven.spec.synthesis import Rules

GOOD = "def top(xs):\n    best = xs[0]\n    for x in xs:\n        if x > best:\n            best = x\n    return best\n"
ASKED = "Write a function top that returns the largest item of a list."


def only(example: Example, rows: str = "task", rules: Rules | None = None) -> Seed | Rejected:
    (found,) = filter_seeds([example], rows, rules or Rules())
    return found


def row(answer: str = "", question: str = ASKED, code: str = "") -> Example:
    return Example(id="7", source="s", question=question, answer=answer, code=code)


@pytest.mark.parametrize("answer", [GOOD, f"Sure!\n\n```python\n{GOOD}```\nIt loops.", f"```\n{GOOD}```", f"```py\n{GOOD}",
                                    f"```python\nprint(1)\n```\nor\n~~~python\n{GOOD}~~~"])  # fmt: skip
def test_code_is_found_bare_and_fenced(answer: str) -> None:
    seed = only(row(answer))
    assert isinstance(seed, Seed) and seed.code.strip() == GOOD.strip() and seed.answer == answer


def test_code_column_and_conversation() -> None:
    seed = only(row(code=GOOD))
    assert isinstance(seed, Seed) and seed.code == GOOD and GOOD in seed.answer  # the condition `seed` trains on the answer
    turns = (Turn(role="user", content=ASKED), Turn(role="assistant", content=GOOD), Turn(role="user", content="Thanks"))
    seed = only(Example(id="1", source="s", turns=turns))
    assert isinstance(seed, Seed) and seed.question == ASKED and seed.code == GOOD


REFUSED = {
    "question too short": row(GOOD, "Find the largest."),
    "question too long": row(GOOD, "word " * 2000),
    "no code in the answer": row("The largest item is the one above all others."),
    "not Python": row("```javascript\nfunction f() { return 1 }\n```"),
    "code does not parse": row("```python\ndef f(:\n    return 1\n```"),
    "no function or class": row("```python\nfor i in range(3):\n    print(i)\n```"),
    "code too long": row(code="def f(x):\n" + "".join(f"    x += {i}\n" for i in range(200)) + "    return x\n"),
    "placeholder instead of code": row(code="def f(x):\n    # TODO: your code here\n    for i in x:\n        y = i\n    return y\n"),
    "imports a module that reaches outside, draws at random or is not standard": row(code="import requests\n" + GOOD),
    "reads input or files, or runs text": row(code="def f():\n    x = input()\n    if x:\n        return x\n    return 1\n"),
    "depends on the clock": row(code=GOOD.replace("best = xs[0]", "best = date.today()")),
    "trivial: too few statements": row(code="def f(x):\n    '''Doubles.'''\n    return 2 * x\n"),
    "trivial: no branch, loop or recursion": row(code="def f(x):\n    y = 2 * x\n    z = y + 1\n    return z\n"),
    "nothing to assert: no function returns a value that varies": row(code=GOOD.replace("return best", "print(best)\n    return 0")),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_every_rule_refuses_its_row_with_its_reason(reason: str) -> None:
    found = only(REFUSED[reason])
    assert isinstance(found, Rejected) and (found.reason, found.stage, found.id) == (reason, "seed", "7")


def test_no_rule_is_without_a_row_and_thresholds_move() -> None:
    assert len(CODE_RULES) == 6 and len(REFUSED) == 14
    assert isinstance(only(REFUSED["question too short"], rules=Rules(min_question_words=2)), Seed)
    assert isinstance(only(REFUSED["code too long"], rules=Rules(max_code_lines=1000)), Rejected)  # still straight-line
    outside = "imports a module that reaches outside, draws at random or is not standard"
    assert isinstance(only(REFUSED[outside], rules=Rules(modules=("requests",))), Seed)


@pytest.mark.parametrize("code", ["def f(n):\n    a = n\n    b = f(n - 1)\n    return a * b\n",
                                  "def f(xs):\n    a = [x for x in xs]\n    b = a\n    return b\n",
                                  "class A:\n    def g(self, n):\n        x = n\n        return self.g(x)\n        pass\n"])  # fmt: skip
def test_recursion_comprehensions_and_methods_count_as_reasoning(code: str) -> None:
    assert isinstance(only(row(code=code)), Seed)


def test_a_repeated_question_with_the_same_code_is_kept_once() -> None:
    found = list(filter_seeds([row(GOOD), row(GOOD), row(GOOD, ASKED + " Now!")], "task", Rules()))
    assert [isinstance(f, Seed) for f in found] == [True, False, True]
    assert found[1].reason == "the same question and code came before"


def test_bare_questions_need_no_code() -> None:
    seed = only(row("anything"), "question")
    assert isinstance(seed, Seed) and seed.code == "" and seed.question == ASKED


MODULE = '''"""Doc."""
import math
from collections import Counter

LIMIT = 3
unused = 1


def helper(x):
    return math.floor(x)


@staticmethod
def main(xs):
    return [helper(x) for x in xs if x < LIMIT]


class Box:
    def count(self, xs):
        return Counter(xs)


def test_main():
    assert main([1]) == [1]


if __name__ == "__main__":
    print(main([1.5]))
'''


def test_raw_code_is_cut_into_definitions_with_what_they_need() -> None:
    found = dict(snippets(MODULE))
    assert list(found) == ["main", "Box"]
    assert all(part in found["main"] for part in ("import math", "LIMIT = 3", "def helper", "@staticmethod"))
    assert not any(part in found["main"] for part in ("Counter", "unused", "__main__", "test_main"))
    assert found["Box"].startswith("from collections import Counter") and "math" not in found["Box"]
    for code in found.values():
        ast.parse(code)
    mutual = "def a(n):\n    return b(n)\ndef b(n):\n    return a(n)\n"
    assert [name for name, _ in snippets(mutual)] == ["a", "b"] and all("def a" in c and "def b" in c for _, c in snippets(mutual))


def test_raw_rows_become_seeds_without_a_question() -> None:
    found = list(filter_seeds([Example(id="3", source="s", text="LIMIT = 2\n\n\n" + GOOD)], "code", Rules()))
    assert [(s.id, s.question, s.group) for s in found] == [("3:top", "", "3")]
    broken = list(filter_seeds([Example(id="3", source="s", text="def f(:")], "code", Rules()))
    assert broken[0].reason == "code does not parse" and "SyntaxError" in broken[0].detail


def test_real_rows_are_all_accounted_for(shared_data: Path) -> None:
    """Counts of 2,017 Code Alpaca rows; they change only when a rule does."""
    with gzip.open(shared_data / "instruction/code_alpaca_2k.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    examples = [Example(id=str(i), source="s", question=r["instruction"], answer=r["output"]) for i, r in enumerate(rows)]
    found = list(filter_seeds(examples, "task", Rules()))
    counts = Counter(f.reason if isinstance(f, Rejected) else "kept" for f in found)
    assert len(found) == len(rows) == 2017
    assert counts["not Python"] > 600 and 200 < counts["kept"] < 450
