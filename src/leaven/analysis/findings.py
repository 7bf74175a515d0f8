"""RESULTS and declared contrasts -> findings: every contrast with its decision, and the answer.

Holm's adjustment spans all non-descriptive contrasts of the study, every level of `vary` included. A contrast that
cannot be taken (unequal seeds, missing items, a failed condition) becomes a finding with decision "refused" that says
why; it never stops the others.
Not covered: reading and writing artifacts (run.py), the estimator (effect.py), prose and figures (report/).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from leaven.analysis.contrasts import Contrast, Paired, pair, select_rows
from leaven.analysis.effect import Effect
from leaven.analysis.levels import at_level, level_cell, level_words
from leaven.analysis.rule import Answer, decide, difference
from leaven.analysis.stats import holm
from leaven.core.types import Finding
from leaven.errors import DataError, RefusedError, StudyError

FEW_SEEDS, FEW_CLUSTERS = 3, 10
"""Below these the interval's coverage was not checked (docs/statistics.md)."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """One contrast at one level (and difficulty): what was compared and what came out."""

    contrast: Contrast
    level: str
    difficulty: int | None
    paired: Paired | None
    effect: Effect | None
    problem: str
    runs: tuple[str, ...]
    fingerprints: tuple[str, ...]

    @property
    def id(self) -> str:
        """Return the finding's id: contrast, level when there is one, difficulty when it is a row of the breakdown."""
        return f"contrast/{self.contrast.name}{at_level(self.level)}" + (
            "" if self.difficulty is None else f"/difficulty={self.difficulty}"
        )

    @property
    def tested(self) -> bool:
        """Return whether the contrast belongs to the family that Holm adjusts."""
        return self.effect is not None and self.difficulty is None and not self.contrast.descriptive


