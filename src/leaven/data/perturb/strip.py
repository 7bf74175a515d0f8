"""Code -> the same code without comments, without docstrings, or without its signatures (Liu et al. 2025, Fig. 7 right).

Comments and docstrings are separate switches: removing comments leaves the syntax tree equal, removing docstrings
leaves it equal but for them; both are checked on the tree, and by execution in passes.py. The signature of a function
or class (decorators and head) is cut with its body moved left, or replaced by a placeholder without name and
parameters; bodies keep every statement. What is left usually does not run, which the proof records.
Not covered: which characters are a signature or comment for the loss mask (formats.split_code).
"""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from leaven.core.types import Example
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip
from leaven.data.perturb.program import Edit, Program, parse, rewrite

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
PLACEHOLDERS = {"FunctionDef": "def placeholder():", "AsyncFunctionDef": "async def placeholder():",
                "ClassDef": "class Placeholder:"}  # fmt: skip


@PERTURBATIONS("remove_comments")
class RemoveComments:
    """Remove every `#` comment; a line that held nothing else goes with it."""

    options: Mapping[str, Option] = {}
    rate_of = "examples"
    on = "code"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "same"

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        code, removed = without_comments(example.code)
        return Change(replace(example, code=code) if removed else example, removed, removed)


@PERTURBATIONS("remove_docstrings")
class RemoveDocstrings:
    """Remove the docstrings of modules, classes and functions; a body that was nothing else becomes `pass`."""

    options: Mapping[str, Option] = {}
    rate_of = "examples"
    on = "code"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "same"

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        code, removed = without_docstrings(example.code)
        return Change(replace(example, code=code) if removed else example, removed, removed)


@PERTURBATIONS("remove_signatures")
class RemoveSignatures:
    """Remove the heads of functions and classes.

    Options:
        form: `cut` drops the head and moves the body left; `placeholder` writes a head without name and parameters.
    """

    options: Mapping[str, Option] = {"form": Option("cut", ("cut", "placeholder"))}
    rate_of = "examples"
    on = "code"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "anything"

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        code, removed = without_signatures(example.code, options["form"])
        return Change(replace(example, code=code) if removed else example, removed, removed)


# ---- comments ------------------------------------------------------------------------------------------------------


def without_comments(code: str) -> tuple[str, int]:
    """Return the code without comments and how many there were; its syntax tree is the same.

    Raises:
        Skip: not Python, or nothing but comments.
    """
    program = Program(code)
    edits: list[Edit] = []
    for token in program.tokens:
        if token.type == tokenize.COMMENT:
            first, last = program.token_span(token)
            while first > 0 and program.code[first - 1] in " \t\f":
                first -= 1
            alone = first == 0 or program.code[first - 1] == "\n"
            edits.append((first, last + (alone and program.code[last : last + 1] == "\n"), ""))
    return _checked(program, edits, program.tree, "comments")


def _checked(program: Program, edits: list[Edit], expected: ast.Module, what: str) -> tuple[str, int]:
    """Return the edited code and the number of edits, once its tree is the expected one."""
    if not edits:
        return program.code, 0
    code = rewrite(program.code, edits)
    if not code.strip():
        raise Skip(f"nothing but {what}")
    if ast.dump(parse(code)) != ast.dump(expected):
        raise Skip(f"{what} cannot be told from code here")
    return code, len(edits)


# ---- docstrings ----------------------------------------------------------------------------------------------------


def docstrings(tree: ast.Module) -> Iterator[tuple[Definition | ast.Module, ast.Expr]]:
    """Yield every module, class or function with a docstring, and the statement that is it."""
    for node in ast.walk(tree):
        if isinstance(node, Definition | ast.Module) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                yield node, first


def without_docstrings(code: str) -> tuple[str, int]:
    """Return the code without docstrings and how many there were.

    Raises:
        Skip: not Python, nothing but docstrings, or the program reads `__doc__`.
    """
    program = Program(code)
    found = list(docstrings(program.tree))
    if found and any(getattr(n, "attr", getattr(n, "id", "")) == "__doc__" for n in ast.walk(program.tree)):
        raise Skip("reads __doc__")
    edits: list[Edit] = []
    passes: set[int] = set()
    for owner, text in found:
        first, last = program.span(text)
        begin, end = program.line_of(first)[0], program.line_of(last)[1]
        rest = program.code[last:end].strip()
        alone = not program.code[begin:first].strip() and (not rest or rest.startswith("#"))
        if alone and (len(owner.body) > 1 or isinstance(owner, ast.Module)):
            edits.append((begin, last if rest else end, "") if not rest else (first, last, ""))
        else:
            passes.add(id(text))
            edits.append((first, last, "pass"))
    return _checked(program, edits, _without(program.tree, {id(t) for _, t in found} - passes, passes), "docstrings")


