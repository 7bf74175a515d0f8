"""Code -> code with a given share of its tokens corrupted: lost tokens, wrong operators, wrong returns, uneven layout.

Sites are the tokens to which at least one of the chosen kinds applies; the rate is a share of them. The number of edits
per example is the rate times its sites, rounded up or down at random with the right probability, so that the measured
rate of a source is the one asked for, whatever the lengths of its examples. Style noise alone keeps the meaning, which
is then proven by execution; with the other kinds the verdict is recorded.
Not covered: a single mistake that must break a test (broken.py), shuffled or unrelated text (structure.py).
"""

from __future__ import annotations

import ast
import keyword
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from leaven.core.types import Example
from leaven.data.perturb.broken import COMPARISONS, OPERATORS
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip
from leaven.data.perturb.program import Edit, Program, rewrite

KINDS = ("drop_token", "flip_operator", "wrong_return", "style")
_FLIPS = {**OPERATORS, **{k: v for k, v in COMPARISONS.items() if k.isascii() and not k[0].isalpha()}}
_FLIPS |= {f"{k}=": tuple(f"{v}=" for v in vs) for k, vs in OPERATORS.items() if not k[0].isalpha()}
_KEEP = {"|", "&"}  # in type hints these are not arithmetic, and tokens cannot tell
_SPACED = {"=", "+", "-", "*", "/", "//", "%", "**", "<", ">", "<=", ">=", "==", "!=", "+=", "-=", "*=", "->"}
_WRONG = ("None", "0", "False", '""', "[]", "-1")


@dataclass(frozen=True, slots=True)
class _Site:
    """A token that can be corrupted: its place among the words, and the kinds that apply."""

    place: int
    kinds: tuple[str, ...]


@PERTURBATIONS("noise")
class Noise:
    """Corrupt a share of the tokens of the code.

    Options:
        kinds: which corruptions to draw from (KINDS); each chosen token gets one that applies to it.
    """

    options: Mapping[str, Option] = {"kinds": Option(KINDS, KINDS)}
    rate_of = "tokens"
    on = "code"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "same" if list(options["kinds"]) == ["style"] else "anything"

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        program = Program(example.code)
        words = program.words()
        returns = _returns(program, words)
        sites = [s for place in range(len(words)) if (s := _site(place, words, returns, options["kinds"])).kinds]
        if not sites:
            raise Skip("no token that this noise applies to")
        wanted = options["rate"] * len(sites)
        edits = _draw(program, words, returns, sites, int(wanted + random.random()), random)
        if not edits:
            return Change(example, 0, len(sites))
        code = rewrite(program.code, edits)
        if not code.strip():
            raise Skip("no token would be left")
        return Change(replace(example, code=code), len(edits), len(sites))


Words = list[tuple[tokenize.TokenInfo, int, int]]


def _returns(program: Program, words: Words) -> dict[int, tuple[int, int]]:
    """Return the place of every `return` with a value -> (first, past the last) offset of that value."""
    starts = {first: place for place, (_, first, _) in enumerate(words)}
    nodes = [n for n in ast.walk(program.tree) if isinstance(n, ast.Return) and n.value is not None]
    return {starts[program.span(n)[0]]: (program.span(n.value)[0], program.span(n)[1]) for n in nodes if n.value}


def _site(place: int, words: Words, returns: Mapping[int, Any], kinds: list[str]) -> _Site:
    token = words[place][0]
    applies = {
        "drop_token": True,
        "flip_operator": token.string in _FLIPS and token.string not in _KEEP and _is_binary(place, words),
        "wrong_return": place in returns,
        "style": token.type == tokenize.OP and place > 0 and words[place - 1][0].end[0] == token.start[0],
    }
    return _Site(place, tuple(k for k in kinds if applies[k]))


def _is_binary(place: int, words: Words) -> bool:
    """Return whether the operator here has an operand before it (`*args` and `-1` have none)."""
    if place == 0:
        return False
    before = words[place - 1][0]
    if before.type in (tokenize.NUMBER, tokenize.STRING) or before.string in (")", "]", "}"):
        return True
    return before.type == tokenize.NAME and (not keyword.iskeyword(before.string) or before.string in ("True", "False", "None"))


def _draw(
    program: Program, words: Words, returns: Mapping[int, tuple[int, int]], sites: list[_Site], wanted: int, random: Random
) -> list[Edit]:
    """Return `wanted` edits at random sites; a site within an edited stretch gives way to another."""
    edits: list[Edit] = []
    taken: list[tuple[int, int]] = []
    for site in random.sample(sites, len(sites)):
        if len(edits) == wanted:
            break
        for kind in random.sample(site.kinds, len(site.kinds)):
            edit = _edit(kind, program.code, words, site.place, returns, random)
            first, last = min(edit[0], words[site.place][1]), max(edit[1], words[site.place][2])
            if all(last <= a or first >= b for a, b in taken):
                edits.append(edit)
                taken.append((first, last))
                break
    return edits


def _edit(kind: str, code: str, words: Words, place: int, returns: Mapping[int, tuple[int, int]], random: Random) -> Edit:
    token, first, last = words[place]
    if kind == "flip_operator":
        return first, last, random.choice(_FLIPS[token.string])
    if kind == "wrong_return":
        begin, end = returns[place]
        return begin, end, random.choice([w for w in _WRONG if w != code[begin:end]])
    spaced = code[first - 1 : first] == " " and code[last : last + 1] in (" ", "\n", "")
    if kind == "drop_token":
        glued = re.match(r"\w\w", code[first - 1 : first] + code[last : last + 1])
        return first - spaced, last, " " if glued else ""
    if spaced and token.string in _SPACED and random.random() < 0.5:
        return first - 1, first, ""
    return first, first, " "
