"""Code -> text that has structure but computes nothing: controls for "is it code, or any structured text?"

Ma et al. 2024 ask whether code helps because it is code; the controls keep the size (number of tokens or lines) and
take the meaning away: the code's own tokens or lines in another order, a balanced bracket string (Dyck words), or nested
JSON. The draws are seeded per example, so generators are deterministic. Nothing here runs, which the proof records.
Not covered: natural-language controls (another source in the mixture), noise within working code (noise.py).
"""

from __future__ import annotations

import json
import re
import tokenize
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from leaven.core.types import Example
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip
from leaven.data.perturb.program import Program

FORMS = ("shuffled_tokens", "shuffled_lines", "brackets", "json")
_PAIRS = ("()", "[]", "{}", "<>")
_KEYS = tuple("abcdefghij")
_JSON_TOKEN = re.compile(r'"\w+"|\d+|[][{}:,]')
TRIES = 20
"""How often a shuffle that changed nothing is repeated."""


@PERTURBATIONS("structure")
class Structure:
    """Replace the code by structured text of the same size.

    Options:
        form: shuffled_tokens, shuffled_lines, brackets or json (FORMS).
    """

    options: Mapping[str, Option] = {"form": Option("shuffled_tokens", FORMS)}
    rate_of = "examples"
    on = "code"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "anything"

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        program = Program(example.code)
        count = len(program.words())
        if count < 2:
            raise Skip("too short to have structure")
        for _ in range(TRIES):
            text = _text(options["form"], program, count, random)
            if text != program.code:
                return Change(replace(example, code=text), count, count)
        return Change(example, 0, count, "too few parts to shuffle")


def _text(form: str, program: Program, count: int, random: Random) -> str:
    """Return text of one form with (nearly) `count` tokens."""
    if form == "shuffled_tokens":
        return shuffled_tokens(program, random)
    if form == "shuffled_lines":
        return shuffled_lines(program.code, random)
    return brackets(count, random) if form == "brackets" else json_text(count, random)


def shuffled_tokens(program: Program, random: Random) -> str:
    """Return the code with its tokens (comments too) in another order; layout and line lengths in tokens stay."""
    kept = (tokenize.COMMENT,)
    spans = [w[1:] for w in program.words()] + [program.token_span(t) for t in program.tokens if t.type in kept]
    spans.sort()
    texts = [program.code[a:b] for a, b in spans]
    random.shuffle(texts)
    pieces, at = [], 0
    for (first, last), text in zip(spans, texts, strict=True):
        glue = " " if pieces and at == first and re.match(r"\w\w", pieces[-1][-1:] + text[:1]) else ""
        pieces += [program.code[at:first], glue + text]
        at = last
    return "".join([*pieces, program.code[at:]])


def shuffled_lines(code: str, random: Random) -> str:
    """Return the code with its lines in another order."""
    lines = code.split("\n")
    return "\n".join(random.sample(lines, len(lines)))


def brackets(count: int, random: Random) -> str:
    """Return a balanced string of `count` brackets (one less when odd) of four kinds, uniform over when to close."""
    left, opened, parts = count // 2, [], []
    while left or opened:
        if left and (not opened or random.random() < 0.5):
            pair = random.choice(_PAIRS)
            parts.append(pair[0])
            opened.append(pair[1])
            left -= 1
        else:
            parts.append(opened.pop())
    return " ".join(parts)


def json_text(count: int, random: Random) -> str:
    """Return nested JSON of at least `count` tokens, at most a few more: objects and lists over few keys and small numbers."""

    def value(budget: int, depth: int) -> Any:
        if budget < 6 or depth > 4:
            return random.randint(0, 99)
        parts = random.randint(2, 3)
        inner = [value(budget // parts - 3, depth + 1) for _ in range(parts)]
        return inner if random.random() < 0.5 else dict(zip(random.sample(_KEYS, parts), inner, strict=True))

    made: list[Any] = []
    while (missing := count - len(_JSON_TOKEN.findall(json.dumps(made)))) > 0:
        made.append(value(missing, 0))
    return json.dumps(made, indent=1)
