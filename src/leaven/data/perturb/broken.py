"""Code that passes its tests -> the same code with a small mistake in it, so that it fails them ("inconsistent").

Mutation operators of the kind people make: another comparison, operator or constant, negated conditions, two elements
or arguments exchanged, a wrong variable, a lost statement. Each call draws one or two mistakes; passes.py draws until a
test fails, so the change is proven, and the subset has the ids and the size of the original (Liu et al. 2025, Fig. 7
left, trains on solutions that fail their tests). Layout, names and everything else stay.
Not covered: noise that need not break anything (noise.py).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from leaven.core.types import Example
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip
from leaven.data.perturb.program import Edit, Program, rewrite
from leaven.data.perturb.scopes import resolve_names

MISTAKES = ("comparison", "operator", "constant", "condition", "exchange", "variable", "statement")
TWO_MISTAKES = 0.2
"""Share of the draws that make two mistakes at once: some tests let every single one pass."""
VALUES = {"variable", "parameter"}
_SETTING = ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr

COMPARISONS = {"<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",),
               "in": ("not in",), "not in": ("in",), "is": ("is not",), "is not": ("is",)}  # fmt: skip
OPERATORS = {"+": ("-", "*"), "-": ("+",), "*": ("+", "//"), "/": ("//", "*"), "//": ("/", "*"), "%": ("//",), "**": ("*",),
             "&": ("|",), "|": ("&",), "^": ("|",), "<<": (">>",), ">>": ("<<",), "and": ("or",), "or": ("and",)}  # fmt: skip
_SYMBOLS = {
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in"},
    **{ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*"},
    **{ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|"},
    **{ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>", ast.And: "and", ast.Or: "or"},
}


@PERTURBATIONS("inconsistent")
class Inconsistent:
    """Make the code fail at least one of its tests.

    Options:
        mistakes: which kinds of mistake to draw from (MISTAKES).
    """

    options: Mapping[str, Option] = {"mistakes": Option(MISTAKES, MISTAKES)}
    rate_of = "examples"
    on = "code"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "fails"

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        if not example.tests:
            raise Skip("no tests to fail")
        program = Program(example.code)
        sites = list(mistakes(program, options["mistakes"]))
        if not sites:
            raise Skip("nothing to mutate")
        drawn: list[Edit] = []
        wanted = 2 if len(sites) > 1 and random.random() < TWO_MISTAKES else 1
        for edits in random.sample(sites, len(sites)):
            apart = all(first >= b or last <= a for first, last, _ in edits for a, b, _ in drawn)
            if apart and wanted:
                drawn += edits
                wanted -= 1
        return Change(replace(example, code=rewrite(program.code, drawn)), 1, len(sites))


def mistakes(program: Program, kinds: list[str]) -> Iterator[list[Edit]]:
    """Yield every single mistake of these kinds as the edits that make it; none in type hints, decorators and f-strings.

    What keeps a `while` loop going is left alone where anything else can be wrong: most mistakes there never end.
    """
    spans = {id(n): program.span(n) for n in ast.walk(program.tree) if hasattr(n, "lineno")}
    hints = {id(n) for part in _hints(program.tree) for n in ast.walk(part)}
    loops = {id(n) for part in _loop_control(program.tree) for n in ast.walk(part)}
    names = _variables(program)
    makers = {
        "comparison": lambda n: _comparison(program, n, spans),
        "operator": lambda n: _operator(program, n, spans),
        "constant": lambda n: _constant(n, spans),
        "condition": lambda n: _condition(program, n, spans),
        "exchange": lambda n: _exchange(program, n, spans),
        "variable": lambda n: _variable(n, spans, names),
        "statement": lambda n: _statement(n, spans),
    }
    nodes = [n for n in ast.walk(program.tree) if id(n) not in hints]
    found = [site for n in nodes if id(n) not in loops for kind in kinds for site in makers[kind](n)]
    yield from found or [site for n in nodes for kind in kinds for site in makers[kind](n)]


def _hints(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what must stay: annotations, decorators, and f-strings (whose parts have no reliable positions)."""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if isinstance(part := getattr(node, field, None), ast.AST):
                yield part
        yield from getattr(node, "decorator_list", ())
        if isinstance(node, ast.JoinedStr):
            yield node


