"""The page of token strips: marks without colour, order of texts, escaping."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from leaven.attribution.scores import Pair
from leaven.attribution.strips import mark, strips_page
from leaven.attribution.texts import Text


def test_marks_follow_the_share_of_the_largest_score():
    assert [mark(s)[0] for s in (1.0, 0.3, 0.1, -0.1, -0.3, -1.0)] == [
        "++",
        "+",
        "\u00a0",
        "\u00a0",
        "\u2212",
        "\u2212\u2212",
    ]


def test_page_shows_extremes_and_escapes_text():
    texts = [Text(example=f"e<{k}>", ids=np.array([0, 1, 2]), learn=np.ones(3, np.float32)) for k in range(4)]
    words = ["<b>", "a&b", "\n"]
    tokenizer = SimpleNamespace(decode=lambda ids, special: words[ids[0]])
    found = [Pair(0, k, float(k), {"position": np.array([0.0, k, 0.0])}) for k in range(4)]
    page = strips_page(texts, ["q&a"], found, tokenizer, top=1)
    assert page.index("e&lt;3&gt;") < page.index("e&lt;0&gt;") and "e&lt;1&gt;" not in page
    assert "&lt;b&gt;" in page and "a&amp;b" in page and "\u21b5" in page and "<b>e<" not in page and "q&amp;a" in page
    assert "<i>++</i>" in page and "<script" not in page


def test_few_pairs_are_shared_out_between_both_ends():
    texts = [Text(example=f"e{k}", ids=np.array([0]), learn=np.ones(1, np.float32)) for k in range(5)]
    found = [Pair(0, k, float(k - 2), {"position": np.array([k - 2.0])}) for k in range(5)]
    page = strips_page(texts, ["q"], found, SimpleNamespace(decode=lambda ids, special: "w"), top=5)
    helpful, _, least = page.partition("Least helpful")
    assert all(f"e{k}<" in helpful and f"e{k}<" not in least for k in (2, 3, 4))
    assert least.index("e0<") < least.index("e1<")
