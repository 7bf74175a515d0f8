"""A mathematics problem -> how symbolic its text is: 1 = formulas and variables, 0 = a story about people and things.

Kou et al. 2025 find that symbolic problems (MATH) help code more than conversational ones (GSM8K); their classes are
the data set's own `type` column, which a source maps to `family`. Where a data set has none, this score orders texts:
the share of words and signs that are LaTeX, variables or operators.
Not covered: topics (algebra, geometry), which data sets name themselves.
"""

from __future__ import annotations

import re

_TEX = re.compile(r"\$[^$]{1,400}\$|\\\[.{1,2000}?\\\]|\\\(.{1,400}?\\\)|\[asy\].*?\[/asy\]", re.DOTALL)
_PIECE = re.compile(r"\\[a-zA-Z]+|[A-Za-z]+(?:'[a-z]+)?|\d+(?:[.,]\d+)*|[-+*/^=<>≤≥()|]")
_SYMBOL = re.compile(r"\\[a-zA-Z]+|[b-hj-zB-HJ-Z]|[-+*/^=<>≤≥|]")


def symbolic_share(text: str) -> float:
    """Return the share of a text's words and signs that are symbols, from 0 to 1; 0 for a text without words.

    Everything between LaTeX delimiters counts as symbols; outside them commands, single letters other than the words
    "a", "A" and "I", and operators do. Plain numbers count as words: stories are full of them.
    """
    inside = sum(max(1, len(_PIECE.findall(span))) for span in _TEX.findall(text))
    outside = _PIECE.findall(_TEX.sub(" ", text))
    symbols = inside + sum(_SYMBOL.fullmatch(p) is not None for p in outside)
    total = inside + len(outside)
    return symbols / total if total else 0.0
