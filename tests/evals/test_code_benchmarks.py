"""Python code benchmarks: references of the real files, answers of every kind, prompts, windows, special rules, broken rows."""

from __future__ import annotations

import ast
import base64
import dataclasses
import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leaven.core.sandbox import Limits
from leaven.core.step import Resources, StepContext
from leaven.core.types import Item, Sample, Verdict
from leaven.data.sources.rows import read_rows
from leaven.errors import DataError, StudyError
from leaven.evals.benchmarks.contest import LIBRARY
from leaven.evals.benchmarks.evalplus import COMPARE, RUN
from leaven.evals.benchmarks.livecodebench import same_numbers
from leaven.evals.benchmarks.mbpp_plus import retyped
from leaven.evals.harness import Setting, gold_request, judge_all, open_benchmark, requests_of

CTX = StepContext(runtime=Resources(threads=2))


def rows_of(shared_data: Path, file: str) -> list[dict[str, Any]]:
    return [row.value for row in read_rows(shared_data / f"code_eval/{file}.jsonl.gz")]


def items_of(name: str, rows: Sequence[Any], **options: Any) -> list[Item]:
    return list(open_benchmark(name).items(rows, options))


def judged(name: str, items: Sequence[Item], texts: dict[str, Sequence[str]], metrics: Sequence[str] = ("accuracy",)) -> list[Verdict]:
    benchmark = open_benchmark(name)
    samples = {i: [Sample(item=i, request=0, index=n, text=t) for n, t in enumerate(own)] for i, own in texts.items()}
    setting = Setting(metrics=tuple(metrics), limits=getattr(benchmark, "limits", Limits()))
    return list(judge_all(benchmark, items, samples, setting, CTX))


def not_passed(verdicts: Sequence[Verdict]) -> dict[str, str]:
    return {v.item: v.detail for v in verdicts if v.status != "pass"}


# ---- references ----------------------------------------------------------------------------------------------------

FILES = [
    ("humaneval", "humaneval", 164),
    ("mbpp", "mbpp", 974),
    ("mbpp", "mbpp_sanitized", 427),
    ("humanevalfix", "humanevalfix_python", 164),
]


@pytest.mark.parametrize(("name", "file", "count"), FILES)
def test_all_references_pass(shared_data: Path, name: str, file: str, count: int) -> None:
    items = items_of(name, rows_of(shared_data, file))
    assert len(items) == count
    assert not_passed(judged(name, items, {i.id: [i.example.code] for i in items})) == {}


def test_all_buggy_solutions_of_humanevalfix_fail(shared_data: Path) -> None:
    items = items_of("humanevalfix", rows_of(shared_data, "humanevalfix_python"))
    slow = {"Python/10", "Python/156", "Python/160"}  # endless loops: see the slow test
    some = [i for i in items if i.id not in slow][::2]
    verdicts = judged("humanevalfix", some, {i.id: [i.example.meta["buggy"]] for i in some})
    assert {v.score for v in verdicts} == {0.0} and "no_answer" not in {v.status for v in verdicts}


@pytest.mark.slow
def test_references_of_the_plus_files_pass(shared_data: Path) -> None:
    """All 164 and 378; 163 in the Hugging Face form, whose own test of HumanEval/32 unpacks a number."""
    for name, file in (("humaneval_plus", "humaneval_plus"), ("mbpp_plus", "mbpp_plus")):
        items = items_of(name, rows_of(shared_data, file))
        assert not_passed(judged(name, items, {i.id: [i.example.code] for i in items}, ("accuracy", "base_accuracy"))) == {}
    items = items_of("humaneval_plus", rows_of(shared_data, "humaneval_plus_originfmt"))
    lost = not_passed(judged("humaneval_plus", items, {i.id: [i.example.code] for i in items}))
    assert list(lost) == ["HumanEval/32"] and "Value after * must be an iterable" in lost["HumanEval/32"]


@pytest.mark.slow
def test_all_buggy_solutions_fail_the_endless_ones_too(shared_data: Path) -> None:
    items = items_of("humanevalfix", rows_of(shared_data, "humanevalfix_python"))
    assert {v.score for v in judged("humanevalfix", items, {i.id: [i.example.meta["buggy"]] for i in items})} == {0.0}


