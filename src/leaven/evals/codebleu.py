"""Python programs -> CodeBLEU (Ren et al. 2020): n-grams, keyword-weighted n-grams, syntax trees, data flow, a quarter each.

Written to give the numbers of the PyPI package `codebleu` (0.7.0, MIT, after Microsoft's CodeXGLUE), because the papers' numbers
come from there; its peculiarities are kept and named:

- n-grams and weighted n-grams count tokens between white space; weighted ones are recalls, keywords weigh 1 and other words .2,
  and brevity takes every reference to be 2 tokens long (the package measures a pair of tokens and weights)
- syntax counts the *reference's* subtrees found in the candidate, each as often as it occurs (not clipped)
- without any data flow in the references that part counts as 1 in the total and is given as 0
- in lines with other than ASCII letters the package mistakes bytes for characters; here names are read where they stand
- the data flow of branches and loops merges the names a value comes from as sets; the package walks such a set in hash order, so
  its own number for one program can change from one Python process to the next. Here names keep the order in which they appear.

Trees come from tree-sitter's Python grammar (extra `eval`, which pins 0.21: later grammars name some nodes differently, which moves
about one program in twenty-five); code that does not parse still has a tree, with error nodes.
Not covered: other languages.
"""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from leaven.errors import DataError, MissingExtraError
from leaven.evals.bleu import EPSILON, Tokens, corpus_bleu, ngrams, words

KEYWORDS = frozenset(
    "False None True and as assert async await break class continue def del elif else except finally for from global if import "
    "in is lambda nonlocal not or pass raise return try while with yield match case type".split()
)
OTHER_WEIGHT = 0.2
_LENGTH_OF_A_PAIR = 2
_TEXT = ("string_literal", "string", "character_literal")

Span = tuple[Any, Any]
States = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class CodeBleu:
    """The total and its four parts, shares of 1; `dataflow` is 0 where no reference has any."""

    total: float
    ngram: float
    weighted_ngram: float
    syntax: float
    dataflow: float


def codebleu(
    references: Sequence[Sequence[str]],
    hypotheses: Sequence[str],
    *,
    weights: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25),
    tokens: Callable[[str], list[str]] = words,
) -> CodeBleu:
    """Return CodeBLEU of a corpus of Python programs.

    Args:
        references: one or more reference programs per hypothesis.
        hypotheses: as many programs.
        weights: of n-grams, weighted n-grams, syntax, data flow.
        tokens: program -> tokens for the two n-gram parts.

    Raises:
        DataError: the numbers of references and hypotheses differ.
        MissingExtraError: tree-sitter is not installed.
    """
    if len(references) != len(hypotheses) or not hypotheses or not all(references):
        raise DataError(
            f"CodeBLEU: expected as many references as hypotheses and at least one each, found {len(references)} and "
            f"{len(hypotheses)}"
        )
    wanted = [[r.strip() for r in several] for several in references]
    found = [h.strip() for h in hypotheses]
    token_references = [[tokens(r) for r in several] for several in wanted]
    token_hypotheses = [tokens(h) for h in found]
    ngram = corpus_bleu(token_references, token_hypotheses, smoothing="epsilon")
    weighted = weighted_recall(token_references, token_hypotheses)
    pairs = [(_bare(r), _bare(h)) for several, h in zip(wanted, found, strict=True) for r in several]
    syntax, flow = syntax_match(pairs), dataflow_match(pairs)
    total = sum(w * x for w, x in zip(weights, (ngram, weighted, syntax, flow or 1.0), strict=True))
    return CodeBleu(total, ngram, weighted, syntax, flow)


def weighted_recall(references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens], order: int = 4) -> float:
    """Return the n-gram recall of the references; single words weigh by being a keyword."""
    found, total = [0.0] * order, [0.0] * order
    n_hypothesis = n_reference = 0
    for several, hypothesis in zip(references, hypotheses, strict=True):
        for n in range(1, order + 1):
            have = ngrams(hypothesis, n)
            for reference in several:
                wanted = ngrams(reference, n)
                weight = {g: 1.0 if n > 1 or g[0] in KEYWORDS else OTHER_WEIGHT for g in wanted}
                found[n - 1] += sum(weight[g] * min(count, have[g]) for g, count in wanted.items())
                total[n - 1] += max(1.0, sum(weight[g] * count for g, count in wanted.items()))
        n_hypothesis += len(hypothesis)
        n_reference += _LENGTH_OF_A_PAIR
    if not found[0] or not n_hypothesis:
        return 0.0
    brevity = 1.0 if n_hypothesis > n_reference else math.exp(1 - n_reference / n_hypothesis)
    logs = (math.log((f or EPSILON) / t) for f, t in zip(found, total, strict=True))
    return brevity * math.exp(math.fsum(logs) / order)


