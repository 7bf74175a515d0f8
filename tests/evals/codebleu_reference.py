"""Program pairs -> what the package `codebleu` says of them: `python codebleu_reference.py > codebleu_reference.json`.

Needs `pip install codebleu==0.7.0 tree-sitter-python==0.21.0`. The package walks sets of names in hash order, so every pair is
scored under several hash seeds, and only pairs on which they agree are kept (all of these).
Not covered: running in the tests; they read the JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

LOOP = "def total(numbers):\n    result = 0\n    for number in numbers:\n        result += number\n    return result\n"
PAIRS: dict[str, tuple[list[str], str]] = {
    "identical": ([LOOP], LOOP),
    "renamed": (
        [LOOP],
        "def s(xs):\n    r = 0\n    for x in xs:\n        r += x\n    return r\n",
    ),
    "paper's example": (
        ["def add ( a , b ) :\n return a + b"],
        "def sum ( first , second ) :\n return second + first",
    ),
    "other program": ([LOOP], "def biggest(a, b):\n    if a > b:\n        return a\n    return b\n"),
    "comments and docstring": (
        ['def f(x):\n    """Double it."""\n    # twice\n    y = x * 2\n    return y\n'],
        "def f(x):\n    y = x * 2  # here\n    return y\n",
    ),
    "branches": (
        ["def sign(x):\n    if x > 0:\n        s = 1\n    elif x < 0:\n        s = -1\n    else:\n        s = 0\n    return s\n"],
        "def sign(x):\n    s = 0\n    if x > 0:\n        s = 1\n    if x < 0:\n        s = -1\n    return s\n",
    ),
    "comprehension": (
        ["def squares(n):\n    return [i * i for i in range(n) if i % 2]\n"],
        "def squares(n):\n    out = []\n    for i in range(n):\n        if i % 2:\n            out.append(i * i)\n    return out\n",
    ),
    "while": (
        ["def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n"],
        "def gcd(a, b):\n    while b != 0:\n        t = b\n        b = a % b\n        a = t\n    return a\n",
    ),
    "defaults and tuples": (
        ["def pair(a, b=1, *rest, key=None):\n    c, d = a, b\n    (e, f) = d, c\n    return e, f, rest, key\n"],
        "def pair(a, b=2, key=None):\n    c, d = b, a\n    return c, d, key\n",
    ),
    "class, lambda, try": (
        ["class A:\n    def m(self, x):\n        try:\n            g = lambda y: y + x\n            return g(self.k)\n"
         "        except KeyError as e:\n            raise ValueError(str(e))\n"],
        "class B:\n    def n(self, z):\n        try:\n            return z + self.k\n        except KeyError:\n            pass\n",
    ),
    "does not parse": ([LOOP], "def total(numbers:\n    result = 0\n    for number in\n        result += number\n"),
    "no data flow": (["pass"], "pass"),
    "one word": ([LOOP], "numbers"),
    "two references": (
        [LOOP, "def total(numbers):\n    return sum(numbers)\n"],
        "def total(values):\n    return sum(values)\n",
    ),
    "with, global, assert, subscript": (
        ["def w(path, table):\n    global seen\n    with open(path) as handle:\n        for i, line in enumerate(handle):\n"
         "            table[i] = line.strip()\n            seen = i\n    assert seen >= 0\n    return table\n"],
        "def w(path, table):\n    handle = open(path)\n    i = 0\n    for line in handle:\n        table[i] = line\n"
        "        i += 1\n    return table\n",
    ),
}


def scores() -> dict[str, dict[str, float]]:
    """Return the package's five numbers for every pair, and for the corpus of all."""
    from codebleu import calc_codebleu

    found = {name: calc_codebleu([refs], [hyp], lang="python") for name, (refs, hyp) in PAIRS.items()}
    corpus = calc_codebleu([refs for refs, _ in PAIRS.values()], [hyp for _, hyp in PAIRS.values()], lang="python")
    return found | {"corpus": corpus}


def main() -> None:
    """Print the scores on which ten hash seeds agree."""
    if "--one" in sys.argv:
        print(json.dumps(scores()))
        return
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, __file__, "--one"], env={**os.environ, "PYTHONHASHSEED": str(s)}, check=True, capture_output=True
            ).stdout
        )
        for s in range(10)
    ]
    assert all(run == runs[0] for run in runs), "a pair depends on the hash seed; choose another"
    made = "codebleu 0.7.0, tree-sitter 0.22.3, tree-sitter-python 0.21.0, Python 3.11"
    print(json.dumps({"made_with": made, "scores": runs[0]}, indent=1))


if __name__ == "__main__":
    main()
