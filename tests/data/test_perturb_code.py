"""Comments, docstrings, signatures, noise, mistakes and structured controls: what goes, what stays, at which rate."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.types import Example
from leaven.data.perturb import Skip, perturb_code, perturb_examples
from leaven.data.perturb.noise import KINDS
from leaven.data.perturb.strip import without_comments, without_docstrings, without_signatures
from leaven.data.perturb.structure import brackets, json_text

CODE = '''#!/usr/bin/env python
"""Module."""
@cache
def add(a: int,  # first
        b: int = 2) -> int:
    """Add.

    Twice é, # not a comment."""
    # alone
    total = "#é" + b  # tail
    def inner(x): return x
    text = """two
  lines"""
    if total:
        class Deep:
            "only a docstring"
        return [  # open
            1,
    2]
    return total


class Box:
    """B"""
    size = 1
    def m(self): "doc"; return 2
'''


def comments_of(code: str) -> list[str]:
    return [t.string for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type == tokenize.COMMENT]


def apply(operation: object, code: str = CODE, key: str = "k", seed: int = 0) -> str:
    new, outcome, reason = perturb_code(code, [operation], seed, key)
    assert outcome == "changed", reason
    return new


# ---- comments and docstrings ---------------------------------------------------------------------------------------


def test_comments_go_and_the_tree_stays_equal() -> None:
    new, removed = without_comments(CODE)
    assert removed == len(comments_of(CODE)) == 5 and comments_of(new) == []
    assert ast.dump(ast.parse(new)) == ast.dump(ast.parse(CODE))
    assert "# not a comment" in new and '"#é"' in new and "\n\n    text" not in new
    assert without_comments(new) == (new, 0)


def test_docstrings_are_a_switch_of_their_own() -> None:
    new, removed = without_docstrings(CODE)
    assert removed == 5 and comments_of(new) == comments_of(CODE)
    tree = ast.parse(new)
    assert not any(ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module))
    assert new.replace("pass; ", "").count("pass") == 1  # where a docstring was all there was
    assert 'text = """two\n  lines"""' in new


@pytest.mark.parametrize(
    ("remove", "code", "why"),
    [
        (without_comments, "# a\n# b\n", "nothing but comments"),
        (without_comments, "def f(:\n", "does not parse"),
        (without_comments, "  \n", "no code"),
        (without_docstrings, '"""only"""\n', "nothing but docstrings"),
        (without_docstrings, 'def f():\n    "d"\n    return f.__doc__\n', "reads __doc__"),
    ],
)
def test_what_cannot_be_stripped_is_skipped_with_a_reason(remove, code: str, why: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Skip, match=why):
        remove(code)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            ["x = 1", "  # c\n", "# c", "\n", "if x:\n", "    y = '#'\n", "    # d\n", "f(a,  # e\n  b)\n", '"""d # no"""\n', "def g():\n",
             "    'doc'  # z\n", "    return 1 # é\n", "\\\n", "class A: 'a'\n", "\r\n", "\f", "\t# t\n"]
        ),
        max_size=10,
    ).map("".join)
)  # fmt: skip
def test_stripping_random_layouts_keeps_the_program(code: str) -> None:
    for remove in (
        without_comments,
        without_docstrings,
        lambda c: without_signatures(c, "cut"),
        lambda c: without_signatures(c, "placeholder"),
    ):
        try:
            new, removed = remove(code)
        except Skip:
            continue
        ast.parse(new)
        assert removed or new == code.replace("\r\n", "\n").replace("\r", "\n")
        if remove is without_comments:
            assert ast.dump(ast.parse(new)) == ast.dump(ast.parse(code)) and not comments_of(new)


# ---- signatures ----------------------------------------------------------------------------------------------------


def test_cut_signatures_leave_every_statement_of_the_bodies() -> None:
    code = (
        "x = 0\n@d\ndef f(a,\n      b):\n    y = a\n\n    for i in b:\n        y += i  # sum\n    return y\n"
        "class A(B):\n    z = 1\n    def m(self): return self.z\n"
    )
    assert without_signatures(code, "cut") == ("x = 0\ny = a\n\nfor i in b:\n    y += i  # sum\nreturn y\nz = 1\nreturn self.z\n", 3)


def test_placeholders_keep_layout_and_bodies() -> None:
    code = (
        "@d\ndef f(a, b=lambda: {1: 2}) -> dict[str, int]:  # c\n    return a\n"
        "async def g(): await f()\nclass A(B, metaclass=M):\n    z = 1\n"
    )
    assert without_signatures(code, "placeholder") == (
        "def placeholder():  # c\n    return a\nasync def placeholder(): await f()\nclass Placeholder:\n    z = 1\n",
        3,
    )


def test_lines_within_strings_are_not_moved() -> None:
    new, _ = without_signatures(CODE, "cut")
    assert 'text = """two\n  lines"""' in new and "\nif total:\n" in new and "def " not in new and "class " not in new


# ---- noise ---------------------------------------------------------------------------------------------------------

PROGRAMS = [
    Example(
        id=str(i),
        source="s",
        code=f"def f(a, *b):\n    c = a * {i} + len(b) - 1\n    if c > 2 and a <= {i}:\n        return c\n    return [a, -c]\n",
    )
    for i in range(60)
]


@pytest.mark.parametrize("kinds", [[k] for k in KINDS] + [list(KINDS)])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3])
def test_the_measured_rate_is_the_one_asked_for(kinds: list[str], rate: float) -> None:
    operation = {"name": "noise", "rate": rate, "options": {"kinds": kinds}}
    _, rows = perturb_examples(PROGRAMS, [operation], 0, prove=False)
    sites, edits = sum(r["sites"] for r in rows), sum(r["edits"] for r in rows)
    assert sites > 0 and abs(edits / sites - rate) < max(0.02, 1.2 * (len(rows) / 2) ** 0.5 / sites)


def tokens(code: str) -> Counter[str]:
    return Counter(re.findall(r"\w+|\*\*|//|[<>=!]=|\S", code))


def test_each_kind_of_noise_does_what_it_says() -> None:
    for example in PROGRAMS[:20]:
        before = tokens(example.code)
        dropped = apply({"name": "noise", "rate": 0.3, "options": {"kinds": ["drop_token"]}}, example.code, example.id)
        assert before - tokens(dropped) and not tokens(dropped) - before, dropped
        flipped = apply({"name": "noise", "rate": 0.6, "options": {"kinds": ["flip_operator"]}}, example.code, example.id)
        assert (before - tokens(flipped)).total() == (tokens(flipped) - before).total() > 0 and ast.parse(flipped)
        returned = apply({"name": "noise", "rate": 1.0, "options": {"kinds": ["wrong_return"]}}, example.code, example.id)
        differ = [(o, n) for o, n in zip(example.code.split("\n"), returned.split("\n"), strict=True) if o != n]
        assert len(differ) == 2 and all("return" in n for _, n in differ) and ast.parse(returned)
        style = apply({"name": "noise", "rate": 0.5, "options": {"kinds": ["style"]}}, example.code, example.id)
        assert style != example.code and ast.dump(ast.parse(style)) == ast.dump(ast.parse(example.code))


def test_operators_flip_only_where_they_are_binary() -> None:
    code = "def f(*a, **k):\n    return g(*a, **k)[-1] * 2\n"
    assert apply({"name": "noise", "rate": 1.0, "options": {"kinds": ["flip_operator"]}}, code) in (
        code.replace("* 2", "+ 2"),
        code.replace("* 2", "// 2"),
    )


# ---- mistakes ------------------------------------------------------------------------------------------------------


def test_every_broken_program_fails_its_tests_and_differs_by_a_small_mistake() -> None:
    code = (
        "def f(values, limit):\n    total = 0\n    for value in values:\n"
        "        if value > limit:\n            total += value * 2\n    return total\n"
    )
    tests = ("assert f([1, 5, 2], 1) == 14", "assert f([], 3) == 0", "assert f([4, 4], 3) == 16")
    examples = [Example(id=str(i), source="s", code=code, tests=tests) for i in range(40)]
    broken, rows = perturb_examples(examples, ["inconsistent"], 0)
    assert [b.id for b in broken] == [e.id for e in examples]
    assert {(r["outcome"], r["status_before"]) for r in rows} == {("changed", "pass")}
    assert {r["status_after"] for r in rows} <= {"fail", "error"} and sum(r["status_after"] == "fail" for r in rows) > 35
    assert len({b.code for b in broken}) > 10 and all(ast.parse(b.code) for b in broken)
    assert all(b.code.count("\n") == code.count("\n") for b in broken)


@pytest.mark.parametrize(
    ("code", "tests", "outcome", "reason"),
    [
        ("def f(x):\n    return x + 1\n", (), "skipped", "no tests"),
        ("def f(x):\n    return x\n", ("assert f(1) == 1",), "skipped", "nothing to mutate"),
        ("def f(x):\n    return x + 1\n", ("assert f(1) == 7",), "unchanged", "fails already"),
        ("def f(x):\n    while True: pass\n", ("assert True",), "skipped", "no mistake made a test fail"),
        ("def f(x):\n    return x +\n", ("assert f(1)",), "skipped", "does not parse"),
    ],
)
def test_what_cannot_be_broken_says_why(code: str, tests: tuple[str, ...], outcome: str, reason: str) -> None:
    example = Example(id="x", source="s", code=code, tests=tests)
    (same,), (row,) = perturb_examples([example], [{"name": "inconsistent", "options": {"mistakes": ["operator", "constant"]}}], 0)
    assert same == example and row["outcome"] == outcome and row["reason"].startswith(reason)


# ---- structured controls -------------------------------------------------------------------------------------------


def test_controls_keep_the_size_and_are_no_code() -> None:
    size = len(re.findall(r"\w+|[^\w\s]", PROGRAMS[7].code))
    shuffled = apply({"name": "structure"}, PROGRAMS[7].code)
    assert Counter(re.findall(r"\w+|[^\w\s]", shuffled)) == Counter(re.findall(r"\w+|[^\w\s]", PROGRAMS[7].code))
    lines = apply({"name": "structure", "options": {"form": "shuffled_lines"}}, PROGRAMS[7].code)
    assert sorted(lines.split("\n")) == sorted(PROGRAMS[7].code.split("\n")) and lines != PROGRAMS[7].code
    nested = apply({"name": "structure", "options": {"form": "brackets"}}, PROGRAMS[7].code).split()
    assert abs(len(nested) - size) <= 3
    data = apply({"name": "structure", "options": {"form": "json"}}, PROGRAMS[7].code)
    assert json.loads(data) and abs(len(re.findall(r'"\w+"|\d+|[][{}:,]', data)) - size) <= 15


@given(st.integers(0, 200), st.integers(0, 10**6))
def test_brackets_balance_and_generators_repeat(count: int, seed: int) -> None:
    text = brackets(count, Random(seed))
    assert text == brackets(count, Random(seed)) and len(text.split()) == count // 2 * 2
    stack: list[str] = []
    for bracket in text.split():
        if bracket in "([{<":
            stack.append(bracket)
        else:
            assert stack.pop() + bracket in ("()", "[]", "{}", "<>")
    assert not stack
    assert json_text(count, Random(seed)) == json_text(count, Random(seed))
