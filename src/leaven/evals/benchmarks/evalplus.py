"""EvalPlus rows -> test texts: what HumanEval+ and MBPP+ share (Liu et al. 2023; rules of release 0.3.1).

A row holds inputs and a reference solution. The reference runs beside the expected values, in the judge, never in the answer's process;
each answer is compared by EvalPlus's rules: equal, or close to rtol 1e-7 and the task's atol where floats are expected, and the special
rules of fourteen tasks. Two differences: the tolerance for floats does not stay on for later answers of a task, and time is CPU time of
the whole task. Texts are (common part, base inputs, plus inputs). The Hugging Face files, whose tests are one text that imports numpy,
run with the few functions of it that they use.
Not covered: which benchmark a row belongs to (humaneval_plus.py, mbpp_plus.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leaven.evals.benchmarks.rows import broken, required

COMPARE = """
def _close(found, wanted, atol):
    if isinstance(wanted, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            return False
        return all([_close(f, w, atol) for f, w in zip(found, wanted)])
    for one in (found, wanted):
        if not isinstance(one, (int, float, complex)):
            return False
    finite = abs(wanted) < float("inf")
    return found == wanted or (finite and abs(found - wanted) <= atol + 1e-07 * abs(wanted))

def _floats(value):
    if isinstance(value, (list, tuple)):
        return bool(value) and all([isinstance(v, float) for v in value])
    return isinstance(value, float)

def _same(found, wanted, atol):
    if found == wanted:
        return True
    if atol == 0 and _floats(wanted):
        atol = 1e-06
    return atol != 0 and type(found) == type(wanted) and _close(found, wanted, atol)
"""
"""numpy.allclose for plain data, and EvalPlus's rule of when to use it."""

NUMPY = """
class np:
    class ndarray: pass
    inf = float("inf")
    nan = float("nan")
    @staticmethod
    def allclose(found, wanted, rtol, atol):
        return _close(found, wanted, atol)
"""
"""What the Hugging Face test texts use of numpy; nothing they see is an array."""

RULES = {
    "find_zero": "abs(sum([c * math.pow(found, i) for i, c in enumerate(given[0])])) <= atol",
    "are_equivalent": "True",
    "sum_div": "_same(found, wanted, atol) or found == 0",
    "surface_Area": "_same(found, wanted, atol) or abs(found - _by_height(*given)) <= atol",
    "digit_distance_nums": "_same(found, wanted, atol) or found == _padded_distance(*given)",
    **dict.fromkeys(
        ("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum")
        + ("intersection_array", "find_dissimilar", "Diff"),
        "set(found) == set(wanted)",
    ),
    **dict.fromkeys(
        ("check_str", "text_match_three", "text_starta_endb"),
        "(found if isinstance(found, bool) else found is not None) == (wanted is not None)",
    ),
}
"""Entry point -> when an answer counts, where that is not `_same`. Only `find_zero` belongs to HumanEval+."""

OTHER_READINGS = """
def _by_height(edge, height):
    return round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2))

def _padded_distance(first, second):
    first, second = str(first), str(second)
    size = max(len(first), len(second))
    return sum([abs(int(a) - int(b)) for a, b in zip(first.zfill(size), second.zfill(size))])
"""
"""Readings of Mbpp/581 and Mbpp/558 that EvalPlus accepts beside the reference's."""

RUN = """
import copy
import json
import math

_answer = {entry}

def _decoded(value):
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    if isinstance(value, dict) and len(value) == 1:
        (tag, inner), = value.items()
        if tag == "(tuple)":
            return tuple(_decoded(inner))
        if tag == "(set)":
            return set(_decoded(inner))
        if tag == "(complex)":
            return complex(inner)
    if isinstance(value, dict):
        return {{k: _decoded(v) for k, v in value.items()}}
    return value

def _check(text):
    atol = {atol}
    for number, given in enumerate(_decoded(json.loads(text))):
        found = _answer(*copy.deepcopy(given))
        wanted = {reference}(*copy.deepcopy(given))
        assert {rule}, "input %d: expected %s" % (number, str(wanted)[:100])
"""


def plus_tests(row: Mapping[str, Any], index: int, name: str, inputs: Callable[[Sequence[Any]], list[Any]]) -> tuple[str, str, str]:
    """Return (common part, base tests, plus tests) of an EvalPlus row.

    Args:
        row: A row with prompt, canonical_solution, entry_point, base_input, plus_input and atol.
        index: Its number, for errors.
        name: The benchmark, for errors.
        inputs: Rebuilds argument lists that JSON could not hold (tuples, sets, complex numbers) as tagged JSON.

    Raises:
        DataError: When a column is missing or no list.
    """
    entry = required(row, "entry_point", index, name, kind=str)
    reference = required(row, "prompt", index, name, kind=str) + required(row, "canonical_solution", index, name, kind=str)
    atol = required(row, "atol", index, name, kind=(int, float))
    common = RUN.format(entry=entry, atol=repr(atol), reference=entry, rule=RULES.get(entry, "_same(found, wanted, atol)"))
    parts = []
    for column in ("base_input", "plus_input"):
        given = required(row, column, index, name, kind=list) if row.get(column) != {} else []
        if not all(isinstance(arguments, list) for arguments in given):
            raise broken(name, index, f"expected lists of arguments in column {column!r}, found {str(given)[:80]}")
        parts.append(f"_check({json.dumps(inputs(given))!r})\n")
    # the answer is put aside before the reference takes its name
    return common + COMPARE + OTHER_READINGS + reference + "\n", parts[0], parts[1]


def numpy_free(test: str) -> str:
    """Return a Hugging Face test text with stand-ins for the functions of numpy it uses."""
    return COMPARE + NUMPY + "\n".join(line for line in test.split("\n") if line.strip() != "import numpy as np") + "\n"
