"""An example -> the code in it, wherever its data set keeps it, and the example with that code replaced.

A synthesised or procedural example has a `code` field. In instruction data the code stands in the answer or in the
assistant's turns, between fences or as the whole text; in corpora the document is the code. Fences of other languages are
left alone, and so is text without a fence unless all of it parses and does something.
Not covered: finding the one program a model meant (core/extract.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from leaven.core.types import Example
from leaven.data.perturb.operation import Skip
from leaven.data.perturb.program import MAX_CHARS, Edit, parse, rewrite

_FENCE = re.compile(r"^(?:```|~~~)(?:python3?|py3?|Python)?[ \t]*\n(.*?)^(?:```|~~~)[ \t]*$", re.MULTILINE | re.DOTALL)
_ANY_FENCE = re.compile(r"^(?:```|~~~)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of code in an example: the field (and turn) that holds it, and where in that text it stands."""

    field: str
    turn: int
    first: int
    last: int
    code: str


def code_blocks(example: Example) -> list[Block]:
    """Return the code of an example: its `code` field, else the blocks in its document, answer or assistant turns."""
    if example.code:
        return [Block("code", 0, 0, len(example.code), example.code)]
    texts = [("text", 0, example.text), ("answer", 0, example.answer)]
    texts += [("turns", n, turn.content) for n, turn in enumerate(example.turns) if turn.role == "assistant"]
    return [block for field, turn, text in texts if text for block in _blocks(field, turn, text)]


def _blocks(field: str, turn: int, text: str) -> Iterator[Block]:
    if _ANY_FENCE.search(text):
        for match in _FENCE.finditer(text):
            if match[1].strip():
                yield Block(field, turn, match.start(1), match.end(1), match[1])
    elif len(text) > MAX_CHARS or _is_program(text):
        yield Block(field, turn, 0, len(text), text)


def _is_program(text: str) -> bool:
    """Return whether a text parses and some statement of it is more than a name, a number or a string."""
    try:
        body = parse(text).body
    except Skip:
        return False
    return any(not isinstance(n, ast.Expr) or isinstance(n.value, ast.Call | ast.Await) for n in body)


def with_code(example: Example, blocks: Sequence[Block], codes: Sequence[str]) -> Example:
    """Return the example with other code in its blocks; a block that ended its line still does."""
    edits: dict[tuple[str, int], list[Edit]] = {}
    for block, code in zip(blocks, codes, strict=True):
        end = "\n" if block.field != "code" and block.code.endswith("\n") and not code.endswith("\n") else ""
        edits.setdefault((block.field, block.turn), []).append((block.first, block.last, code + end))
    turns = list(example.turns)
    fields: dict[str, str] = {}
    for (field, number), changes in edits.items():
        if field == "turns":
            turns[number] = replace(turns[number], content=rewrite(turns[number].content, changes))
        else:
            fields[field] = rewrite(getattr(example, field), changes)
    return replace(example, turns=tuple(turns), **fields)


def program_of(example: Example) -> str:
    """Return what is executed for an example: its code, after what its data set runs before it."""
    before = (str(example.meta.get(name) or "").strip("\n") for name in ("prelude", "setup"))
    return "\n\n".join([*filter(None, before), *(b.code for b in code_blocks(example))])