@pytest.mark.slow
def test_recorded_verdicts_are_reproduced(shared_data: Path) -> None:
    """EvalPlus's verdicts on 164 answers of StarCoder2-15B-Instruct: all base verdicts, 163 of 164 plus verdicts.

    HumanEval/21 was recorded as a fail at its first input whose answer differs from the reference in the last bit (1.1e-16 at most, on
    570 of 999 inputs), that is, by exact comparison; EvalPlus's rule for floats accepts 1e-6.
    """
    recorded = {
        r.value["task_id"]: r.value for r in read_rows(shared_data / "model_outputs/starcoder2_instruct_humaneval_verdicts.jsonl.gz")
    }
    items = items_of("humaneval_plus", rows_of(shared_data, "humaneval_plus"))
    verdicts = judged("humaneval_plus", items, {i.id: [recorded[i.id]["solution"]] for i in items}, ("accuracy", "base_accuracy"))
    column = {"accuracy": "plus_status", "base_accuracy": "base_status"}
    different = [(v.item, v.metric) for v in verdicts if (recorded[v.item][column[v.metric]] == "pass") != (v.status == "pass")]
    assert different == [("HumanEval/21", "accuracy")]


@pytest.mark.parametrize(
    ("name", "file"), [("humaneval_plus", "humaneval_plus"), ("mbpp_plus", "mbpp_plus"), ("humaneval_plus", "humaneval_plus_originfmt")]
)
def test_plus_files_load_and_some_references_pass(shared_data: Path, name: str, file: str) -> None:
    items = items_of(name, rows_of(shared_data, file))
    assert len(items) == (378 if name == "mbpp_plus" else 164)
    some = items[1:120:17]
    metrics = ("accuracy",) if file.endswith("originfmt") else ("accuracy", "base_accuracy")
    wrong = {i.id: [i.example.code, f"def {i.example.entry_point}(*a):\n    return 'no'\n", ""] for i in some}
    verdicts = judged(name, some, wrong, metrics)
    assert {v.score for v in verdicts if v.index == 0} == {1.0}
    assert {v.score for v in verdicts if v.index == 1} == {0.0} and {v.status for v in verdicts if v.index == 2} == {"no_answer"}
    assert {v.metric for v in verdicts} == set(metrics)


def test_plus_catches_what_base_does_not() -> None:
    row = {
        "task_id": "x/1",
        "prompt": "def f(x):\n    '''double'''\n",
        "canonical_solution": "    return 2 * x\n",
        "entry_point": "f",
        "base_input": [[1], [2]],
        "plus_input": [[1], [10**9]],
        "atol": 0,
    }
    items = items_of("humaneval_plus", [row])
    verdicts = judged("humaneval_plus", items, {"x/1": ["    return [0, 2, 4][x]\n"]}, ("accuracy", "base_accuracy"))
    assert {v.metric: v.score for v in verdicts} == {"accuracy": 0.0, "base_accuracy": 1.0}


HUGGING_FACE = """import numpy as np
from math import inf

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64
    return False

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match

inputs = [[1, 3], [10, 3], [inf, 2]]
results = [0.3333333333333333, 3.3333333333333335, inf]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(share(*inp), exp, 0)
"""


def test_hugging_face_test_texts_run_without_numpy() -> None:
    row = {
        "task_id": 7,
        "prompt": "Divide.",
        "code": "def share(a, b):\n    return a / b\n",
        "test_imports": [],
        "test_list": ["assert share(1, 2) == 0.5"],
    }
    (item,) = items_of("mbpp_plus", [{**row, "test": HUGGING_FACE}])
    assert item.id == "Mbpp/7" and item.example.entry_point == "share" and item.example.question.endswith("assert share(1, 2) == 0.5")
    texts = [row["code"], "def share(a, b):\n    return a * (1 / b)\n", "def share(a, b):\n    return round(a / b, 3)\n"]
    assert [v.score for v in judged("mbpp_plus", [item], {item.id: texts})] == [1.0, 1.0, 0.0]
    with pytest.raises(DataError, match="base_accuracy needs base_input"):
        judged("mbpp_plus", [item], {item.id: texts}, ("base_accuracy",))


