"""The identifier attack: what is renamed, what is kept and why, and that programs still pass their tests."""

from __future__ import annotations

import ast
import re

import pytest

from leaven.core.sandbox import Job, execute
from leaven.core.types import Example
from leaven.data.perturb import perturb_code, perturb_examples

EVERYTHING = ["variables", "parameters", "functions", "classes"]


def renamed(code: str, tests: tuple[str, ...] = (), kinds: list[str] | None = None, entry: str = "", **options: object) -> tuple[str, str]:
    """Return the renamed code and what was not renamed, or the reason for skipping."""
    example = Example(id="e", source="s", code=code, tests=tests, entry_point=entry)
    operation = {"name": "rename_identifiers", "options": {"kinds": kinds or EVERYTHING[:2], **options}}
    (new,), (row,) = perturb_examples([example], [operation], 0, prove=False)
    return new.code, row["reason"] if row["outcome"] != "skipped" else f"skipped: {row['reason']}"


def words(code: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", code))


PROGRAMS = {
    "closure": (
        "def f(n):\n    count = 0\n    def step(by=1):\n        nonlocal count\n        count += by\n        return count\n"
        "    for _ in range(n):\n        step()\n    return step(by=2)\n",
        ("assert f(3) == 5",),
        {"count", "step", "n", "by"},
    ),
    "comprehension": (
        "def f(rows):\n    total = [x for x in rows if x]\n    x = 7\n    grid = {k: [v for v in range(k)] for k in total}\n"
        "    return [x, *total, *sorted(grid), max(y for y in total)]\n",
        ("assert f([2, 0, 1]) == [7, 2, 1, 1, 2, 2]",),
        {"rows", "total", "x", "grid", "k", "v", "y"},
    ),
    "global": (
        "calls = 0\nLIMIT = 2\ndef f(n):\n    global calls\n    calls = calls + n\n    return min(calls, LIMIT)\n",
        ("assert f(1) == 1", "assert f(5) == 2"),
        {"calls", "LIMIT", "n"},
    ),
    "keywords": (
        "def area(width, *, height=2, **rest):\n    return width * height + sum(rest.values())\n"
        "def f(size):\n    return area(width=size, height=size) + area(size)\n",
        ("assert f(3) == 15",),
        {"width", "height", "rest", "size", "area"},
    ),
    "f-strings": (
        "def f(name, width):\n    word = name.upper()\n"
        "    return f\"{word!r:>{width}}\" f'''\n{name}\n    {[c for c in name]}''' + f\"{word}{word}\"\n",
        ("assert f('ab', 6) == \"  'AB'\\nab\\n    ['a', 'b']ABAB\"",),
        {"word", "width", "c"},
    ),
    "class attributes": (
        "class Box:\n    size = 3\n    scale = size * 2\n    def __init__(self, size):\n        self.size = size\n"
        "    def grown(self, by):\n        return Box(size=self.size + by)\n"
        "def f(size):\n    box = Box(size=size)\n    return box.grown(1).size + Box.size + box.scale\n",
        ("assert f(4) == 14",),
        {"by", "box", "Box"},
    ),
    "star-args and lambdas": (
        "def f(first, /, *others, key=lambda value, power=2: value ** power):\n    head, *tail = others\n"
        "    return first + head + sum(map(key, tail))\n",
        ("assert f(1, 2, 3) == 12",),
        {"first", "others", "value", "power", "head", "tail"},
    ),
    "match": (
        "def f(shape):\n    match shape:\n        case {'kind': kind, **more}:\n            return [kind, more]\n"
        "        case [first, *rest] if first:\n            return rest\n        case (int() | str()) as other:\n            return other\n"
        "        case _:\n            return None\n",
        ("assert f({'kind': 1, 'a': 2}) == [1, {'a': 2}]", "assert f([1, 2]) == [2]", "assert f(5) == 5"),
        {"shape", "kind", "more", "first", "rest", "other"},
    ),
    "walrus": (
        "def f(values):\n    hits = [y := 2 * x for x in values if (last := x) > 1]\n    return [*hits, y, last]\n",
        ("assert f([1, 2, 3]) == [4, 6, 6, 3]",),
        {"values", "hits", "y", "x", "last"},
    ),
    "decorators and hints": (
        "from functools import lru_cache, wraps\nfrom typing import Optional\ndef twice(function):\n    @wraps(function)\n"
        "    def wrapper(*args, **kwargs):\n        return 2 * function(*args, **kwargs)\n    return wrapper\n"
        "@twice\ndef g(number: 'int', extra: Optional[int] = None) -> int:\n    result: int = number + (extra or 0)\n    return result\n"
        "@lru_cache(maxsize=None)\ndef f(value):\n    return g(number=value, extra=1) + g(value)\n",
        ("assert f(3) == 14",),
        {"function", "wrapper", "args", "kwargs", "result", "value", "twice"},
    ),
    "exceptions, with and del": (
        "from contextlib import suppress\ndef f(data):\n    try:\n        item = data['a']\n    except (KeyError, TypeError) as error:\n"
        "        item = type(error).__name__\n    with suppress(ValueError) as nothing:\n        number = int(item)\n        del number\n"
        "    return [item, nothing]\n",
        ("assert f({}) == ['KeyError', None]",),
        {"item", "error", "nothing", "number"},
    ),
    "async and generators": (
        "def pairs(limit):\n    for left in range(limit):\n        got = yield left, left + 1\n        del got\n"
        "def f(limit):\n    return sum(a * b for a, b in pairs(limit=limit))\n",
        ("assert f(3) == 8",),
        {"limit", "left", "got", "a", "b", "pairs"},
    ),
    "unicode": (
        'def f(größe):\n    é = "ü" * größe; naïve = [é for é in é]\n    return naïve + [é]  # é\n',
        ("assert f(2) == ['ü', 'ü', 'üü']",),
        {"größe", "naïve"},
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_original_name_is_left_and_the_tests_pass(name: str) -> None:
    code, tests, gone = PROGRAMS[name]
    example = Example(id=name, source="s", code=code, tests=tests, entry_point="f")
    (new,), (row,) = perturb_examples([example], [{"name": "rename_identifiers", "options": {"kinds": EVERYTHING}}], 3)
    assert (row["outcome"], row["status_before"], row["status_after"]) == ("changed", "pass", "pass")
    names = {n.id for n in ast.walk(ast.parse(new.code)) if isinstance(n, ast.Name)}
    names |= {n.arg for n in ast.walk(ast.parse(new.code)) if isinstance(n, ast.arg | ast.keyword)}
    assert not gone & names
    assert new.tests == tests and new.id == example.id and new.question == example.question


def test_layout_and_comments_stay() -> None:
    code = "def f( total,x ) :  # total\n\tkept  =  (total+\n  x)\n\treturn kept\n"
    new, _ = renamed(code, entry="f", tests=("assert f(1, 2) == 3",))
    shape = re.compile(r"[A-Za-z_]\w*")
    assert shape.sub("N", new) == shape.sub("N", code) and "# total" in new


@pytest.mark.parametrize(
    ("code", "tests", "kept", "gone"),
    [
        ("def f(data, key=None):\n    return sorted(data, key=key)\n", ("assert f(data=[2, 1]) == [1, 2]",), "data", ""),
        ("import g\ndef f(n, width):\n    return g(width=n)\n", (), "width g", "n"),
        ("RATE = 2\nother = 3\ndef f(n):\n    return getattr(__import__('m'), 'RATE') + n\n", (), "RATE", "other n"),
        ("def f(n, k):\n    '''Add.\n\n    >>> f(n=limit)\n    3\n    '''\n    return k\nlimit = 3\n", (), "n limit", "k"),
        ("import click\n@click.command()\ndef f(count):\n    total = count\n    return total\n", (), "count", "total"),
        ("from m import B\nclass A(B):\n    def on(self, tag):\n        inner = tag\n        return inner\n", (), "tag self", "inner"),
        ("from lib import *\nx = 3\ndef f():\n    y = x\n    return y\n", (), "x", "y"),
        ("max = max\ndef f(a):\n    return max(a)\n", (), "max", "a"),
        ("def f(a, b):\n    return f'{a=} {b}'\n", ("assert f(1, 2)",), "a", "b"),
        ("x = 1\nclass A:\n    x = x\ndef f():\n    y = 2\n    return y\n", (), "x", "y"),
        ("def f(**more):\n    z = {'size': 1}\n    return g(**z)\ndef g(size):\n    return size\n", (), "size", "more z"),
        ("class A:\n    value = 1\n    def m(self):\n        return self.value\n", (), "value m A", "self"),
        ("__all__ = ['one']\none = 1\ntwo = one\n", (), "one __all__", "two"),
        ("from timeit import timeit\ndata = [1]\nz = 2\ntimeit('sum(data)', 'from __main__ import data')\n", (), "data", "z"),
    ],
)
def test_names_that_something_outside_could_use_are_kept(code: str, tests: tuple[str, ...], kept: str, gone: str) -> None:
    new, _ = renamed(code, tests)
    assert set(kept.split()) <= words(new) and not set(gone.split()) & words(new)


@pytest.mark.parametrize(
    "user", ["exec('x = 1')", "eval('n')", "locals()", "globals()", "vars()", "dir()", "f.__code__", "(vars := locals)"]
)
def test_programs_that_look_names_up_are_skipped(user: str) -> None:
    code = f"def f(n):\n    return {user}\n"
    new, reason = renamed(code)
    assert new == code and reason.startswith("skipped: looks names up as it runs")


def test_an_own_function_called_eval_is_no_reason_to_skip() -> None:
    new, _ = renamed("def eval(tree):\n    node = tree\n    return node\ndef f(n):\n    return eval(n)\n")
    assert not {"tree", "node", "n"} & words(new)


def test_functions_and_classes_that_something_knows_by_name_are_kept() -> None:
    code = (
        "import pytest\nfrom dataclasses import dataclass\n@pytest.fixture\ndef data():\n    return 1\n"
        "@dataclass\nclass Point:\n    x: int\ndef helper(n):\n    return n\n"
        "def test_it(data):\n    assert helper(data) and Point(x=data)\n"
    )
    new, _ = renamed(code, kinds=EVERYTHING)
    assert {"data", "Point", "test_it", "x"} <= words(new) and not {"helper", "n"} & words(new)
    new, _ = renamed(code + "print(helper.__name__)\n", kinds=EVERYTHING)
    assert "helper" in words(new) and "n" not in words(new)


def test_the_entry_point_keeps_its_name_unless_asked() -> None:
    code, tests = (
        "def add(a, b):\n    return helper(a) + b\ndef helper(a):\n    return a\n",
        ("assert add(1, 2) == 3", "assert not add(0, 0)"),
    )
    example = Example(id="e", source="s", code=code, tests=tests, entry_point="add")
    options = {"kinds": EVERYTHING}
    (same,), _ = perturb_examples([example], [{"name": "rename_identifiers", "options": options}], 0)
    assert "def add(" in same.code and "helper" not in same.code and same.tests == tests
    (other,), (row,) = perturb_examples([example], [{"name": "rename_identifiers", "options": {**options, "entry_point": True}}], 0)
    assert "add" not in words(other.code) | words(" ".join(other.tests)) and other.entry_point in words(other.code)
    assert row["status_after"] == "pass"


def test_without_tests_at_hand_the_parameters_of_the_entry_point_stay() -> None:
    code = "class Solution:\n    def twoSum(self, nums, target):\n        seen = nums\n        return seen\n"
    new, outcome, _ = perturb_code(code, ["rename_identifiers"], 0, "k", entry_point="Solution.twoSum")
    assert outcome == "changed" and {"nums", "target"} <= words(new) and "seen" not in words(new)
    new, _, _ = perturb_code(code, ["rename_identifiers"], 0, "k", "Solution.twoSum", tests=("assert Solution().twoSum([1], target=2)",))
    assert "target" in words(new) and "nums" not in words(new)


def test_draws_depend_on_seed_and_id_alone_and_words_come_from_a_closed_list() -> None:
    code = "def f(x):\n    y = x\n    return y\n"
    examples = [Example(id=str(i), source="s", code=code) for i in range(60)]
    operation = {"name": "rename_identifiers", "options": {"names": 5}}
    first = [e.code for e in perturb_examples(examples, [operation], 0, prove=False)[0]]
    again = [e.code for e in perturb_examples(examples[::-1], [operation], 0, prove=False)[0]][::-1]
    assert first == again and len(set(first)) > 5
    assert len(words(" ".join(first)) - {"def", "f", "return"}) == 5
    assert first != [e.code for e in perturb_examples(examples, [operation], 1, prove=False)[0]]


def test_more_names_than_the_list_has_are_still_different() -> None:
    code = "def f():\n" + "".join(f"    v{i} = {i}\n" for i in range(50)) + "    return " + " + ".join(f"v{i}" for i in range(50)) + "\n"
    new, _ = renamed(code, names=3)
    (result,) = execute([Job(id="x", program=new, tests=("assert f() == 1225",))])
    assert result.status == "pass" and not re.search(r"\bv\d", new)
