"""Program text -> its tree, its tokens and where both stand in the text; edits of the text by position.

Perturbations edit text, never `ast.unparse`: layout, comments and quotes stay as they were, so that only the named
change differs. The parser counts UTF-8 bytes and the tokenizer characters; `Program` turns both into text offsets.
Not covered: what to edit (rename.py, strip.py, noise.py, broken.py).
"""

from __future__ import annotations

import ast
import bisect
import io
import itertools
import tokenize
import warnings
from collections.abc import Iterable, Iterator

from leaven.data.perturb.operation import Skip

MAX_CHARS = 400_000
"""Longer code is skipped: parsing 10 MB takes gigabytes, and no training example is that long."""

Edit = tuple[int, int, str]
"""(first, past the last, new text) in characters of the program."""

_LAYOUT = (
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
)


class Program:
    """A program that parses: `code` (line ends normalised), `tree`, `tokens`, and offsets of both.

    Raises:
        Skip: on construction, when the code is empty, too long or not Python.
    """

    __slots__ = ("code", "tree", "tokens", "_lines", "_starts", "_words", "_firsts")

    def __init__(self, code: str) -> None:
        if not code.strip():
            raise Skip("no code")
        if len(code) > MAX_CHARS:
            raise Skip(f"too long: {len(code)} characters, limit {MAX_CHARS}")
        self.code = code.replace("\r\n", "\n").replace("\r", "\n")
        self.tree = parse(self.code)
        try:
            self.tokens = list(tokenize.generate_tokens(io.StringIO(self.code).readline))
        except (tokenize.TokenError, SyntaxError) as problem:
            raise Skip(f"does not parse: {problem}") from None
        self._lines = self.code.split("\n")
        self._starts = [0, *itertools.accumulate(len(line) + 1 for line in self._lines)]
        self._words = [(t, *self.token_span(t)) for t in _whole_strings(self.tokens) if t.type not in _LAYOUT and t.string]
        self._firsts = [first for _, first, _ in self._words]

    def at(self, line: int, column_bytes: int) -> int:
        """Return the offset of a position of the tree."""
        text = self._lines[line - 1]
        column = column_bytes if text.isascii() else len(text.encode()[:column_bytes].decode(errors="replace"))
        return self._starts[line - 1] + column

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return the offsets of a node's first character and past its last."""
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def token_span(self, token: tokenize.TokenInfo) -> tuple[int, int]:
        """Return the offsets of a token's first character and past its last."""
        start = self._starts[token.start[0] - 1] + token.start[1]
        return start, self._starts[token.end[0] - 1] + token.end[1]

    def line_of(self, offset: int) -> tuple[int, int]:
        """Return the offsets of the line that holds `offset`, its newline included."""
        begin = self.code.rfind("\n", 0, offset) + 1
        end = self.code.find("\n", offset)
        return begin, len(self.code) if end < 0 else end + 1

    def words(self) -> list[tuple[tokenize.TokenInfo, int, int]]:
        """Return (token, first, past the last) of every token that is not layout or comment."""
        return self._words

    def words_between(self, first: int, last: int) -> list[tuple[tokenize.TokenInfo, int, int]]:
        """Return the words that begin at or after `first` and before `last`."""
        return self._words[bisect.bisect_left(self._firsts, first) : bisect.bisect_left(self._firsts, last)]


def _whole_strings(tokens: list[tokenize.TokenInfo]) -> Iterator[tokenize.TokenInfo]:
    """Yield the tokens with each f-string as one: from Python 3.12 on its parts are tokens, which no edit may tear apart."""
    depth, start = 0, None
    for token in tokens:
        name = tokenize.tok_name[token.type]
        depth += name in ("FSTRING_START", "TSTRING_START")
        start = token if depth and start is None else start
        if start is None:
            yield token
        if name in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
            if depth == 0 and start is not None:
                yield tokenize.TokenInfo(tokenize.STRING, "f-string", start.start, token.end, start.line)
                start = None


def parse(code: str) -> ast.Module:
    """Return the syntax tree; raise Skip when the text is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except SyntaxError as problem:
            raise Skip(f"does not parse: line {problem.lineno}: {problem.msg}") from None
        except (ValueError, RecursionError, MemoryError) as problem:
            raise Skip(f"does not parse: {type(problem).__name__}") from None


def rewrite(code: str, edits: Iterable[Edit]) -> str:
    """Return the text after all edits; raise Skip when two of them overlap."""
    pieces, at = [], 0
    for first, last, text in sorted(edits):
        if first < at:
            raise Skip("edits overlap")
        pieces += [code[at:first], text]
        at = last
    return "".join([*pieces, code[at:]])