# ---- what an answer cannot do ----------------------------------------------------------------------------------------


def test_answers_cannot_change_what_tests_compute_with(shared_data: Path) -> None:
    """HumanEval 32, 38 and 50 test with helpers of the prompt: an answer that redefines them gains nothing."""
    items = {i.id: i for i in items_of("humaneval", rows_of(shared_data, "humaneval"))}
    cheats = {
        "HumanEval/32": "def poly(xs, x):\n    return 0.0\n\ndef find_zero(xs):\n    return poly([], 0)\n",
        "HumanEval/38": "def encode_cyclic(s):\n    return s\n\ndef decode_cyclic(s):\n    return encode_cyclic(s)\n",
        "HumanEval/50": "def encode_shift(s):\n    return s\n\ndef decode_shift(s):\n    return encode_shift(s)\n",
    }
    own = (
        "def encode_shift(s):\n    return 'mine'\n\ndef decode_shift(s):\n    return ''.join(chr((ord(c) - 5 - 97) % 26 + 97) for c in s)\n"
    )
    texts = {**{i: [t, items[i].example.code] for i, t in cheats.items()}}
    texts["HumanEval/50"].append(own)
    scores = [v.score for v in judged("humaneval", [items[i] for i in texts], texts)]
    assert scores == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0]


def test_reference_and_expected_values_are_out_of_reach() -> None:
    row = {
        "task_id": "x/1",
        "prompt": "def f(x):\n    '''?'''\n",
        "canonical_solution": "    return x * 7 + 3\n",
        "entry_point": "f",
        "base_input": [[1], [2]],
        "plus_input": [[3]],
        "atol": 0,
    }
    (item,) = items_of("humaneval_plus", [row])
    tries = [
        "import sys\ndef f(x):\n    return sys._getframe(1).f_globals['f'](x)\n",
        "import gc\ndef f(x):\n    return [o for o in gc.get_objects() if callable(o) and getattr(o, '__name__', '') == 'f'][-1](x)\n",
        "class E(int):\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return E(0)\n",
        "import __main__\ndef f(x):\n    return __main__.f(x)\n",
    ]
    assert {v.score for v in judged("humaneval_plus", [item], {"x/1": tries})} == {0.0}


# ---- HumanEval, MBPP ------------------------------------------------------------------------------------------------


def test_prompts_of_humaneval_and_humanevalfix(shared_data: Path) -> None:
    row = rows_of(shared_data, "humaneval")[0]
    (plain,), (chat,) = items_of("humaneval", [row]), items_of("humaneval", [row], prompt="chat")
    assert plain.example.question == row["prompt"]
    assert (
        chat.example.question.startswith("Please provide a self-contained Python script") and row["prompt"].strip() in chat.example.question
    )
    assert judged("humaneval", [chat], {chat.id: [row["canonical_solution"]]})[0].score == 1.0
    fix = rows_of(shared_data, "humanevalfix_python")[0]
    (tests,), (docs,) = items_of("humanevalfix", [fix]), items_of("humanevalfix", [fix], prompt="docs")
    assert "assert has_close_elements" in tests.example.question and fix["buggy_solution"].strip() in tests.example.question
    assert tests.example.question.endswith("Fix bugs in has_close_elements.\n") and "check(" not in docs.example.question
    with pytest.raises(StudyError, match="Did you mean 'chat'"):
        items_of("humaneval", [row], prompt="chatt")


def test_the_three_prompts_of_mbpp(shared_data: Path) -> None:
    rows = rows_of(shared_data, "mbpp")
    first, tests = rows[10]["text"], rows[10]["test_list"]
    one = next(i for i in items_of("mbpp", rows) if i.id == "mbpp/11").example.question
    assert one == f"You are an expert Python programmer, and here is your task:\n{first}\nYour code should pass the test:\n{tests[0]}"
    docstring = next(i for i in items_of("mbpp", rows, prompt="docstring") if i.id == "mbpp/11").example.question
    assert docstring == f'"""\n{first}\n{tests[0]}\n"""\n'
    shots = items_of("mbpp", rows, prompt="three_shot")
    asked = next(i for i in shots if i.id == "mbpp/11").example.question
    assert len(shots) == 971 and {"mbpp/1", "mbpp/2", "mbpp/3"}.isdisjoint(i.id for i in shots)
    assert asked.count("```python\n") == 3 and all(t in asked for t in tests) and asked.count("You are an expert") == 4
    assert all(r["code"].replace("\r", "").strip() in asked for r in rows[:3])
    with pytest.raises(DataError, match="three_shot shows tasks 1, 2, 3, found no task 1, 2, 3"):
        items_of("mbpp", rows[10:20], prompt="three_shot")