def contrast_findings(
    results: pl.DataFrame, contrasts: Sequence[Contrast], fingerprints: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return one finding per contrast and level in declared order, then the primary ones by difficulty (descriptive).

    Args:
        results: the RESULTS table.
        fingerprints: run -> where it was computed (versions, processor); a contrast across different ones carries a
            warning.
    """
    taken = []
    for contrast in contrasts:
        levels = _levels(results, contrast)
        taken += [_take(results, contrast, level, None, fingerprints or {}) for level in levels]
        if not levels:
            problem = f"no results in a cell of vary that meets {contrast.where.get('levels')}"
            taken.append(_Taken(contrast, "{}", None, None, None, problem, (), ()))
    for one in [t for t in taken if t.contrast.primary and t.paired is not None]:
        taken += [_take(results, one.contrast, one.level, d, fingerprints or {}) for d in _difficulties(results, one)]
    family = [t for t in taken if t.tested]
    adjusted = dict(zip([t.id for t in family], holm([t.effect.p for t in family if t.effect]), strict=True))
    return [_finding(t, adjusted.get(t.id), len(family)) for t in taken]


def answer_of(question: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the study's answer: the sentence of its primary contrast, one per level when it varies something.

    `decision` is that of the primary contrast: favours, opposes, no_difference or inconclusive; "mixed" when its
    levels differ; "refused" when no level could be taken, so that there is no answer; "none" when the study declares
    no contrast. `answered` is false for "refused" alone: the study asked and got no answer.
    """
    contrasts = [f for f in findings if f.kind == "contrast" and not f.data.get("descriptive")]
    primary = [f for f in contrasts if f.data.get("primary")] or contrasts[:1]
    if not primary:
        answer = "This study declares no contrast, so it has no answer; see the scores."
        return {
            "question": question,
            "answer": answer,
            "finding": None,
            "findings": [],
            "decision": "none",
            "answered": True,
        }
    sentences = [
        f.sentence if len(primary) == 1 else f"{level_words(f.data['level']) or f.title}: {f.sentence}" for f in primary
    ]
    decisions = {f.decision for f in primary}
    decision = decisions.pop() if len(decisions) == 1 else "mixed"
    return {
        "question": question,
        "answer": " ".join(sentences),
        "finding": primary[0].id,
        "findings": [f.id for f in primary],
        "decision": decision,
        "answered": decision != "refused",
    }


def finding_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON types; numbers that JSON lacks (infinite degrees of freedom) become null."""
    return plain_json(dataclasses.asdict(finding))


def _take(
    results: pl.DataFrame, contrast: Contrast, level: str, difficulty: int | None, fingerprints: Mapping[str, str]
) -> _Taken:
    """Select, pair and estimate one contrast; what stands in its way becomes its problem."""
    narrowed = (
        contrast
        if difficulty is None
        else dataclasses.replace(
            contrast, where={**contrast.where, "min_difficulty": difficulty, "max_difficulty": difficulty}
        )
    )
    runs: tuple[str, ...] = ()
    try:
        sides = select_rows(results, narrowed, level)
        runs = tuple(sorted({r for s in sides for r in s["run"].drop_nulls().unique().to_list()}))
        paired = pair(
            *sides,
            names=(contrast.treatment, contrast.control),
            unequal_seeds=contrast.unequal_seeds,
            where=f"contrast {contrast.name!r}{at_level(level)}",
        )
        effect, problem = paired.effect(), ""
    except (RefusedError, DataError, StudyError) as error:
        paired, effect, problem = None, None, str(error)
    return _Taken(
        contrast,
        level,
        difficulty,
        paired,
        effect,
        problem,
        runs,
        tuple(sorted({fingerprints[r] for r in runs if r in fingerprints})),
    )


def _finding(taken: _Taken, p_holm: float | None, family: int) -> Finding:
    """Return the finding of one contrast; a row of the breakdown by difficulty decides and says nothing."""
    contrast, effect = taken.contrast, taken.effect
    measure = f"{contrast.metric} on {contrast.benchmark}{_words_of_where(contrast.where, taken.difficulty)}"
    title = f"{contrast.treatment} vs {contrast.control}: {measure}{at_level(taken.level)}"
    about = {"id": taken.id, "kind": "contrast", "title": title, "runs": taken.runs}
    if effect is None:
        no_answer = f"No answer: {taken.problem}"
        return Finding(
            **about, decision="refused", sentence=no_answer, warnings=(taken.problem,), data=_declared(taken)
        )
    answer = decide(
        effect,
        treatment=contrast.treatment,
        control=contrast.control,
        measure=measure,
        margin=contrast.margin,
        direction=contrast.better,
        p_holm=p_holm,
        family=family,
    )
    whole = taken.difficulty is None
    return Finding(
        **about,
        estimate=effect.estimate,
        low=effect.low,
        high=effect.high,
        unit="share of items" if effect.binary else contrast.metric,
        p=effect.p,
        p_holm=p_holm,
        mde=answer.mde,
        n_items=effect.n_items,
        n_clusters=effect.n_clusters,
        seeds=effect.seeds,
        decision=answer.decision if whole else "",
        sentence=answer.sentence if whole else "",
        warnings=_warnings(taken, effect, answer) if whole else (),
        data={**_declared(taken), **{k: getattr(effect, k) for k in _KEPT}, "family": family if taken.tested else 0},
    )


_KEPT = (
    "se",
    "df",
    "mean_treatment",
    "mean_control",
    "seed_differences",
    "control_seeds",
    "sd_seeds",
    "sd_clusters",
    "sd_both",
    "n_clusters_effective",
    "binary",
)
"""Fields of an Effect that a finding's data repeats."""


def _declared(taken: _Taken) -> dict[str, Any]:
    """Return what the study declared about a contrast and where it was taken."""
    contrast = taken.contrast
    return {
        "name": contrast.name,
        "treatment": contrast.treatment,
        "control": contrast.control,
        "benchmark": contrast.benchmark,
        "metric": contrast.metric,
        "where": dict(contrast.where),
        "level": taken.level,
        "difficulty": taken.difficulty,
        "primary": contrast.primary and taken.difficulty is None,
        "descriptive": contrast.descriptive or taken.difficulty is not None,
        "margin": contrast.margin,
        "direction": contrast.better,
    }


def _warnings(taken: _Taken, effect: Effect, answer: Answer) -> tuple[str, ...]:
    """Return what a reader must know before believing the contrast."""
    out = list(effect.notes)
    found_beyond = answer.decision in ("favours", "opposes") and abs(effect.estimate) >= answer.mde
    if answer.underpowered and not found_beyond:  # an effect larger than what the study can find was not found by luck
        seen = f"underpowered: 80 % power only for differences of {difference(answer.mde, effect.binary)} or more"
        if answer.decision in ("favours", "opposes"):
            out.append(f"{seen}; a significant one is likely overstated")
        elif answer.margin is not None:
            out.append(f"{seen}, the margin is {difference(answer.margin, effect.binary)}")
        else:
            out.append(f"{seen}, and no margin is declared")
    if 1 < min(len(effect.seeds), len(effect.control_seeds)) < FEW_SEEDS:
        out.append(f"fewer than {FEW_SEEDS} seeds: the interval's coverage is not assured")
    if 1 < effect.n_clusters < FEW_CLUSTERS:
        out.append(f"only {effect.n_clusters} item clusters: the interval's coverage is not assured")
    if len(taken.fingerprints) > 1:
        out.append(
            f"mixed fingerprints: the runs were computed in {len(taken.fingerprints)} different environments: "
            + "; ".join(taken.fingerprints)
        )
    return tuple(out)


def _levels(results: pl.DataFrame, contrast: Contrast) -> list[str]:
    """Return the vary cells in which the contrast is taken."""
    wanted = contrast.where.get("levels") or {}
    found = sorted(results["level"].unique().to_list())
    allowed = {k: v if isinstance(v, list) else [v] for k, v in wanted.items()}
    return [x for x in found if all(level_cell(x).get(k) in v for k, v in allowed.items())]


def _difficulties(results: pl.DataFrame, taken: _Taken) -> list[int]:
    """Return the difficulties of a contrast's items when there are several."""
    sides = select_rows(results, taken.contrast, taken.level)
    found = sorted(pl.concat(sides)["difficulty"].drop_nulls().unique().to_list())
    return found if len(found) > 1 else []


def _words_of_where(where: Mapping[str, Any], difficulty: int | None) -> str:
    """Return the restriction of items as words."""
    low, high = (
        (difficulty, difficulty)
        if difficulty is not None
        else (where.get("min_difficulty"), where.get("max_difficulty"))
    )
    parts = []
    if low is not None and low == high:
        parts.append(f"difficulty {low}")
    elif low is not None or high is not None:
        parts.append(
            f"difficulty {low} to {high}"
            if None not in (low, high)
            else f"difficulty {low}+"
            if high is None
            else f"difficulty up to {high}"
        )
    if where.get("seen") is not None:
        parts.append("items seen in training" if where["seen"] else "unseen items")
    return f" ({', '.join(parts)})" if parts else ""


def plain_json(value: Any) -> Any:
    """Return JSON types, with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