def _without(tree: ast.Module, gone: set[int], passes: set[int]) -> ast.Module:
    """Return the tree without some statements and with `pass` for others (by identity); edits it in place."""
    for node in ast.walk(tree):
        if isinstance(node, Definition | ast.Module):
            node.body = [ast.Pass() if id(s) in passes else s for s in node.body if id(s) not in gone]
    return tree


# ---- signatures ----------------------------------------------------------------------------------------------------


def without_signatures(code: str, form: str) -> tuple[str, int]:
    """Return the code without the heads of its functions and classes, and how many there were.

    Args:
        code: Python source.
        form: cut or placeholder.

    Raises:
        Skip: not Python, or a layout in which heads cannot be cut.
    """
    program = Program(code)
    found = [n for n in ast.walk(program.tree) if isinstance(n, Definition)]
    if form == "placeholder":
        edits: list[Edit] = [(_first(program, n), _colon(program, n), PLACEHOLDERS[type(n).__name__]) for n in found]
        return _checked(program, edits, _anonymous(program.tree), "signatures")
    if not found:
        return program.code, 0
    new = _cut(program, found)
    if ast.dump(parse(new)) != ast.dump(ast.Module(body=_flat(program.tree.body), type_ignores=[])):
        raise Skip("signatures cannot be cut from this layout")
    return new, len(found)


def _first(program: Program, node: Definition) -> int:
    """Return where a definition begins, decorators included."""
    if not node.decorator_list:
        return program.span(node)[0]
    first = program.span(node.decorator_list[0])[0]
    return program.code.rindex("@", 0, first)


def _colon(program: Program, node: Definition) -> int:
    """Return the offset past the colon that ends a definition's head."""
    start, depth = program.span(node)[0], 0
    for token, first, last in program.words():
        if first < start:
            continue
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.string, 0)
        if token.string == ":" and depth == 0:
            return last
    raise Skip("signatures cannot be told from code here")


def _anonymous(tree: ast.Module) -> ast.Module:
    """Return the tree with every definition's head as the placeholder has it; edits it in place."""
    blank = {kind: ast.parse(head + " pass").body[0] for kind, head in PLACEHOLDERS.items()}
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            for field, value in ast.iter_fields(blank[type(node).__name__]):
                if field != "body":
                    setattr(node, field, value)
    return tree


def _cut(program: Program, found: list[Definition]) -> str:
    """Return the text without heads, each body moved left by what its head indented it; strings keep their lines."""
    lines = program.code.split("\n")
    shift = [0] * len(lines)
    gone: set[int] = set()
    edits: list[Edit] = []
    for node in found:
        head_end = _colon(program, node)
        head_line = program.code.count("\n", 0, head_end)
        body = node.body[0]
        if body.lineno - 1 <= head_line:  # def f(): return 1
            edits.append((_first(program, node), program.span(body)[0], ""))
            continue
        first_line = program.code.count("\n", 0, _first(program, node))
        gone |= set(range(first_line, head_line + 1))
        for line in range(head_line + 1, (node.end_lineno or 0)):
            shift[line] += body.col_offset - node.col_offset
    inside = {n for t in program.tokens if t.type != tokenize.ENDMARKER for n in range(t.start[0], t.end[0])}
    for number, line in enumerate(lines):
        begin = program.at(number + 1, 0)
        if number in gone:
            edits.append((begin, min(begin + len(line) + 1, len(program.code)), ""))
        elif number not in inside:  # lines that begin within a string are its content
            blank = len(line) - len(line.lstrip(" \t"))
            edits.append((begin, begin + min(shift[number], blank), ""))
    return rewrite(program.code, _outermost(edits))


def _outermost(edits: list[Edit]) -> list[Edit]:
    """Return the edits that change something and do not lie within another."""
    kept: list[Edit] = []
    for edit in sorted((e for e in edits if e[0] < e[1]), key=lambda e: (e[0], -e[1])):
        if not kept or edit[0] >= kept[-1][1]:
            kept.append(edit)
    return kept


def _flat(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return statements with every definition replaced by its body, at every depth."""
    flat: list[ast.stmt] = []
    for node in body:
        if isinstance(node, Definition):
            flat += _flat(node.body)
            continue
        for field, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, field, _flat(value))
            elif isinstance(value, list):
                for part in value:
                    if hasattr(part, "body"):  # except handlers, match cases
                        part.body = _flat(part.body)
        flat.append(node)
    return flat