def test_splits_of_mbpp(shared_data: Path) -> None:
    full, sanitized = rows_of(shared_data, "mbpp"), rows_of(shared_data, "mbpp_sanitized")
    assert [len(items_of("mbpp", full, split=s)) for s in ("prompt", "test", "validation", "train")] == [10, 500, 90, 374]
    assert [len(items_of("mbpp", sanitized, split=s)) for s in ("prompt", "test", "validation", "train")] == [7, 257, 43, 120]


def test_set_up_code_of_mbpp_uses_the_answers_classes(shared_data: Path) -> None:
    (item,) = (i for i in items_of("mbpp", rows_of(shared_data, "mbpp")) if i.id == "mbpp/927")
    thought = "We measure the height.\n" * 500
    answer = f"{thought}```python\n{item.example.code}\nprint(max_height(None))\n```\n{thought}"
    assert judged("mbpp", [item], {item.id: [answer, item.example.code.replace("max_height", "other")]})[0].score == 1.0


def test_asserts_without_a_comparison_take_objects_for_true() -> None:
    row = {"task_id": 1, "text": "t", "code": "def f(x): pass", "test_list": ["assert f('ab')", "assert not f('b')"]}
    texts = [
        "import re\ndef f(x):\n    return re.match('a', x)\n",
        "def f(x):\n    return x == 'ab'\n",
        "def f(x):\n    return 'yes'\n",
        "def f(x):\n    return ''\n",
    ]
    assert [v.score for v in judged("mbpp", items_of("mbpp", [row]), {"mbpp/1": texts})] == [1.0, 1.0, 0.0, 0.0]


DIFFERENT = {f"Mbpp/{n}" for n in (87, 98, 104, 124, 140, 145, 252, 301, 596)}
"""Tasks whose inputs EvalPlus itself gives other values (87) or types (lists for tuples, texts for numbers as keys) than its asserts."""


def test_argument_types_of_mbpp_plus_are_those_of_the_asserts(shared_data: Path) -> None:
    """The base inputs, rebuilt from JSON, equal in value and type the arguments written in the task's own asserts."""
    decode: dict[str, Any] = {}
    exec(RUN.format(entry="print", atol=0, reference="print", rule="True"), decode)
    compared, different = 0, set()
    for row in rows_of(shared_data, "mbpp_plus"):
        written = []
        for node in ast.parse(row["assertion"]).body:
            if not isinstance(node, ast.Assert):
                continue
            calls = [c for c in ast.walk(node) if isinstance(c, ast.Call) and getattr(c.func, "id", "") == row["entry_point"]]
            try:
                written.append([ast.literal_eval(a) for a in calls[0].args])
            except (ValueError, IndexError):
                written.append(None)
        rebuilt = decode["_decoded"](json.loads(json.dumps(retyped(int(row["task_id"].split("/")[1]))(row["base_input"]))))
        for ours, theirs in zip(rebuilt, written, strict=False):
            compared += theirs is not None
            if theirs is not None and repr(list(ours)) != repr(theirs):
                different.add(row["task_id"])
    assert different == DIFFERENT
    assert compared > 1000


