"""Exploration after the right answer: cut off, and matched by random deletions of the same thoughts."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.core.tables import example_from_row, example_row
from leaven.core.types import Example, Turn
from leaven.data.behaviours import kept_pieces, pieces_of, with_behaviours
from leaven.data.perturb import PERTURBATIONS, check_operations, perturb_examples
from leaven.data.perturb.explore import TOLERANCE, count, examine, random_stretches, without
from leaven.errors import DataError, StudyError

from .behaviours.traces import read

MATH = [t for name in ("development", "held_out") for t in read(name) if t.domain == "math"]
LONG = "The numbers in it are small and easy to handle, so that no tricks are needed here at all. " * 6
TEXTS = {t.name: f"{LONG}\n\n{t.thought}" for t in MATH}
EXAMPLES = [Example(id=t.name, source="traces", question="q", thought=TEXTS[t.name], answer=t.gold) for t in MATH]


def run(examples: list[Example], **options: Any) -> tuple[list[Example], dict[str, tuple[str, str, int]]]:
    """Return the changed examples, and id -> (outcome, reason, tokens deleted)."""
    changed, rows = perturb_examples(examples, [{"name": "exploration", "options": options}], 0)
    return changed, {r["example"]: (r["outcome"], r["reason"], r["edits"]) for r in rows}


@pytest.mark.parametrize(("matched", "least"), [("example", 12), ("source", 12), ("none", 12)])
def test_thoughts_end_with_the_piece_that_reaches_the_answer(matched: str, least: int) -> None:
    changed, outcomes = run(EXAMPLES, matched=matched)
    assert sum(o == "changed" for o, _, _ in outcomes.values()) >= least
    for trace, old, new in zip(MATH, EXAMPLES, changed, strict=True):
        if outcomes[old.id][0] != "changed":
            assert new.thought == old.thought
            continue
        (end,) = [p.last for p in pieces_of(TEXTS[trace.name], trace.gold) if p.correct]
        assert new.thought == TEXTS[trace.name][:end].rstrip() and new.answer == old.answer


def kept_by_the_control(old: Example, new: Example) -> bool:
    """Return whether everything that explores after the answer, and what reaches it, is still there."""
    pieces = [p for p in pieces_of(old.thought, old.answer) if p.correct or (p.exploratory and p.after)]
    return all(old.thought[p.first : p.last].strip() in new.thought for p in pieces)


def test_the_control_deletes_as_much_from_the_same_examples_and_keeps_the_exploration() -> None:
    cut, control = run(EXAMPLES), run(EXAMPLES, delete="random")
    assert [o for o, _, _ in cut[1].values()] == [o for o, _, _ in control[1].values()]
    for old, one, two in zip(EXAMPLES, cut[0], control[0], strict=True):
        outcome, _, gone = cut[1][old.id]
        if outcome == "changed":
            assert abs(control[1][old.id][2] - gone) <= TOLERANCE * gone
            assert two.thought != one.thought and kept_by_the_control(old, two)


def test_matched_over_the_source_the_control_deletes_as_much_in_all() -> None:
    short = [Example(id=t.name, source="traces", question="q", thought=t.thought, answer=t.gold) for t in MATH]
    idle = [replace(e, id=f"{e.id}-long", thought=LONG) for e in EXAMPLES]  # never reach the answer, and have much to lose
    cut, control = run([*short, *idle], matched="source"), run([*short, *idle], matched="source", delete="random")
    totals = [sum(edits for _, _, edits in outcomes.values()) for _, outcomes in (cut, control)]
    assert totals[0] > 300 and abs(totals[1] - totals[0]) <= TOLERANCE * totals[0]
    assert all(kept_by_the_control(old, new) for old, new in zip(short, control[0], strict=False))
    assert sum(o == "changed" for o, _, _ in control[1].values()) > sum(o == "changed" for o, _, _ in cut[1].values())
    for arm in ("exploration", "random"):  # both arms or none
        with pytest.raises(DataError, match="found [0-9,]+; use matched: example"):
            run(short, matched="source", delete=arm)


SENTENCES = ("We add three and four here.", "Then 3 + 4 = 7.", "Let me check this again slowly, twice.")


@given(st.lists(st.sampled_from(SENTENCES)), st.integers(1, 30))
def test_random_deletions_have_the_size_asked_for(sentences: list[str], tokens: int) -> None:
    text = " ".join(["There are some.", *sentences, "So that gives 7.", "Wait, is it so?", "Let me verify: 7 - 4 = 3."])
    thought = examine(Example(id="1", source="s", question="q", thought=text, answer="7"), "after_correct")
    assert thought is not None
    wanted = min(tokens, thought.spare)
    shorter = without(text, random_stretches(thought, wanted, Random(1)))
    assert abs((count(text) - count(shorter)) - wanted) <= TOLERANCE * wanted


def test_what_cannot_be_matched_or_found_is_left_alone_with_a_reason() -> None:
    long = "x = 5. " + "Let me check this: 5 - 3 = 2, and so on and on. " * 5
    examples = [
        Example(id="never", source="s", question="q", thought="It is 4.", answer="5"),
        Example(id="ends", source="s", question="q", thought="We add.\n\nSo it is 5.", answer="5"),
        Example(id="unmatched", source="s", question="q", thought=long, answer="5"),
        Example(id="none", source="s", question="q", answer="5"),
    ]
    _, outcomes = run(examples)
    assert {i: (o, r.split(":")[0]) for i, (o, r, _) in outcomes.items()} == {
        "never": ("skipped", "the right answer is not found in the thought"),
        "ends": ("skipped", "the thought ends with the right answer"),
        "unmatched": ("skipped", "no control"),
        "none": ("skipped", "no thought"),
    }


def test_only_exploring_pieces_go_when_asked_for() -> None:
    reached = f"We look for the sum of two and three of them. {LONG}\n\n2 + 3 = 5."
    more = "\n\nThe units are metres."
    thought = reached + more + "\n\nWait, is it so? Let me check: 5 - 3 = 2.\n"
    example = Example(id="1", source="s", question="q", thought=thought, answer="5")
    (changed,), _ = run([example], scope="exploratory")
    assert changed.thought == reached + more + "\n"
    (changed,), _ = run([example])
    assert changed.thought == reached + "\n"


def test_the_closing_statement_stays_where_nothing_else_states_the_answer() -> None:
    body = "We look at the numbers two and three and add them up, as asked here.\n\nThat gives 2 + 3 = 5.\n\nLet me check: 5 - 3 = 2."
    closing = "\n\nSo the answer is \\boxed{5}."
    turn = Turn(role="assistant", content=f"<think>{body}</think>\n\\boxed{{5}}")
    talk = Example(id="t", source="s", turns=(Turn(role="user", content="2 + 3?"), turn))
    (changed,), _ = run([talk])
    kept = body.split("\n\nLet me")[0]
    assert changed.turns[1].content == f"<think>{kept}</think>\n\\boxed{{5}}"
    bare = with_behaviours(Example(id="b", source="s", question="q", thought=body + closing, answer="5"))
    stated, unstated = examine(bare, "after_correct"), examine(replace(bare, answer=""), "after_correct")
    assert stated and stated.exploration[-1].label == "answer"
    assert unstated and [p.label for p in unstated.exploration] == ["verification"]


def test_pieces_kept_by_the_label_decide_and_do_not_outlive_the_cut() -> None:
    code = "def f(x):\n    return 2 * x\n"
    thought = (
        "Doubling is asked for, so multiply by two and give the product back.\n\n```python\ndef f(y):\n    return y + y\n```\n\n"
        "Let me test it: f(2) is 4.\n"
    )
    example = Example(id="1", source="s", question="double", thought=thought, code=code, tests=("assert f(2) == 4",))
    assert run([example])[1]["1"][1] == "the right answer is not found in the thought"  # it is another program than the gold one
    labelled = example_from_row(example_row(with_behaviours(example, lambda block: "y + y" in block)))
    (changed,), outcomes = run([labelled])
    assert outcomes["1"][0] == "changed" and changed.thought.endswith("```\n") and not kept_pieces(changed)


def test_language_labels_do_not_stop_it() -> None:
    example = replace(EXAMPLES[0], meta={"language": "javascript"})
    assert run([example])[1][example.id][0] == "changed"


def test_options_are_checked() -> None:
    assert PERTURBATIONS.get("exploration")().expects({}) == "unexecuted"
    with pytest.raises(StudyError, match="Did you mean 'random'"):
        check_operations([{"name": "exploration", "options": {"delete": "randm"}}])
    with pytest.raises(StudyError, match="cannot change programs before they are scored"):
        check_operations(["exploration"], scored=True)