def _loop_control(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the conditions of `while` loops, and the statements in them that set what a condition reads."""
    for loop in ast.walk(tree):
        if isinstance(loop, ast.While):
            yield loop.test
            read = {n.id for n in ast.walk(loop.test) if isinstance(n, ast.Name)}
            for node in ast.walk(loop):
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if isinstance(node, _SETTING) else set()
                if names & read or isinstance(node, ast.Break):
                    yield node


def _between(program: Program, left: int, right: int, symbol: str, instead: tuple[str, ...]) -> Iterator[list[Edit]]:
    """Yield the replacements of an operator that stands between two operands."""
    words = program.words_between(left, right)
    for place, (token, first, last) in enumerate(words):
        text = token.string
        if " " in symbol and place + 1 < len(words):
            text, last = f"{text} {words[place + 1][0].string}", words[place + 1][2]
        if text == symbol:
            yield from ([(first, last, new)] for new in instead)
            return


def _comparison(program: Program, node: ast.AST, spans: Mapping[int, tuple[int, int]]) -> Iterator[list[Edit]]:
    if isinstance(node, ast.Compare):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            symbol = _SYMBOLS[type(operator)]
            yield from _between(program, spans[id(left)][1], spans[id(right)][0], symbol, COMPARISONS[symbol])


def _operator(program: Program, node: ast.AST, spans: Mapping[int, tuple[int, int]]) -> Iterator[list[Edit]]:
    if isinstance(node, ast.BinOp | ast.BoolOp):
        symbol = _SYMBOLS.get(type(node.op), "")
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else node.values
        for left, right in zip(parts, parts[1:], strict=False):
            yield from _between(program, spans[id(left)][1], spans[id(right)][0], symbol, OPERATORS.get(symbol, ()))
    elif isinstance(node, ast.AugAssign) and (symbol := _SYMBOLS.get(type(node.op), "")) in OPERATORS:
        instead = tuple(f"{new}=" for new in OPERATORS[symbol])
        yield from _between(program, spans[id(node.target)][1], spans[id(node.value)][0], f"{symbol}=", instead)


def _constant(node: ast.AST, spans: Mapping[int, tuple[int, int]]) -> Iterator[list[Edit]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        value = node.value
        instead = [not value] if isinstance(value, bool) else [value + 1, *([value - 1] if value > 0 else [])]
        yield from ([(*spans[id(node)], str(new))] for new in instead)


def _condition(program: Program, node: ast.AST, spans: Mapping[int, tuple[int, int]]) -> Iterator[list[Edit]]:
    tests = [node.test] if isinstance(node, ast.If | ast.While | ast.IfExp) else getattr(node, "ifs", ())
    for test in tests:
        first, last = spans[id(test)]
        yield [(first, last, f"not ({program.code[first:last]})")]


def _exchange(program: Program, node: ast.AST, spans: Mapping[int, tuple[int, int]]) -> Iterator[list[Edit]]:
    parts: list[ast.expr] = []
    if isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Load):
        parts = node.elts
    elif isinstance(node, ast.Call):
        parts = node.args
    for place, one in enumerate(parts):
        for other in parts[place + 1 :]:
            (a, b), (c, d) = spans[id(one)], spans[id(other)]
            if program.code[a:b] != program.code[c:d] and not any(isinstance(p, ast.Starred) for p in (one, other)):
                yield [(a, b, program.code[c:d]), (c, d, program.code[a:b])]


def _variables(program: Program) -> dict[int, list[str]]:
    """Return the id of every variable read in a function -> the function's other variables that have a value by then."""
    found: dict[int, list[str]] = {}
    names = resolve_names(program.tree)
    for scope in names.scopes.values():
        if scope.kind != "function":
            continue
        born = {b.name: min(program.span(p.node)[0] for p in b.places) for b in scope.names.values() if b.kinds <= VALUES and b.places}
        for binding in scope.names.values():
            for place in binding.places if binding.name in born else ():
                if isinstance(place.node, ast.Name) and isinstance(place.node.ctx, ast.Load):
                    at = program.span(place.node)[0]
                    found[id(place.node)] = sorted(n for n, first in born.items() if first < at and n not in {binding.name, "self", "cls"})
    return found


def _variable(node: ast.AST, spans: Mapping[int, tuple[int, int]], names: Mapping[int, list[str]]) -> Iterator[list[Edit]]:
    yield from ([(*spans[id(node)], other)] for other in names.get(id(node), ()))


def _statement(node: ast.AST, spans: Mapping[int, tuple[int, int]]) -> Iterator[list[Edit]]:
    lost = isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    if lost or isinstance(node, ast.Break | ast.Continue):
        yield [(*spans[id(node)], "pass")]