def test_answers_are_close_as_numpy_says() -> None:
    numpy = pytest.importorskip("numpy")
    space: dict[str, Any] = {}
    exec(COMPARE, space)
    values = [0.0, 1.0, 1 + 5e-8, 1 + 1e-6, -1.0, 1e9, 1e9 + 50, 1e9 + 500, float("inf"), float("-inf"), float("nan"), 3, True]
    for a in values:
        for b in values:
            for atol in (0.0, 1e-6, 1e-4):
                assert bool(space["_close"](a, b, atol)) == bool(numpy.allclose(a, b, rtol=1e-7, atol=atol)), (a, b, atol)
    assert (
        space["_same"]([0.1 + 0.2], [0.3], 0)
        and not space["_same"]((0.1 + 0.2,), [0.3], 0)
        and not space["_same"]([1, 0.1 + 0.2], [1, 0.3], 0)
    )


# ---- LeetCode -------------------------------------------------------------------------------------------------------

PUSHES = "weekly-contest-381-minimum-number-of-pushes-to-type-word-i"
DOUBLE = "weekly-contest-358-double-a-number-represented-as-a-linked-list"
DIGITS = """```python
class Solution:
    def doubleIt(self, head: Optional[ListNode]) -> Optional[ListNode]:
        n = 0
        while head:
            n, head = n * 10 + head.val, head.next
        out = None
        for d in reversed(str(2 * n)):
            out = ListNode(int(d), out)
        return out
```"""
IN_PLACE = """class Solution:
    def doubleIt(self, head):
        if head.val > 4:
            head = ListNode(0, head)
        node = head
        while node:
            node.val = node.val * 2 % 10
            if node.next and node.next.val > 4:
                node.val += 1
            node = node.next
        return head
"""
WITH_EXAMPLE = """```python
class Solution:
    def minimumPushes(self, word: str) -> int:
        c = Counter(word)
        return sum(1 + i // 8 for i in range(len(c)))

assert Solution().minimumPushes('a') == 2
```"""
LEETCODE = {
    PUSHES: ["return sum(1 + i // 8 for i in range(len(word)))\n", WITH_EXAMPLE, "        return len(word)\n"],
    DOUBLE: [DIGITS, IN_PLACE, "class Solution:\n    def doubleIt(self, head):\n        return head\n"],
}


def test_leetcode_loads_and_judges(shared_data: Path) -> None:
    rows = rows_of(shared_data, "leetcode_contest_2023_2024")
    items = items_of("leetcode", rows)
    assert [sum(i.example.difficulty == level for i in items) for level in (1, 2, 3)] == [45, 91, 44]
    own = [i for i in items if i.id in LEETCODE]
    verdicts = judged("leetcode", own, LEETCODE)
    assert [v.score for v in verdicts] == [1.0, 1.0, 0.0] * 2, [(v.item, v.detail) for v in verdicts]
    late = items_of("leetcode", rows, start="2023-09-01", end="2023-09-30")
    assert late and all(i.example.meta["date"][:7] == "2023-09" for i in late)
    assert "class Solution" in items_of("leetcode", rows, prompt="completion")[0].example.question
    with pytest.raises(StudyError, match="expected a date such as"):
        items_of("leetcode", rows, start="September")
    setting = Setting(format="code_only")
    assert items[0].example.question in "".join(s.text for s in requests_of(open_benchmark("leetcode"), items[0], setting)[0].prompt)


def test_names_that_contest_sites_bring() -> None:
    for line in set(LIBRARY.values()):
        exec(line, {})
    assert LIBRARY["List"] == "from typing import List" and LIBRARY["bisect"] == "import bisect"


# ---- LiveCodeBench ---------------------------------------------------------------------------------------------------


def lcb(cases: list[dict[str, str]], packed: bool = False, **more: Any) -> dict[str, Any]:
    text = json.dumps(cases[1:])
    private = base64.b64encode(zlib.compress(pickle.dumps(text))).decode() if packed else text
    return {
        "question_title": "t",
        "question_content": "Double it.",
        "platform": "atcoder",
        "question_id": "abc1",
        "contest_id": "abc",
        "contest_date": "2023-08-21T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(cases[:1]),
        "private_test_cases": private,
        "metadata": "{}",
        **more,
    }


