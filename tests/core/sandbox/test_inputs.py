"""Input of every kind: huge programs, odd bytes, hanging tests, third-party imports, answers that force every way of judging."""

# ruff: noqa: E501  (a program a line)
import importlib.util

import pytest

from leaven.core.sandbox import Job, Limits, available_tiers, execute

TIERS = [t for t, reason in available_tiers().items() if not reason]
CAGED = [t for t in TIERS if t != "D"]
FIRST = [t if t == TIERS[0] else pytest.param(t, marks=pytest.mark.slow) for t in TIERS]  # by default the strongest only
QUICK = Limits(cpu_s=0.5, wall_s=1.5)


def statuses(jobs, **options):
    return {r.id: r.status for r in execute(jobs, workers=2, **options)}


@pytest.mark.parametrize("share", [64, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tier", FIRST)
def test_programs_of_ten_megabytes(tier, share):
    text = "x = '" + "a" * (10 << 20) + "'\n"
    comment = "# " + "b" * (10 << 20) + "\n"
    lines = "y = 1\n" * (3 << 19)
    roomy = Limits(memory_bytes=3 << 30, cpu_s=20, wall_s=60)
    jobs = [
        Job("text", text + "def f(): return len(x)", (f"assert f() == {10 << 20}",)),
        Job("comment", comment + "def f(): return 1", ("assert f() == 2",)),
        Job("lines", lines + "def f(): return y", ("assert f() == 1",), limits=roomy),
        Job("broken", text + "def f(", ("assert f() == 1",)),
        Job("script", comment + "print(input())", stdin="c" * (10 << 20), expected_stdout="c" * (10 << 20), limits=Limits(output_bytes=11 << 20)),
        Job("tests", "def f(): return 1", ("z = '" + "d" * (10 << 20) + "'\nassert f() == 1",)),
        Job("small", "def f(): return 1", ("assert f() == 1",)),
    ]
    assert statuses(jobs, tier=tier, share=share) == {
        "text": "pass", "comment": "fail", "lines": "pass", "broken": "error", "script": "pass", "tests": "pass", "small": "pass"}


@pytest.mark.parametrize("tier", CAGED)
def test_output_that_is_not_utf8(tier):
    program = "import os\nos.write(1, b'\\xff\\xfe\\x00')\ndef f(): return 1\n"
    for share in (64, 1):
        (result,) = execute([Job("bytes", program, ("assert f() == 1",))], tier=tier, share=share)
        assert result.status == "pass" and "\ufffd" in result.stdout_tail
    (script,) = execute([Job("script", "import sys\nsys.stdout.buffer.write(b'\\xff')", expected_stdout="\ufffd")], tier=tier)
    assert script.status == "pass"  # what is no UTF-8 is compared as U+FFFD
    (bash,) = execute([Job("bash", "printf '\\xff\\xfe'", language="bash", expected_stdout="x")], tier=tier)
    assert bash.status == "fail" and bash.stdout_tail


def test_values_of_odd_text_cross_whole():
    program = "def f(s): return [s, s.encode('utf-8', 'surrogatepass'), {s: s}]"
    tests = ("assert f('\\ud800\\x00\\u20ac') == ['\\ud800\\x00\\u20ac', b'\\xed\\xa0\\x80\\x00\\xe2\\x82\\xac', {'\\ud800\\x00\\u20ac': '\\ud800\\x00\\u20ac'}]",)
    for share in (64, 1):
        assert statuses([Job("a", program, tests)], share=share) == {"a": "pass"}


@pytest.mark.parametrize("share", [64, 1])
@pytest.mark.parametrize("tier", FIRST)
def test_hanging_tests_end_and_cost_only_themselves(tier, share):
    good = "def f(): return 1"
    hanging = {
        "loop": "while True: pass",
        "loop_on_answer": "while f() == 1: pass",
        "comparison": "assert f() == 1\nassert {i * (2 ** 61 - 1): 0 for i in range(60000)}",
        "sleep": "import time\ntime.sleep(99)",
    }
    jobs = [Job(name, good, (test,), limits=QUICK) for name, test in hanging.items()]
    jobs[1:1] = [Job(f"good{i}", good, ("assert f() == 1",), limits=QUICK) for i in range(20)]
    results = {r.id: r for r in execute(jobs, tier=tier, share=share, workers=2)}
    for name in hanging:
        refused = tier == "D" and "refused at tier D" in results[name].detail
        assert results[name].status in ("timeout_cpu", "timeout_wall") or refused or results[name].status == "error", results[name]
    assert {results[f"good{i}"].status for i in range(20)} == {"pass"}


@pytest.mark.parametrize("tier", CAGED)
def test_third_party_imports_work_and_nothing_else_is_shown(tier):
    if importlib.util.find_spec("numpy") is None:
        pytest.skip("numpy is not installed in this environment")
    numpy = ("import numpy as np\nfrom typing import List\n"
             "def f(xs: List[int]):\n a = np.array(xs)\n return a.sum(), a.mean(), a.max() > 2, a.tolist(), np.linalg.inv(np.eye(20)).sum(), np.str_('x')")
    jobs = [Job("numpy", numpy, ("assert f([3, 1]) == (4, 2.0, True, [3, 1], 20, 'x')",), limits=Limits(cpu_s=20)),
            Job("wrong", numpy, ("assert f([3, 1]) == (5, 2.0, True, [3, 1], 20, 'x')",), limits=Limits(cpu_s=20)),
            Job("array", "import numpy as np\ndef f(): return np.zeros(3)", ("assert f() == [0, 0, 0]",), limits=Limits(cpu_s=20)),  # ambiguous
            Job("close", "import numpy as np\ndef f(a): a += 1; return a * 2", ("import numpy as np\na = np.ones(2)\n"
                "assert np.array_equal(f(a), [4, 4]) and a.tolist() == [2, 2]",), limits=Limits(cpu_s=20)),
            Job("far", "import numpy as np\nclass E(np.ndarray):\n def __eq__(s, o): return True\ndef f(): return np.zeros(3).view(E)",
                ("import numpy as np\nassert np.array_equal(f(), [0, 0, 1])",), limits=Limits(cpu_s=20)),
            Job("own_np", "class np:\n allclose = lambda *a: True\ndef f(): return 1.0", ("assert np.allclose(f(), 2)",), limits=Limits(cpu_s=20)),
            Job("others", "def f():\n try: import pytest\n except ImportError: return 1\n return 2", ("assert f() == 1",))]
    assert statuses(jobs, tier=tier) == {"numpy": "pass", "wrong": "fail", "array": "error", "others": "pass", "close": "pass",
                                         "far": "fail", "own_np": "fail"}


# programs and tests for which the questions cannot all be foreseen: every way of judging must agree with running them plainly
FORESIGHT = {
    "taken_apart": ("def f(x): return [x, (x, {'a': x})]", "r = f(2)\nassert r[1][1]['a'] == 2 and len(r) == 2 and sorted(map(str, r))"),
    "is": ("def f(x): return None if x else True", "assert f(1) is None\nassert f(0) is True"),
    "isinstance": ("def f(x): return (1, 2)", "r = f(1)\nif isinstance(r, tuple): r = list(r)\nassert r == [1, 2]"),
    "isinstance_hides": ("def f(x): return [3]", "r = f(1)\nif isinstance(r, list): assert r == [4]", "fail"),
    "nested": ("def g(x): return x + 1\ndef f(x): return x * 2", "for i in range(50): assert f(g(i)) == 2 * i + 2"),
    "nested_wrong": ("def g(x): return x + 1\ndef f(x): return x * 2 if x < 40 else 0", "for i in range(50): assert f(g(i)) == 2 * i + 2", "fail"),
    "in_place_then_called": ("def f(a):\n a.append(len(a))\n return a\ndef g(a): return sum(a)", "a = [5]\nassert f(a) == [5, 1]\nassert g(a) == 6\nassert a == [5, 1]"),
    "in_place_only": ("def f(a): a.sort()", "a = [3, 1]\nf(a)\nassert a == [1, 3]"),
    "mutated_expectation": ("def f(x): return [1]", "e = [1]\nok = f(0) == e\ne.append(2)\nassert ok"),
    "mutated_expectation_wrong": ("def f(x): return [1, 2]", "e = [1]\nok = f(0) == e\ne.append(2)\nassert ok", "fail"),
    "random_inputs": ("def f(xs): return sorted(xs)", "import random\nfor _ in range(30):\n xs = [random.randint(0, 99) for _ in range(9)]\n assert f(list(xs)) == sorted(xs)"),
    "other_path_on_answer": ("def f(x): return x\ndef g(x): return -x", "if f(3) == 4: assert g(1) == 1\nelse: assert g(2) == -2"),
    "state": ("n = [0]\ndef f():\n n[0] += 1\n return n[0]", "assert f() == 1\nassert f() == 2\nassert f() == 3"),
    "state_after_surprise": ("n = [0]\ndef f(a):\n n[0] += 1\n a.append(n[0])\n return n[0]", "a = []\nf(a)\nassert f(a) == 2\nassert f(a) == 3 and a == [1, 2, 3]"),
    "caught": ("def f(x):\n if x: raise ValueError(x)\n return 0", "try: f(1)\nexcept ValueError: pass\nelse: assert False\nassert f(0) == 0"),
    "object": ("class C:\n def __init__(s, x): s.x = x\n def add(s, y):\n  s.x += y\n  return s\n def get(s): return s.x", "c = C(1)\nassert c.add(2).get() == 3\nassert c.x == 3\nc.x = 7\nassert c.get() == 7"),
    "plain_with_methods": ("def f(x): return ' ab '", "assert f(1).strip() == 'ab'\nassert f(1).strip().upper() == 'AB'"),
    "callback_state": ("def f(g, n): return [g(i) for i in range(n)]", "seen = []\ndef g(i):\n seen.append(i)\n return i * i\nassert f(g, 4) == [0, 1, 4, 9]\nassert seen == [0, 1, 2, 3]"),
    "generator": ("def f(n):\n for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]\nassert sum(f(4)) == 6"),
    "not": ("def f(x): return []", "assert not f(1)\nassert f(1) != [1]\nassert f(1) in ([], {})"),
    "tolerance": ("def f(x): return x / 3", "import math\nassert abs(f(1) - 0.3333) < 1e-3\nassert math.isclose(f(2), 2 / 3)\nassert round(f(1), 2) == 0.33"),
    "tolerance_wrong": ("def f(x): return x / 4", "assert abs(f(1) - 0.3333) < 1e-3", "fail"),
    "many_questions": ("def f(x): return x", "for i in range(3000): assert f(i) == i"),
    "many_questions_wrong": ("def f(x): return x if x < 2500 else 0", "for i in range(3000): assert f(i) == i", "fail"),
    "while_true": ("def f(x): return x < 5", "i = 0\nwhile f(i): i += 1\nassert i == 5"),
    "counts_down": ("def f(x): return 9", "r = f(1)\nwhile r > 0: r -= 1\nassert r == 0"),
    "constant": ("LIMIT = 3\ndef f(): return LIMIT", "assert f() == LIMIT"),
    "missing": ("def g(): return 1", "assert f() == 1", "error"),
    "late_error": ("def f(x): return 1 // (3 - x)", "assert f(1) == 0\nassert f(2) == 1\nassert f(3) == 0", "error"),
    "wrong_before_error": ("def f(x): return 1 // (3 - x)", "assert f(1) == 1\nassert f(3) == 0", "fail"),
    "wrong_before_loop": ("def f(x):\n while x > 1: pass\n return 0", "assert f(0) == 1\nassert f(2) == 0", "fail"),
    "wrong_before_exit": ("import os\ndef f(x):\n if x: os._exit(0)\n return 0", "assert f(0) == 1\nassert f(2) == 0", "fail"),
    "nan": ("def f(): return float('nan')", "assert f() != f()"),
    "chained": ("def f(x): return x", "assert 1 <= f(2) <= 3\nassert f(1) == f(1) == 1"),
    "tuple_is_no_list": ("def f(): return (1, 2)", "assert f() == [1, 2]", "fail"),
    "same_object": ("def f(a): return a", "a = [1]\nassert f(a) is not None and f(a) == a"),
    "deep_copy": ("def f(a): return a[0]", "import copy\na = [[1]]\nassert copy.deepcopy(f(a)) == [1]"),
    "default_dict": ("def f(d): return d['x']", "from collections import defaultdict\nassert f(defaultdict(int, x=2)) == 2"),
    "bytearray": ("def f(b): return type(b).__name__ + str(len(b))", "assert f(bytearray(b'ab')) == 'bytearray2'\nassert f(b'ab') == 'bytes2'"),
    "counter": ("def f(s):\n from collections import Counter\n return Counter(s)", "from collections import Counter\nassert f('aab') == Counter('aab') == {'a': 2, 'b': 1}"),
}


@pytest.mark.parametrize("options", [{}, {"share": 1}, {"strict": False}, {"tier": "D"}], ids=str)
def test_no_foresight_changes_a_verdict(options):
    if options.get("tier", "D") not in TIERS:
        pytest.skip("no such tier")
    jobs = [Job(name, program, (test,), limits=Limits(cpu_s=1, wall_s=5)) for name, (program, test, *_) in FORESIGHT.items()]
    wrong = []
    for result in execute(jobs, workers=2, **options):
        expected = (*FORESIGHT[result.id][2:], "pass")[0]
        refused = options.get("tier") == "D" and "refused at tier D" in result.detail
        if result.status != expected and not refused:
            wrong.append(f"{result.id}: {result.status} ({result.detail}), expected {expected}")
    assert not wrong, "\n".join(wrong)
