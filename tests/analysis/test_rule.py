"""The declared rule: which interval leads to which answer, and what the sentence says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.analysis.effect import Effect, effect
from leaven.analysis.rule import decide, direction_of
from leaven.errors import DataError

NAMES = {"treatment": "thought_code", "control": "code_only", "measure": "accuracy"}
BASE = effect(
    np.random.default_rng(0).random((4, 50)), np.random.default_rng(1).random((4, 50)), range(50), seeds=range(4)
)


def with_interval(estimate: float, half: float, p: float, *, se: float = 0.01, binary: bool = True) -> Effect:
    return dataclasses.replace(
        BASE,
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        p=p,
        se=se,
        df=20.0,
        binary=binary,
        mean_treatment=0.4 + estimate,
        mean_control=0.4,
    )


def test_each_branch() -> None:
    assert decide(with_interval(0.2, 0.05, 1e-4), **NAMES).decision == "favours"
    assert decide(with_interval(-0.2, 0.05, 1e-4), **NAMES).decision == "opposes"
    assert decide(with_interval(0.01, 0.05, 0.6), margin=0.1, **NAMES).decision == "no_difference"
    assert decide(with_interval(0.08, 0.09, 0.1), margin=0.1, **NAMES).decision == "inconclusive"


def test_a_declared_margin_makes_a_small_sure_difference_no_difference() -> None:
    small = with_interval(0.02, 0.01, 1e-4)
    assert decide(small, **NAMES).decision == "favours"
    answer = decide(small, margin=0.05, **NAMES)
    assert answer.decision == "no_difference" and "declared margin of 5.0 points" in answer.sentence


def test_lower_is_better_turns_the_answer() -> None:
    assert direction_of("bits_per_byte") == "lower" and direction_of("accuracy") == "higher"
    answer = decide(with_interval(-0.2, 0.05, 1e-4, binary=False), direction="lower", **NAMES)
    assert answer.decision == "favours" and "does better" in answer.sentence and "lower is better" in answer.sentence


def test_holm_can_take_an_answer_away() -> None:
    one = with_interval(0.2, 0.19, 0.04, se=0.09)
    assert decide(one, **NAMES).decision == "favours"
    answer = decide(one, p_holm=0.12, family=3, **NAMES)
    assert answer.decision == "inconclusive" and "p = 0.12 (Holm, 3 contrasts)" in answer.sentence


@pytest.mark.parametrize("binary", [True, False])
@given(st.floats(-1, 1), st.floats(1e-6, 1))
@settings(max_examples=60, deadline=None)
def test_without_a_declared_margin_there_is_no_no_difference(binary: bool, estimate: float, se: float) -> None:
    half = 2.086 * se
    answer = decide(with_interval(estimate, half, 0.9 if abs(estimate) < half else 0.01, se=se, binary=binary), **NAMES)
    assert answer.decision == ("inconclusive" if abs(estimate) < half else "favours" if estimate > 0 else "opposes")
    assert answer.margin is None and ("with 80 % power" in answer.sentence) == (answer.decision == "inconclusive")


def test_pass_rates_without_a_margin_are_underpowered_above_ten_points() -> None:
    assert decide(with_interval(0.0, 0.3, 1.0, se=0.15), **NAMES).underpowered
    assert not decide(with_interval(0.0, 0.02, 1.0, se=0.01), **NAMES).underpowered
    assert not decide(with_interval(0.0, 0.3, 1.0, se=0.15, binary=False), **NAMES).underpowered


@pytest.mark.parametrize(
    "metric", ["bits_per_byte", "loss", "valid_loss", "test/perplexity", "word_error_rate", "error", "tokens"]
)
def test_lower_is_better_by_the_whole_name_or_its_end(metric: str) -> None:
    assert direction_of(metric) == "lower"


@pytest.mark.parametrize(
    "metric", ["accuracy", "lossless", "error_recovery", "orbits", "glossary", "loss_avoided", "bits_saved"]
)
def test_parts_of_words_say_nothing_about_the_direction(metric: str) -> None:
    assert direction_of(metric) == "higher"


def test_the_sentence_carries_the_numbers() -> None:
    text = decide(with_interval(0.2, 0.05, 1e-6), **NAMES).sentence
    for part in (
        "thought_code does better than code_only",
        "60.0 % against 40.0 %",
        "+20.0 points",
        "+15.0 to +25.0",
        "p < 0.0001",
        "50 items",
        "4 seeds a side",
    ):
        assert part in text, text


@given(st.floats(-1, 1), st.floats(0.001, 1), st.floats(0.001, 1), st.sampled_from(["higher", "lower"]))
@settings(max_examples=100, deadline=None)
def test_answers_follow_from_the_interval(estimate: float, half: float, margin: float, direction: str) -> None:
    found = with_interval(estimate, half, 0.01 if abs(estimate) > half else 0.5)
    answer = decide(found, margin=margin, direction=direction, **NAMES)  # type: ignore[arg-type]
    if max(abs(found.low), abs(found.high)) < margin:
        assert answer.decision == "no_difference"
    elif found.low > 0 or found.high < 0:
        assert answer.decision == ("favours" if (estimate > 0) == (direction == "higher") else "opposes")
    else:
        assert answer.decision == "inconclusive"


def test_margin_must_be_positive() -> None:
    with pytest.raises(DataError, match="margin"):
        decide(BASE, margin=0.0, **NAMES)