def syntax_match(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the share of the references' subtrees that occur in their candidates (inner nodes; leaves' names do not count)."""
    found = total = 0
    for reference, candidate in pairs:
        have, wanted = set(_subtrees(candidate)), _subtrees(reference)
        found += sum(tree in have for tree in wanted)
        total += len(wanted)
    return found / total


def dataflow_match(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the share of the references' data-flow edges, variables renamed in order, that occur in their candidates."""
    found = total = 0
    for reference, candidate in pairs:
        have, wanted = (normalised(data_flow(code)) for code in (candidate, reference))
        total += len(wanted)
        for edge in wanted:
            if edge in have:
                have.remove(edge)
                found += 1
    return found / total if total else 0.0


# ---- trees -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _parser() -> Any:
    """Return tree-sitter's parser of Python."""
    try:
        import tree_sitter_python
        from tree_sitter import Language, Parser
    except ImportError as error:
        raise MissingExtraError("tree-sitter-python", "eval", "CodeBLEU") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # grammar 0.21 hands its address over as a number
        return Parser(Language(tree_sitter_python.language()))


def _root(code: str) -> Any:
    return _parser().parse(code.encode()).root_node


def _subtrees(code: str) -> list[str]:
    """Return every inner node of a program's tree, root included, written out."""
    pending, found = [_root(code)], []
    while pending:
        node = pending.pop()
        found.append(str(node))
        pending += [child for child in node.children if child.children]
    return found


def _bare(code: str) -> str:
    """Return code without comments, docstrings and blank lines; as it is where Python cannot tokenise it."""
    out, before, last_line, last_column = "", tokenize.INDENT, -1, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            (line, column), text = token.start, token.string
            last_column = 0 if line > last_line else last_column
            out += " " * max(0, column - last_column)
            # a string that begins a logical line inside a block, or any string at the left margin, counts as a docstring
            docstring = token.type == tokenize.STRING and (before in (tokenize.INDENT, tokenize.NEWLINE) or column == 0)
            if token.type != tokenize.COMMENT and not docstring:
                out += text
            before, (last_line, last_column) = token.type, token.end
    except (SyntaxError, tokenize.TokenError):
        return code
    return "\n".join(line for line in out.split("\n") if line.strip())


# ---- data flow ---------------------------------------------------------------------------------------------


class Edge(NamedTuple):
    """One use or definition: variable `name` (leaf number `at`) comes from the variables `sources` (leaf numbers
    `sources_at`)."""

    name: str
    at: int
    relation: str
    sources: list[str]
    sources_at: list[int]


def data_flow(code: str) -> list[Edge]:
    """Return a program's edges, one per leaf that takes part in any; [] where the tree defeats the rules."""
    root = _root(code)
    lines = [line.encode() for line in code.split("\n")]
    try:
        named = {span: (i, _text(span, lines)) for i, (span, _) in enumerate(_leaves(root))}
        edges = sorted(_Flow(named).of(root, {})[0], key=lambda e: e.at)
    except (KeyError, IndexError, AttributeError, TypeError, RecursionError):  # the package takes any failure as no flow
        return []
    used = {e.at for e in edges if e.sources_at} | {i for e in edges for i in e.sources_at}
    merged: dict[int, Edge] = {}
    for edge in edges:
        if edge.at not in used:
            continue
        first = merged.get(edge.at)
        merged[edge.at] = edge if first is None else first._replace(
            sources=_once(first.sources + edge.sources), sources_at=_once(first.sources_at + edge.sources_at)
        )
    return list(merged.values())


def normalised(edges: Sequence[Edge]) -> list[tuple[int, str, tuple[int, ...]]]:
    """Return edges with variables numbered in the order in which they turn up."""
    number: dict[str, int] = {}
    result = []
    for edge in edges:
        for name in (*edge.sources, edge.name):
            number.setdefault(name, len(number))
        result.append((number[edge.name], edge.relation, tuple(number[s] for s in edge.sources)))
    return result


