"""Token classes by hand."""

from __future__ import annotations

import pytest

from leaven.data.token_classes import token_class


@pytest.mark.parametrize(
    ("piece", "kind"),
    [(" Wait", "connector"), ("However", "connector"), (" return", "keyword"), ("  ", "layout"), ("\n", "layout"),
     ("42", "number"), ("3.5", "number"), ("==", "operator"), ("(", "bracket"), (",", "punctuation"),
     ("<|end|>", "special"), (" x1", "word"), ("a+b", "other")],
)  # fmt: skip
def test_token_classes(piece, kind):
    assert token_class(piece) == kind
