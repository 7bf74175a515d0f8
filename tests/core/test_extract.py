"""Code and answers come out of model text whatever stands around them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.extract import extract_answer, extract_code, extract_completion, normalise_number

CODE = '''from typing import List

def helper(x):
    x += 1

    return x

def solve(xs: List[int]) -> int:
    """Add up.

    if nothing is there, 0
    """
    total = 0
    for x in xs:
        total += helper(x)
    return total
'''
NO_RETURN = "def solve(xs):\n    xs.append(1)\n"
WORDS = st.sampled_from("first we look at the list, then for each item if it is large we import it: def while class "
                        "is a word and return the (sum) of [all] x = y things; note that `solve` matters".split())
PROSE = st.lists(WORDS, min_size=4, max_size=12).map(" ".join).filter(lambda s: not _python(s))
CODE_LIKE = st.sampled_from(["assert solve([]) == 1", "import torch", "print(solve([1]))", "total = 5", "xs = [1, 2]",
                             "for x in [1]: solve(x)", "def other(x): return x", "result = solve([3])", "solve([1],"])
THOUGHT = st.lists(st.one_of(PROSE, CODE_LIKE, PROSE.map(lambda s: "- " + s), st.just("")), max_size=30)


def _python(line):
    try:
        compile(line, "", "exec")
    except SyntaxError:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(before=THOUGHT, after=THOUGHT, fenced=st.booleans(), code=st.sampled_from([CODE, NO_RETURN]))
def test_thought_around_the_code_changes_nothing(before, after, fenced, code):
    middle = f"```python\n{code}```" if fenced else code
    text = "\n".join([*before, "", middle, "", *after])
    found = extract_code(text, "solve")
    assert found.ok
    assert found.code == code


@pytest.mark.parametrize("lines", [0, 1, 500])
@pytest.mark.parametrize("fence", ["```python", "```", "~~~py", ""])
@pytest.mark.parametrize("code_first", [True, False])
def test_500_lines_of_thought(lines, fence, code_first):
    thought = "\n".join(f"Step {i}: we look at element {i}, if it is larger we keep it." for i in range(lines))
    code = f"{fence}\n{CODE}{fence[:3]}" if fence else CODE
    text = "\n\n".join([code, thought] if code_first else [thought, code])
    assert extract_code(text, "solve").code == CODE


def test_the_block_that_defines_the_entry_point_wins_over_later_ones():
    text = f"```python\n{CODE}```\nUsage:\n```python\nprint(solve([1]))\n```\n```\nsolve([1]) gives 2\n```"
    assert extract_code(text, "solve").code == CODE
    later = text + "\nBetter:\n```python\ndef solve(xs):\n    return 0\n```"
    assert extract_code(later, "solve").code == "def solve(xs):\n    return 0\n"


def test_a_truncated_block_is_cut_back_to_what_parses():
    found = extract_code(f"Sure!\n```python\n{CODE}\ndef more(x:\n    if x", "solve")
    assert found.ok and found.strategy == "fence_repaired_entry_point"
    assert found.code == CODE


def test_a_script_without_fences_keeps_its_calls():
    code = "n = int(input())\nfor i in range(n):\n    print(i)\nprint('done')\n"
    assert extract_code("Here is the program.\n" + code + "It prints the numbers.").code == code


@pytest.mark.parametrize("text", ["", "I cannot do that.", "Hello", "``` \n```", "\x00\x00", "((((" * 1000])
def test_nothing_found_is_not_ok(text):
    found = extract_code(text, "solve")
    assert not found.ok and found.code == "" and found.strategy == "none"


def test_indented_fences_crlf_and_nested_marks():
    text = "1. Do:\r\n   ```python\r\n   def solve(x):\r\n       return '```'\r\n   ```\r\n"
    assert extract_code(text, "solve").code == "def solve(x):\n    return '```'\n"


def test_other_languages_use_their_own_fence():
    text = "```python\nx = 1\n```\n```cpp\nint main() {}\n```\n```\n3\n```"
    assert extract_code(text, language="cpp").code == "int main() {}\n"


@pytest.mark.parametrize(("kind", "text", "value", "strategy"), [
    ("number", "She pays $1,000.00.\n#### 1,000", "1000", "hashes"),
    ("number", "So 3 + 4 = 7. The answer is 7.", "7", "marker"),
    ("number", "Answer: -2.50 dollars", "-2.5", "marker"),
    ("number", "first 3 then 12 apples", "12", "last_number"),
    ("number", "Thus \\boxed{\\text{about } 3.0}", "3", "boxed"),
    ("number", "The answer (arabic numerals) is 18%", "18", "marker"),
    ("number", "it is 3-4", "4", "last_number"),
    ("boxed", "\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "boxed"),
    ("choice", "Among A through E, the answer is (C).", "C", "marker"),
    ("choice", "A cat sat. It must be (B)", "B", "last_choice"),
    ("yes_no", "No wait. So the answer is yes", "yes", "marker"),
    ("yes_no", "Yes, because. No.", "no", "last_yes_no"),
    ("text", "We join the letters: n, y.\nThe answer is \"ny\".", "ny", "marker"),
    ("text", "thought\nred, blue\n", "red, blue", "last_line"),
])
def test_answers(kind, text, value, strategy):
    found = extract_answer(text, kind)
    assert (found.value, found.strategy, found.ok) == (value, strategy, True)


def test_labels_come_back_in_their_own_spelling():
    labels = ("True", "False", "Uncertain")
    assert extract_answer("this is uncertain; the answer is FALSE", "label", labels).value == "False"
    assert extract_answer("true or uncertain? UNCERTAIN", "label", labels).value == "Uncertain"


@pytest.mark.parametrize("kind", ["number", "choice", "yes_no", "boxed"])
def test_no_answer_is_not_ok(kind):
    assert not extract_answer("I do not know what to say", kind).ok


@given(st.integers(-10**12, 10**12))
def test_a_number_has_one_spelling(value):
    spellings = {str(value), f"{value:,}", f"{value}.0", f" {value}. "}
    assert {normalise_number(s) for s in spellings} == {str(value)}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_extraction(text):
    found = extract_code(text, "solve")
    assert found.ok == bool(found.code.strip())
    for kind in ("number", "choice", "yes_no", "label", "boxed", "text"):
        answer = extract_answer(text, kind)
        assert answer.ok or answer.value == ""


DEMONSTRATED = '''import sys
import json
from functools import lru_cache

sys.setrecursionlimit(10**6)
LIMIT = 10
cache: dict = {}
table = [0] * LIMIT
for i in range(LIMIT):
    table[i] = i

def helper(x):
    result = x + LIMIT
    return result

# the answer
@lru_cache(maxsize=None)
def solve(x):
    cache[x] = helper(x)
    return cache[x] + table[0]
'''


@pytest.mark.parametrize("after", [
    "assert solve(1) == 99\n", "print(solve(int(input())))\n", "result = solve(2)\nprint(result)\n",
    "import numpy as np\nnp.testing.assert_equal(solve(1), 99)\n", "for case in [1, 2]:\n    print(case, solve(case))\n",
    "def main():\n    print(solve(1))\n\nif __name__ == '__main__':\n    main()\n", "import nothing_called_this\n"])
@pytest.mark.parametrize("fenced", [True, False])
def test_demonstrations_are_left_out(after, fenced):
    text = f"```python\n{DEMONSTRATED}{after}```" if fenced else DEMONSTRATED + after
    found = extract_code(text, "solve")
    kept = DEMONSTRATED.replace("import json\n", "")
    assert found.code == kept
    assert found.strategy.endswith("_pruned")


def test_what_the_tests_ask_for_is_kept():
    code = "class Node:\n    pass\n\ndef solve(x):\n    return x\n"
    assert extract_code(code, "solve").code == "def solve(x):\n    return x\n"
    assert extract_code(code, "solve", needed=("Node",)).code == code
    by_text = "def helper():\n    return 1\n\ndef solve(name):\n    return globals()[name]()\n"
    assert extract_code(by_text, "solve").code == by_text


PROMPT = 'from typing import List\n\ndef helper(x):\n    return x\n\ndef solve(xs: List[int]) -> int:\n    """ Add up.\n    """\n'
BODY = "    total = 0\n    for x in xs:\n        total += helper(x)\n\n    return total\n"


@pytest.mark.parametrize("text", [
    BODY, BODY + "\nprint(solve([1]))\n", BODY + "\nThis adds up all numbers.\n", "\n\n" + BODY,
    "The body:\n```python\n" + BODY + "```\nIt adds up.", "1. " + "we think\n" * 500 + "```\n" + BODY + "```", BODY[4:]])
def test_a_body_continues_its_prompt(text):
    found = extract_completion(text, PROMPT, "solve")
    assert found.ok and "continuation" in found.strategy
    space: dict = {}
    exec(found.code, space)
    assert space["solve"]([1, 2, 3]) == 6


@pytest.mark.parametrize("text", ["", "I do not know.", "    \n", "```\n```", "Sure!\n- first we add up\n- then we stop",
                                  "nothing", "Hello\nworld", "x"])
def test_a_prompt_alone_is_no_answer(text):
    assert not extract_completion(text, PROMPT, "solve").ok


def test_a_whole_function_after_a_prompt_is_taken_whole():
    whole = PROMPT + BODY
    assert extract_completion(f"Here:\n```python\n{whole}```", PROMPT, "solve").code == whole
    method = 'class Solution:\n    def solve(self, x: int) -> int:\n        '
    found = extract_completion("return x + 1\n", method, "Solution")
    assert found.ok and found.code == method.rstrip(" ") + "        return x + 1\n"


HOSTILE = {
    "open brackets": "foo(\n" * 20_000,
    "open texts": 'x = """\n' * 20_001,
    "broken definitions": "def f(x:\n    return (\n" * 10_000,
    "nested": "(" * 100_000,
    "one long line": "a = " + "1 + " * 40_000,
    "fences": "```\n" * 20_001,
    "too long": "x = 1\n" * 400_000,
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_texts_end(kind):
    """Without a bound on the effort some of these take hours."""
    found = [extract_code(HOSTILE[kind], "solve"), extract_completion(HOSTILE[kind], PROMPT, "solve")]
    assert all(f.ok == bool(f.code.strip()) for f in found)


def test_a_text_too_long_to_parse_is_its_last_block_or_itself():
    long = "# filler\n" * 300_000
    assert extract_code(long, "solve").strategy == "too_long_to_parse"
    assert extract_code(f"{long}```python\n{CODE}```", "solve").code == CODE
