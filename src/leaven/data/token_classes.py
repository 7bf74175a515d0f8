"""One token's text -> its class: connector, keyword, number, operator, bracket, layout, punctuation, special, word or other.

Connectors are the words that carry a line of thought (Kou et al. 2025, figure 10), keywords those of the languages in use.
What a word is in its text is not decided here: "if" and "else" are both and count as keywords.
"""

from __future__ import annotations

import re

CONNECTORS = frozenset(
    """wait however verify hence first therefore alternatively thus since because so then but check actually hmm hold
    finally next second if else suppose assume""".split()
)
KEYWORDS = frozenset(
    """def return if elif else for while in not and or import from class try except finally with as lambda yield break
    continue pass none true false print int void const let var function public static struct include""".split()
)
_SHAPES = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("number", r"[\d.,]*\d[\d.,]*"),
        ("bracket", r"[()\[\]{}]+"),
        ("operator", r"[-+*/%=<>!&|^~@]+"),
        ("punctuation", r"[.,;:?!'\"`#\\_$]+"),
        ("word", r"\w+"),
    )
)


def token_class(piece: str) -> str:
    """Return the class of one token's text."""
    word = piece.strip()
    if not word:
        return "layout"
    if re.fullmatch(r"<\|.*\|>", word):
        return "special"
    if word.lower() in KEYWORDS:
        return "keyword"
    if word.lower() in CONNECTORS:
        return "connector"
    return next((name for name, shape in _SHAPES if shape.fullmatch(word)), "other")