STDIN = [
    {"input": "1\n", "output": "2\n", "testtype": "stdin"},
    {"input": "2\n", "output": "4.0\n", "testtype": "stdin"},
    {"input": "50\n", "output": "100", "testtype": "stdin"},
]
CALLS = [
    {"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"},
    {"input": "[]\n1", "output": "[1]", "testtype": "functional"},
]
FUNCTIONAL = {
    "starter_code": "class Solution:\n    def f(self, xs: List[int], x: int) -> List[int]:\n        ",
    "metadata": '{"func_name": "f"}',
    "platform": "leetcode",
}


@pytest.mark.parametrize("packed", [False, True])
def test_livecodebench_stdin(packed: bool) -> None:
    (item,) = items_of("livecodebench", [lcb(STDIN, packed)])
    assert "YOUR CODE HERE" in item.example.question and item.example.difficulty == 1
    texts = {
        "```python\nprint(2 * int(input()))\n```": "pass",
        "```python\nimport sys\nfor line in sys.stdin.buffer:\n    print('  %.3f ' % (2 * int(line)))\n```": "pass",
        "```python\ndef main():\n    n = int(open(0).read())\n    print(2 * n)\nif __name__ == '__main__':\n    main()\n```": "pass",
        "```python\nprint(2 * deque([int(input())]).pop())\n```": "pass",
        "```python\nprint(2 if int(input()) == 1 else 5)\n```": "fail",
        "```python\nprint(2, int(input()))\n```": "fail",
        "```python\nn = int(input())\nwhile n > 1:\n    pass\nprint(2 * n)\n```": "timeout_cpu",
        "no idea": "no_answer",
    }
    benchmark = open_benchmark("livecodebench")
    samples = {item.id: [Sample(item=item.id, request=0, index=n, text=t) for n, t in enumerate(texts)]}
    setting = Setting(limits=dataclasses.replace(benchmark.limits, cpu_s=1.0))
    verdicts = list(judge_all(benchmark, [item], samples, setting, CTX))
    assert [v.status for v in verdicts] == list(texts.values()), [v.detail for v in verdicts]
    assert verdicts[4].detail.startswith("run 2 of 3: ") and verdicts[5].detail.startswith("run 1 of 3: ")
    assert verdicts[6].cpu_s < 3  # stopped at the first run that did not pass


def test_livecodebench_functional() -> None:
    (item,) = items_of("livecodebench", [lcb(CALLS, True, **FUNCTIONAL)])
    assert "class Solution" in item.example.question
    texts = [
        "```python\nclass Solution:\n    def f(self, xs: List[int], x: int) -> List[int]:\n        return xs + [x]\n```",
        "```python\ndef f(xs, x):\n    return tuple(xs) + (x,)\n```",
        "```python\nclass Solution:\n    def f(self, xs, x):\n        return xs\n```",
        "```python\nclass Solution:\n    def g(self, xs, x):\n        return xs\n```",
    ]
    assert [v.status for v in judged("livecodebench", [item], {item.id: texts})] == ["pass", "pass", "fail", "error"]


