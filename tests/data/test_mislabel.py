"""Planted harm and noise: phrases exchanged in questions, responses exchanged among problems."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.core.types import Example
from leaven.data.perturb import perturb_examples
from leaven.errors import StudyError

PAIRS = ["buys {} more <-> loses {} of them", "doubles <-> triples"]
SWAP = [{"name": "swap_phrases", "options": {"pairs": PAIRS}}]


def example(n: int, question: str, difficulty: int = 1, **response: str) -> Example:
    return Example(id=str(n), source="s", question=question, family="f", difficulty=difficulty, **{"answer": str(n), **response})


def test_phrases_change_places_with_their_words() -> None:
    text = "Ann buys 3 more. Then she loses 12 of them. It doubles and triples. She buys two apples more."
    (changed,), rows = perturb_examples([example(0, text)], SWAP, 0)
    assert changed.question == "Ann loses 3 of them. Then she buys 12 more. It triples and doubles. She buys two apples more."
    assert changed.answer == "0" and [r["outcome"] for r in rows] == ["changed"]
    (again,), _ = perturb_examples([changed], SWAP, 0)
    assert again.question == text


def test_phrases_change_in_every_part_that_is_named() -> None:
    before = example(0, "Ann buys 3 more.", thought="Ann buys 3 more: 1 + 3 = 4", answer="buys 4 more")
    (changed,), _ = perturb_examples([before], [{"name": "swap_phrases", "options": {"pairs": PAIRS, "parts": ["question", "thought"]}}], 0)
    assert changed.question == "Ann loses 3 of them." and changed.thought == "Ann loses 3 of them: 1 + 3 = 4"
    assert changed.answer == before.answer


def test_questions_without_a_phrase_stay_and_are_counted() -> None:
    (same,), rows = perturb_examples([example(0, "How many?")], SWAP, 0)
    assert same.question == "How many?" and rows[0]["outcome"] == "skipped" and "none of the phrases" in rows[0]["reason"]


@pytest.mark.parametrize("pair", ["a", "a <-> a", "a {} <-> b", " <-> b", "a <-> b <-> c"])
def test_a_pair_that_is_none_is_refused(pair: str) -> None:
    with pytest.raises(StudyError, match="expected two different phrases"):
        perturb_examples([example(0, "a")], [{"name": "swap_phrases", "options": {"pairs": [pair]}}], 0)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.integers(0, 5))
def test_responses_are_exchanged_among_problems_of_equal_difficulty(difficulties: list[int], seed: int) -> None:
    examples = [example(n, f"q{n}", d, thought=f"t{n}") for n, d in enumerate(difficulties)]
    changed, rows = perturb_examples(examples, ["exchange"], seed, prove=False)
    sizes = Counter(difficulties)
    for before, after, row in zip(examples, changed, rows, strict=True):
        assert after.question == before.question and after.difficulty == before.difficulty
        assert after.thought == f"t{after.answer}" and difficulties[int(after.answer)] == before.difficulty
        assert (after.answer != before.answer) == (sizes[before.difficulty or 0] > 1) == (row["outcome"] == "changed")
    assert Counter(e.answer for e in changed) == Counter(e.answer for e in examples)


def test_exchanged_programs_fail_their_tests_and_that_is_recorded() -> None:
    examples = [
        Example(id=str(n), source="s", question=f"Add {n}.", code=f"def f(x):\n    return x + {n}", tests=(f"assert f(1) == {1 + n}",),
                entry_point="f", family="f", difficulty=1)
        for n in range(4)
    ]  # fmt: skip
    changed, rows = perturb_examples(examples, ["exchange"], 0)
    assert all(c.code != e.code and c.tests == e.tests for c, e in zip(changed, examples, strict=True))
    assert {(r["status_before"], r["status_after"]) for r in rows} == {("pass", "fail")}
