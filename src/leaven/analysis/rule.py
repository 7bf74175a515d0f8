"""An effect, its margin and its family -> decision and the sentence that answers the question.

The declared rule (docs/statistics.md), in this order, with the sign turned so that positive is better: 1.
no_difference: a margin is declared and the 95 % interval lies inside +-margin;  2. favours: it lies above 0 and Holm's
p <= 0.05; 3. opposes: it lies below 0 and Holm's p <= 0.05;  4. inconclusive: anything else. Nothing stands in for a
margin that the study does not declare: what a study happened to be able to see is found after the fact from its own
noise, and estimates smaller than that noise occur by chance at any sample size.
Not covered: computing the effect (effect.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leaven.analysis.effect import Effect
from leaven.analysis.power import minimum_detectable_effect
from leaven.errors import DataError

Decision = Literal["favours", "opposes", "no_difference", "inconclusive"]
Direction = Literal["higher", "lower"]

LARGE_PASS_RATE_DIFFERENCE = 0.1
"""Share of items: a contrast of pass rates without a margin that could not have seen this much is underpowered."""

LOWER_IS_BETTER = ("bits_per_byte", "perplexity", "loss", "nats", "bits", "error", "error_rate", "tokens")
"""Metrics for which less is better, by their whole name or its last words; `direction` in the contrast overrides."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the rule says about one effect; `margin` is the declared one, None when the study declares none."""

    decision: Decision
    sentence: str
    mde: float
    margin: float | None
    underpowered: bool


def direction_of(metric: str) -> Direction:
    """Return whether more or less of `metric` is better, by its name: "valid_loss" is a loss, "lossless" is not."""
    name = metric.lower().replace("-", "_").replace(" ", "_").replace("/", "_")
    return "lower" if any(name == known or name.endswith(f"_{known}") for known in LOWER_IS_BETTER) else "higher"


def decide(
    effect: Effect,
    *,
    treatment: str,
    control: str,
    measure: str,
    margin: float | None = None,
    direction: Direction = "higher",
    p_holm: float | None = None,
    family: int = 1,
    alpha: float = 0.05,
) -> Answer:
    """Apply the declared rule and say the result in one sentence.

    Args:
        treatment, control: names as they should appear in the sentence; measure: what was measured, e.g. "program
            accuracy".
        margin: the smallest difference that would matter, in score units; None when the study declares none.
        p_holm: p adjusted for the `family` contrasts of the study; None when there is only one.

    Raises DataError for a margin that is not positive.
    """
    if margin is not None and not margin > 0:
        raise DataError(f"margin: expected a positive difference in score units, found {margin}")
    mde = minimum_detectable_effect(effect.se, effect.df)
    sign = 1.0 if direction == "higher" else -1.0
    better_low, better_high = sorted((sign * effect.low, sign * effect.high))
    significant = (effect.p if p_holm is None else p_holm) <= alpha
    decision: Decision = "inconclusive"
    if margin is not None and -margin < effect.low and effect.high < margin:
        decision = "no_difference"
    elif better_low > 0 and significant:
        decision = "favours"
    elif better_high < 0 and significant:
        decision = "opposes"
    sentence = _sentence(effect, decision, treatment, control, measure, margin, direction, p_holm, family, mde)
    wanted = margin if margin is not None else LARGE_PASS_RATE_DIFFERENCE if effect.binary else None
    return Answer(decision, sentence, mde, margin, wanted is not None and mde > wanted)


def _sentence(
    effect: Effect,
    decision: Decision,
    treatment: str,
    control: str,
    measure: str,
    margin: float | None,
    direction: Direction,
    p_holm: float | None,
    family: int,
    mde: float,
) -> str:
    """Return the answer in plain English with every number a reader needs to judge it."""
    levels = f"{amount(effect.mean_treatment, effect.binary)} against {amount(effect.mean_control, effect.binary)}"
    lower = ", lower is better" if direction == "lower" else ""
    signed = _number(effect.estimate, effect.binary) + (" points" if effect.binary else "")
    head = {
        "favours": f"{treatment} does better than {control} in {measure}: {levels}{lower}, {signed}",
        "opposes": f"{treatment} does worse than {control} in {measure}: {levels}{lower}, {signed}",
        "no_difference": "No difference beyond the declared margin of "
        f"{difference(margin or 0.0, effect.binary)} between {treatment} and "
        f"{control} in {measure}: {levels}, {signed}",
        "inconclusive": f"Inconclusive: {treatment} and {control} may or may not differ in {measure}: {levels}, "
        f"{signed}",
    }[decision]
    tail = f"{_p_text(effect.p, p_holm, family)}; {_base(effect)}."
    if decision == "inconclusive":
        tail = f"{tail[:-1]}; this study finds differences of {difference(mde, effect.binary)} or more with 80 % power."
    low, high = (_number(x, effect.binary) for x in (effect.low, effect.high))
    return f"{head} [95 % interval {low} to {high}], {tail}"


def amount(value: float, binary: bool) -> str:
    """Return a mean score as people read it: a percentage for pass rates, the number otherwise."""
    return f"{100 * value:.1f} %" if binary else f"{value:.4g}"


def difference(value: float, binary: bool) -> str:
    """Return the size of a difference without its sign: percentage points for pass rates, the number otherwise."""
    return f"{100 * abs(value):.1f} points" if binary else f"{abs(value):.3g}"


def _number(value: float, binary: bool) -> str:
    """Return a signed number in points or score units."""
    return f"{100 * value:+.1f}" if binary else f"{value:+.3g}"


def _p_text(p: float, p_holm: float | None, family: int) -> str:
    """Return p, adjusted and saying so when several contrasts were tested."""
    value = p if p_holm is None or family < 2 else p_holm
    shown = "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
    return shown if value is p else f"{shown} (Holm, {family} contrasts)"


def _base(effect: Effect) -> str:
    """Return what the estimate rests on: items, clusters when they differ, seeds."""
    items = f"{effect.n_items} items" + (
        f" in {effect.n_clusters} clusters" if effect.n_clusters != effect.n_items else ""
    )
    a, b = len(effect.seeds), len(effect.control_seeds)
    return f"{items}, " + (f"{a} seed{'s' if a != 1 else ''} a side" if a == b else f"{a} and {b} seeds")