def test_livecodebench_windows_and_platforms() -> None:
    rows = [
        lcb(STDIN, question_id=str(m), contest_date=f"2023-{m:02}-15T12:00:00", platform="atcoder" if m % 2 else "leetcode")
        for m in range(1, 13)
    ]
    count = lambda **options: len(items_of("livecodebench", rows, **options))  # noqa: E731
    assert (count(), count(start="2023-05-01"), count(start="2023-07-01"), count(start="2023-09-01")) == (12, 8, 6, 4)
    assert count(start="2023-05-15", end="2023-06-15") == 2 and count(end="2023-01-14") == 0 and count(platform="leetcode") == 6


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Harmful()))).decode()}, "'private_test_cases'.*is no text"),
        ({"private_test_cases": "not json"}, "expected JSON or packed JSON in column 'private_test_cases'"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "at least one test case"),
        ({"public_test_cases": '[{"input": "1"}]'}, "test cases {input, output, testtype} in column 'public_test_cases'"),
        ({"difficulty": "trivial"}, "expected easy, medium or hard"),
        ({"contest_date": "spring"}, "row 1, column 'contest_date'"),
        ({"public_test_cases": json.dumps(CALLS)}, "func_name"),
    ],
)
def test_broken_rows_of_livecodebench(change: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((DataError, StudyError), match=words):
        items_of("livecodebench", [{**lcb(STDIN), **change}])
    assert "unpickled" not in capsys.readouterr().out


def test_outputs_agree_as_lines_or_numbers() -> None:
    assert same_numbers("1\n 2.0 3\n\n", "1.0\n2 3.00") and same_numbers("Yes\n", "Yes") and same_numbers("", "")
    assert not same_numbers("1\n2", "1") and not same_numbers("yes", "Yes") and not same_numbers("0.1", "0.10000001")
    assert not same_numbers("nan", "1") and not same_numbers("1 2", "12")


# ---- loaded, not executed ---------------------------------------------------------------------------------------------


def test_bigcodebench_and_evalperf_load_and_are_not_measured() -> None:
    big = {
        "task_id": "BigCodeBench/0",
        "complete_prompt": "import numpy as np\ndef task_func(x):\n    '''Double.'''\n",
        "instruct_prompt": "Double.",
        "canonical_solution": "    return 2 * x\n",
        "code_prompt": "import numpy as np\ndef task_func(x):\n",
        "test": "import unittest",
        "entry_point": "task_func",
        "doc_struct": "{}",
        "libs": "['numpy']",
    }
    fast = {
        "task_id": "HumanEval/1",
        "prompt": "def f(x):\n    '''?'''\n",
        "entry_point": "f",
        "reference": ["def f(x): return 1", "def f(x): return 2"],
        "scores": [10.0, 90.0],
        "pe_input": "[[5]]",
    }
    for name, row, body in (("bigcodebench", big, "    return 2 * x\n"), ("evalperf", fast, "    return 2\n")):
        (item,) = items_of(name, [row])
        verdicts = judged(name, [item], {item.id: [body, "nothing"]})
        assert [(v.status, v.score) for v in verdicts] == [("not_measured", None), ("no_answer", None)]
        assert "not" in verdicts[0].detail and verdicts[0].extracted
        assert gold_request(item, Setting(format="code_only")).target[0].text
    assert items_of("bigcodebench", [big], prompt="complete")[0].example.question == big["complete_prompt"]
    with pytest.raises(DataError, match="one score per reference, found 1 scores and 2"):
        items_of("evalperf", [{**fast, "scores": [1.0]}])


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("humaneval", {"task_id": "x"}, "expected a column entry_point"),
        (
            "humaneval",
            {"task_id": "x", "prompt": 3, "canonical_solution": "", "entry_point": "f", "test": ""},
            "a text in column 'prompt', found int",
        ),
        ("humaneval", {"plus_input": [[1]]}, "its benchmark is humaneval_plus"),
        ("humaneval_plus", {"task_id": "x", "entry_point": "f"}, "expected a column prompt"),
        (
            "humaneval_plus",
            {"entry_point": "f", "prompt": "", "canonical_solution": "", "atol": 0, "base_input": [1]},
            "lists of arguments in column 'base_input'",
        ),
        ("mbpp", {"task_id": 1, "text": "t", "code": "c", "test_list": "assert 1"}, "a list in column 'test_list', found str"),
        ("mbpp", {"task_id": 1, "text": "t", "code": "c", "test_list": []}, "at least one assert"),
        (
            "mbpp_plus",
            {
                "task_id": "Mbpp/2",
                "entry_point": "f",
                "atol": 0,
                "prompt": "words",
                "canonical_solution": "",
                "base_input": [],
                "plus_input": [],
            },
            "words and an assert in a docstring",
        ),
        ("leetcode", {"meta": {"difficulty": "Odd"}}, "easy, medium or hard in column 'meta.difficulty'"),
        ("multipl_e", {"language": "cpp", "prompt": "no head", "name": "n"}, "to end with a function's head"),
        (
            "multipl_e",
            {"language": "cpp", "prompt": "int f() {", "name": "n", "tests": "}", "stop_tokens": [1]},
            "texts in column 'stop_tokens'",
        ),
        ("bigcodebench", {"task_id": "x"}, "canonical_solution"),
        ("evalperf", {"task_id": "x"}, "reference"),
    ],
)
def test_broken_rows_name_benchmark_row_and_column(name: str, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"benchmark {name}, row 1: .*{words}"):
        items_of(name, [row])