class _Flow:
    """Walks a tree and keeps, per variable name, the leaves that last gave it a value."""

    def __init__(self, named: dict[Span, tuple[int, str]]) -> None:
        self.named = named

    def of(self, node: Any, states: States) -> tuple[list[Edge], States]:
        """Return the edges of a node and the states after it."""
        states = states.copy()
        if (not node.children or node.type in _TEXT) and node.type != "comment":
            return self._leaf(node, states)
        if node.type == "default_parameter":
            return self._default(node, states)
        if node.type in ("assignment", "augmented_assignment", "for_in_clause"):
            return self._assignment(node, states)
        if node.type == "if_statement":
            return self._branches(node, states)
        if node.type in ("for_statement", "while_statement"):
            return self._loop(node, states)
        children = sorted(node.children, key=lambda c: c.type != "for_in_clause")  # comprehensions bind before they use
        return self._each(children, states)

    def _each(self, nodes: Sequence[Any], states: States) -> tuple[list[Edge], States]:
        edges: list[Edge] = []
        for node in nodes:
            more, states = self.of(node, states)
            edges += more
        return sorted(edges, key=lambda e: e.at), states

    def _leaf(self, node: Any, states: States) -> tuple[list[Edge], States]:
        at, code = self.named[_span(node)]
        if node.type == code:  # a keyword or sign
            return [], states
        if code in states:
            return [Edge(code, at, "comesFrom", [code], states[code].copy())], states
        if node.type == "identifier":
            states[code] = [at]
        return [Edge(code, at, "comesFrom", [], [])], states

    def _default(self, node: Any, states: States) -> tuple[list[Edge], States]:
        names, value = self._variables(node.child_by_field_name("name")), node.child_by_field_name("value")
        if value is None:
            for at, code in names:
                states[code] = [at]
            return sorted((Edge(code, at, "comesFrom", [], []) for at, code in names), key=lambda e: e.at), states
        sources = self._variables(value)
        edges, states = self.of(value, states)
        edges = list(edges)
        for at, code in names:
            edges += [Edge(code, at, "comesFrom", [source], [source_at]) for source_at, source in sources]
            states[code] = [at]
        return sorted(edges, key=lambda e: e.at), states

    def _assignment(self, node: Any, states: States) -> tuple[list[Edge], States]:
        if node.type == "for_in_clause":
            left, right = [node.child_by_field_name("left")], [node.children[-1]]
        elif node.child_by_field_name("right") is None:
            return [], states
        else:
            left, right = _sides(node)
        edges, states = self._each(right, states)
        return sorted(edges + self._assign(left, right, states), key=lambda e: e.at), states

    def _assign(self, left: Sequence[Any], right: Sequence[Any], states: States) -> list[Edge]:
        """Return the edges of targets paired with values; updates `states`."""
        edges = []
        for target, value in zip(left, right, strict=False):
            sources = self._variables(value)
            for at, code in self._variables(target):
                edges.append(Edge(code, at, "computedFrom", [c for _, c in sources], [i for i, _ in sources]))
                states[code] = [at]
        return edges

    def _branches(self, node: Any, states: States) -> tuple[list[Edge], States]:
        edges: list[Edge] = []
        current, others = states.copy(), []
        for child in node.children:
            if child.type in ("elif_clause", "else_clause"):
                more, after = self.of(child, states)
                others.append(after)
            else:
                more, current = self.of(child, current)
            edges += more
        others.append(current)
        if not any("else" in child.type for child in node.children):
            others.append(states)
        after: States = {}
        for one in others:
            for name, at in one.items():
                after[name] = sorted({*after.get(name, []), *at})
        return sorted(edges, key=lambda e: e.at), after

    def _loop(self, node: Any, states: States) -> tuple[list[Edge], States]:
        """Walk the body twice, so that values of one round reach the next."""
        edges: list[Edge] = []
        for _ in range(2):
            if node.type == "while_statement":
                for child in node.children:
                    more, states = self.of(child, states)
                    edges += more
                continue
            left, right = _sides(node)
            for value in right:
                more, states = self.of(value, states)
                edges += more
            edges += self._assign(left, right, states)
            if node.children[-1].type == "block":
                more, states = self.of(node.children[-1], states)
                edges += more
        merged: dict[tuple[str, int, str], Edge] = {}
        for edge in edges:
            first = merged.get(edge[:3])
            merged[edge[:3]] = edge if first is None else first._replace(
                sources=_once(first.sources + edge.sources), sources_at=sorted({*first.sources_at, *edge.sources_at})
            )
        return sorted(merged.values(), key=lambda e: e.at), states

    def _variables(self, node: Any) -> list[tuple[int, str]]:
        """Return (leaf number, text) of the leaves of a node that are no keywords or signs."""
        return [self.named[s] for s, kind in _leaves(node) if kind != self.named[s][1]]


def _sides(node: Any) -> tuple[list[Any], list[Any]]:
    """Return targets and values of an assignment or for, in pairs where both sides have as many."""
    left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
    lefts, rights = ([c for c in side.children if c.type != ","] for side in (left, right))
    if len(lefts) != len(rights):
        return [left], [right]
    return lefts or [left], rights or [right]


def _leaves(node: Any) -> list[tuple[Span, str]]:
    """Return place and type of the leaves below a node, strings whole, comments left out, in order."""
    if (not node.children or node.type in _TEXT) and node.type != "comment":
        return [(_span(node), node.type)]
    return [leaf for child in node.children for leaf in _leaves(child)]


def _span(node: Any) -> Span:
    return node.start_point, node.end_point


def _text(span: Span, lines: Sequence[bytes]) -> str:
    """Return the text of a place; line ends inside it are left out, as in the package."""
    (first, begin), (last, end) = span
    if first == last:
        return lines[first][begin:end].decode(errors="replace")
    return b"".join([lines[first][begin:], *lines[first + 1 : last], lines[last][:end]]).decode(errors="replace")


def _once(values: Sequence[Any]) -> list[Any]:
    """Return the values without repetitions, in order of first appearance."""
    return list(dict.fromkeys(values))
