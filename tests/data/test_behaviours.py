"""Behaviours in thoughts: agreement with traces labelled by hand, where the answer is reached, tags of segments."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.core.types import Example
from leaven.data.answers import boxed, gold_of, number_of, same_answer
from leaven.data.behaviours import blocks_of, cut, kept_pieces, pieces_of, reaches, with_behaviours
from leaven.data.formats import FORMATS

from .behaviours.traces import Trace, agreement, read

TRACES = {name: read(name) for name in ("development", "held_out")}


@pytest.mark.parametrize("name", TRACES)
def test_exploration_is_found_in_traces_labelled_by_hand(name: str) -> None:
    precision, recall, wanted = agreement(TRACES[name])
    assert wanted >= 18
    assert precision >= 0.9 and recall >= 0.9


@pytest.mark.parametrize("trace", [t for ts in TRACES.values() for t in ts], ids=lambda t: t.name)
def test_the_first_right_answer_is_found(trace: Trace) -> None:
    (first, last), = [(a, b) for a, b, _, correct in trace.spans if correct]
    (found,) = [p for p in trace.pieces() if p.correct]
    assert first <= found.first < last
    assert all(p.after == (p.first > found.first) for p in trace.pieces())


@given(st.text(alphabet="ab.,?!\n `=123é$\\{}", max_size=80))
def test_a_cut_loses_nothing(text: str) -> None:
    stretches = cut(text)
    assert "".join(text[a:b] for a, b, _ in stretches) == text
    assert all(a < b for a, b, _ in stretches)
    assert [p for _, _, p in stretches] == sorted(p for _, _, p in stretches)


def test_sentences_end_where_sentences_end() -> None:
    text = "It is 3.5, i.e. more than 3. Then x = 4.\nSee Fig. 2 for that.\n\n1. First item. Done."
    assert [text[a:b].strip() for a, b, _ in cut(text)] == [
        "It is 3.5, i.e. more than 3.", "Then x = 4.", "See Fig. 2 for that.", "1. First item.", "Done.",
    ]  # fmt: skip


def test_code_blocks_stay_whole() -> None:
    text = "Try this:\n```python\nx = 1\n\ny = 2. \n```\nIt works."
    assert [text[a:b] for a, b, _ in cut(text)] == ["Try this:\n", "```python\nx = 1\n\ny = 2. \n```\n", "It works."]
    assert blocks_of(text) == ["x = 1\n\ny = 2. \n"]


def labels_of(thought: str, gold: str = "") -> list[str]:
    return [p.label for p in pieces_of(thought, gold)]


@pytest.mark.parametrize(
    "sentence",
    ["She waits for the bus.", "Wait times are 5 minutes.", "He writes a check over 5 dollars.", "However, x is even.",
     "Now, check each option.", "We read the clock.", "Let's try to solve this.", "The actual price is 5.", "Both numbers are odd.",
     "No numbers are left.", "Another 5 people come."],
)  # fmt: skip
def test_ordinary_words_explore_nothing(sentence: str) -> None:
    assert not any(p.exploratory for p in pieces_of(f"The task is simple.\n\n{sentence}"))


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("Wait, that is not right.", "backtracking"),
        ("But wait, the sum is odd.", "backtracking"),
        ("Hmm, I made a mistake.", "backtracking"),
        ("Actually, I forgot the carry.", "backtracking"),
        ("Alternatively, we could factor it.", "alternative"),
        ("Let me try another approach.", "alternative"),
        ("What if we use symmetry?", "alternative"),
        ("Let me double-check that.", "verification"),
        ("Plugging back in gives 7.", "verification"),
        ("That matches the first result.", "verification"),
        ("**Verify:** 2 + 2 = 4.", "verification"),
    ],
)
def test_words_of_the_paper_are_known(sentence: str, label: str) -> None:
    assert labels_of(f"We add.\n\n{sentence}")[1] == label


def test_a_check_goes_on_until_something_else_is_said() -> None:
    thought = "We need 2 + 3.\n\nThe sum is 5.\n\nLet me verify this. Take 5 away from both.\n\n0 = 0 holds.\n\nSo the answer is 5."
    assert labels_of(thought, "5") == ["setup", "derivation", "verification", "verification", "verification", "answer"]
    assert labels_of(thought, "6")[-1] != "answer" or not any(p.after for p in pieces_of(thought, "6"))


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [("0.5", r"\frac{1}{2}"), ("1,000", "1000.0"), (r"\dfrac{3}{4}", "3/4"), ("$12", "12"), (r"\text{Tuesday}", "tuesday"),
     (r"\left( 1, 2 \right)", "(1,2)"), ("three", "3"), ("infinity", r"\infty"), (r"90^\circ", "90")],
)  # fmt: skip
def test_spellings_of_one_answer(one: str, other: str) -> None:
    assert same_answer(one, other) and same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), [("12", "2"), ("", ""), ("1/0", "0"), ("x+1", "x-1"), ("5", "five hundred")])
def test_different_answers(one: str, other: str) -> None:
    assert not same_answer(one, other)


def test_numbers_and_boxes() -> None:
    assert number_of(r"\frac{-1}{4}") == number_of("-.25") and number_of("12 apples") is None
    assert boxed(r"so \boxed{\frac{1}{2}} or \fbox{3} but \boxed{4") == [r"\frac{1}{2}", "3"]


@pytest.mark.parametrize(
    ("answer", "gold"), [("We add.\n#### 42", "42"), (r"so it is $\boxed{7}$.", "7"), ("Paris", "Paris"), ("a long\nproof", "")]
)
def test_the_gold_of_an_example(answer: str, gold: str) -> None:
    assert gold_of(Example(id="1", source="s", question="q", answer=answer)) == gold


@pytest.mark.parametrize(
    ("sentence", "gold", "reached"),
    [
        ("Then 3 * 4 = 12.", "12", True),
        ("Then 12 * 4 = 48.", "12", False),
        ("That makes 12 apples.", "12", True),
        ("Is it 12?", "12", False),
        (r"So \boxed{13}.", "12", False),
        ("Hence the probability is 13/52 = 1/4", r"\frac{1}{4}", True),
        ("So the answer is (B).", "B", True),
        ("A is larger than B.", "B", False),
        ("The limit is infinity.", r"\infty", True),
        ("It is on Tuesday.", "Tuesday", True),
    ],
)
def test_where_an_answer_is_reached(sentence: str, gold: str, reached: bool) -> None:
    assert reaches(sentence, gold) is reached


# ---- tags ------------------------------------------------------------------------------------------------------------

THOUGHT = "Two and three.\n2 + 3 = 5.\nLet me check: 5 - 3 = 2.\nSo the answer is 5.\n"


def test_segments_of_a_labelled_thought_carry_tags_and_the_same_text() -> None:
    plain = Example(id="1", source="s", question="2 + 3?", thought=THOUGHT, answer="5")
    labelled = with_behaviours(plain)
    before, after = (FORMATS.get("thought_answer")(e) for e in (plain, labelled))
    assert [replace(s, tags=()) for s in after] == before
    tags = [s.tags for s in after if s.kind == "thought"]
    assert [t[0] for t in tags] == ["setup", "derivation", "verification", "answer"]
    assert "exploratory" in tags[2] and "after_correct" in tags[2] and "after_correct" not in tags[1]
    assert all(not s.tags for s in before)


def test_tags_of_a_thought_that_was_changed_since_are_dropped() -> None:
    labelled = with_behaviours(Example(id="1", source="s", question="2 + 3?", thought=THOUGHT, answer="5"))
    assert kept_pieces(labelled) and not kept_pieces(replace(labelled, thought=THOUGHT + "x"))
    assert with_behaviours(Example(id="1", source="s", question="q", answer="5")).meta == {}
