"""RESULTS and declared contrasts -> findings: every contrast with its decision, every score, curve and mixture, and the answer.

Holm's adjustment spans all non-descriptive contrasts of the study, every level of `vary` included. A contrast that cannot be taken (unequal
seeds, missing items, a failed condition) becomes a finding with decision "refused" that says why; it never stops the others.
Not covered: reading and writing artifacts (run.py), the estimator (effect.py), prose and figures (report/).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from leaven.analysis.contrasts import Contrast, Paired, pair, select_rows
from leaven.analysis.effect import Effect
from leaven.analysis.results import mean_curve
from leaven.analysis.rule import Answer, decide
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
        return f"contrast/{self.contrast.name}{_at(self.level)}" + ("" if self.difficulty is None else f"/difficulty={self.difficulty}")

    @property
    def tested(self) -> bool:
        """Return whether the contrast belongs to the family that Holm adjusts."""
        return self.effect is not None and self.difficulty is None and not self.contrast.descriptive


def contrast_findings(results: pl.DataFrame, contrasts: Sequence[Contrast], fingerprints: Mapping[str, str] | None = None) -> list[Finding]:
    """Return one finding per contrast and level in declared order, then the primary ones by difficulty (descriptive).

    Args:
        results: the RESULTS table.
        fingerprints: run -> where it was computed (versions, processor); a contrast across different ones carries a warning.
    """
    taken = [_take(results, c, level, None, fingerprints or {}) for c in contrasts for level in _levels(results, c)]
    for one in [t for t in taken if t.contrast.primary and t.paired is not None]:
        taken += [_take(results, one.contrast, one.level, d, fingerprints or {}) for d in _difficulties(results, one)]
    family = [t for t in taken if t.tested]
    adjusted = dict(zip([t.id for t in family], holm([t.effect.p for t in family if t.effect]), strict=True))
    return [_finding(t, adjusted.get(t.id), len(family)) for t in taken]


def score_findings(scores: pl.DataFrame) -> list[Finding]:
    """Return a finding per condition's overall score and one table per benchmark and metric by difficulty."""
    out = []
    overall = scores.filter(pl.col("seed").is_null() & pl.col("difficulty").is_null() & pl.col("seen").is_null())
    for row in overall.iter_rows(named=True):
        name = f"{row['condition']}/{row['benchmark']}/{row['metric']}{_at(row['level'])}"
        warnings = (f"{row['n_not_measured']} items were not measured and are left out",) if row["n_not_measured"] else ()
        if row["n_distinct"] < row["n_items"]:
            warnings += (f"{row['n_items']} items, but only {row['n_distinct']} differ in their text",)
        out.append(Finding(
            id=f"score/{name}", kind="score", title=f"{row['metric']} of {row['condition']} on {row['benchmark']}{_at(row['level'])}",
            estimate=row["mean"], low=row["low"], high=row["high"], unit=row["metric"], n_items=row["n_items"], n_clusters=row["n_clusters"],
            seeds=tuple(row["seeds"]), warnings=warnings, runs=tuple(row["runs"]),
            data={k: row[k] for k in ("condition", "level", "benchmark", "metric", "interval", "sd_seeds", "k", "n", "n_distinct")}))
    deep = scores.filter(pl.col("seed").is_null() & pl.col("difficulty").is_not_null())
    for (benchmark, metric), part in deep.group_by("benchmark", "metric", maintain_order=True):
        rows = part.select("condition", "level", "difficulty", "seen", "mean", "low", "high", "n_items", "n_distinct", "k", "n", "seeds")
        out.append(Finding(id=f"difficulty/{benchmark}/{metric}", kind="table", title=f"{metric} on {benchmark} by difficulty", unit=str(metric),
                           runs=tuple(sorted({r for runs in part["runs"] for r in runs})), data={"rows": rows.to_dicts()}))
    return out


def curve_findings(curves: pl.DataFrame) -> list[Finding]:
    """Return one finding per stage with the loss at its last step per condition and level."""
    if curves.is_empty():
        return []
    mean = mean_curve(curves)
    out = []
    for (stage,), part in mean.group_by("stage", maintain_order=True):
        last = part.sort("step").group_by("condition", "level", maintain_order=True).last()
        out.append(Finding(id=f"curve/{stage}", kind="curve", title=f"Training loss of stage {stage}", unit="nats per learned token",
                           data={"last": last.sort("condition", "level").to_dicts()}))
    return out


def mixture_findings(realised: pl.DataFrame) -> list[Finding]:
    """Return one table finding: planned and realised amounts per condition, stage and source, and the largest deviation in one block."""
    if realised.is_empty():
        return []
    keys = ["condition", "level", "stage", "source", "unit"]
    per_seed = realised.sort("seed", "block").group_by(*keys, "seed", maintain_order=True).agg(pl.col("planned").sum(), pl.col("realised").sum(),
                                                    (pl.col("realised") - pl.col("planned")).abs().max().alias("worst_block"))
    table = per_seed.group_by(keys, maintain_order=True).agg(pl.col("planned").mean(), pl.col("realised").mean(), pl.col("worst_block").max()).sort(keys)
    return [Finding(id="mixture", kind="table", title="Planned and realised mixtures", data={"rows": table.to_dicts()})]


def answer_of(question: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the study's answer: the sentence of its primary contrast, one per level when it varies something."""
    contrasts = [f for f in findings if f.kind == "contrast" and not f.data.get("descriptive")]
    primary = [f for f in contrasts if f.data.get("primary")] or contrasts[:1]
    if not primary:
        return {"question": question, "answer": "This study declares no contrast, so it has no answer; see the scores.", "finding": None,
                "findings": [], "decision": ""}
    sentences = [f.sentence if len(primary) == 1 else f"{_words(f.data['level']) or f.title}: {f.sentence}" for f in primary]
    decisions = {f.decision for f in primary}
    return {"question": question, "answer": " ".join(sentences), "finding": primary[0].id, "findings": [f.id for f in primary],
            "decision": decisions.pop() if len(decisions) == 1 else "mixed"}


def finding_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON types; numbers that JSON lacks (infinite degrees of freedom) become null."""
    return plain_json(dataclasses.asdict(finding))


def _take(results: pl.DataFrame, contrast: Contrast, level: str, difficulty: int | None, fingerprints: Mapping[str, str]) -> _Taken:
    """Select, pair and estimate one contrast; what stands in its way becomes its problem."""
    narrowed = contrast if difficulty is None else dataclasses.replace(
        contrast, where={**contrast.where, "min_difficulty": difficulty, "max_difficulty": difficulty})
    runs: tuple[str, ...] = ()
    try:
        sides = select_rows(results, narrowed, level)
        runs = tuple(sorted({r for s in sides for r in s["run"].drop_nulls().unique().to_list()}))
        paired = pair(*sides, names=(contrast.treatment, contrast.control), unequal_seeds=contrast.unequal_seeds,
                      where=f"contrast {contrast.name!r}{_at(level)}")
        effect, problem = paired.effect(), ""
    except (RefusedError, DataError, StudyError) as error:
        paired, effect, problem = None, None, str(error)
    return _Taken(contrast, level, difficulty, paired, effect, problem, runs, tuple(sorted({fingerprints[r] for r in runs if r in fingerprints})))


def _finding(taken: _Taken, p_holm: float | None, family: int) -> Finding:
    """Return the finding of one contrast."""
    contrast, effect = taken.contrast, taken.effect
    descriptive = contrast.descriptive or taken.difficulty is not None
    restricted = _words_of_where(contrast.where, taken.difficulty)
    title = f"{contrast.treatment} vs {contrast.control}: {contrast.metric} on {contrast.benchmark}{restricted}{_at(taken.level)}"
    data: dict[str, Any] = {
        "name": contrast.name, "treatment": contrast.treatment, "control": contrast.control, "benchmark": contrast.benchmark,
        "metric": contrast.metric, "where": dict(contrast.where), "level": taken.level, "difficulty": taken.difficulty,
        "primary": contrast.primary and taken.difficulty is None, "descriptive": descriptive, "declared_margin": contrast.margin,
        "direction": contrast.better}
    if effect is None:
        return Finding(id=taken.id, kind="contrast", title=title, decision="refused", sentence=f"No answer: {taken.problem}",
                       warnings=(taken.problem,), runs=taken.runs, data=data)
    measure = f"{contrast.metric} on {contrast.benchmark}{restricted}"
    answer = decide(effect, treatment=contrast.treatment, control=contrast.control, measure=measure, margin=contrast.margin,
                    direction=contrast.better, p_holm=p_holm, family=family)
    data.update({k: getattr(effect, k) for k in (
        "se", "df", "mean_treatment", "mean_control", "seed_differences", "control_seeds", "sd_seeds", "sd_clusters", "sd_both",
        "n_clusters_effective", "binary")}, margin=answer.margin, family=family if taken.tested else 0)
    return Finding(
        id=taken.id, kind="contrast", title=title, estimate=effect.estimate, low=effect.low, high=effect.high,
        unit="share of items" if effect.binary else contrast.metric, p=effect.p, p_holm=p_holm, mde=answer.mde, n_items=effect.n_items,
        n_clusters=effect.n_clusters, seeds=effect.seeds, decision="" if taken.difficulty is not None else answer.decision,
        sentence="" if taken.difficulty is not None else answer.sentence,
        warnings=() if taken.difficulty is not None else _warnings(taken, effect, answer), runs=taken.runs, data=data)


def _warnings(taken: _Taken, effect: Effect, answer: Answer) -> tuple[str, ...]:
    """Return what a reader must know before believing the contrast."""
    out = list(effect.notes)
    threshold = taken.contrast.margin if answer.declared else answer.margin
    if answer.underpowered and answer.decision in ("favours", "opposes"):
        out.append(f"underpowered: 80 % power only for differences of {answer.mde:.3g} or more; a significant one is likely overstated")
    elif answer.underpowered:
        out.append(f"underpowered: 80 % power only for differences of {answer.mde:.3g} or more, the margin is {threshold:.3g}")
    if 1 < min(len(effect.seeds), len(effect.control_seeds)) < FEW_SEEDS:
        out.append(f"fewer than {FEW_SEEDS} seeds: the interval's coverage is not assured")
    if 1 < effect.n_clusters < FEW_CLUSTERS:
        out.append(f"only {effect.n_clusters} item clusters: the interval's coverage is not assured")
    if len(taken.fingerprints) > 1:
        out.append(f"mixed fingerprints: the runs were computed in {len(taken.fingerprints)} different environments: "
                   + "; ".join(taken.fingerprints))
    return tuple(out)


def _levels(results: pl.DataFrame, contrast: Contrast) -> list[str]:
    """Return the vary cells in which the contrast is taken."""
    wanted = contrast.where.get("levels") or {}
    found = sorted(results["level"].unique().to_list())
    kept = [x for x in found if all(_cell(x).get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items())]
    if not kept:
        raise StudyError(f"contrast {contrast.name!r}: where.levels {dict(wanted)} matches none of {found}")
    return kept


def _difficulties(results: pl.DataFrame, taken: _Taken) -> list[int]:
    """Return the difficulties of a contrast's items when there are several."""
    sides = select_rows(results, taken.contrast, taken.level)
    found = sorted(pl.concat(sides)["difficulty"].drop_nulls().unique().to_list())
    return found if len(found) > 1 else []


def _cell(level: str) -> dict[str, Any]:
    """Return the vary cell behind its canonical JSON; {} for a study that varies nothing."""
    value = json.loads(level) if level else {}
    if not isinstance(value, dict):
        raise DataError(f"level: expected the JSON of a mapping, found {level!r}")
    return value


def _words(level: str) -> str:
    """Return a vary cell as words: "size=small, lr=0.004"."""
    return ", ".join(f"{k}={v}" for k, v in sorted(_cell(level).items()))


def _at(level: str) -> str:
    """Return " @ size=small" for a vary cell, "" for none."""
    return f" @ {_words(level)}" if _cell(level) else ""


def _words_of_where(where: Mapping[str, Any], difficulty: int | None) -> str:
    """Return the restriction of items as words."""
    low, high = (difficulty, difficulty) if difficulty is not None else (where.get("min_difficulty"), where.get("max_difficulty"))
    parts = []
    if low is not None and low == high:
        parts.append(f"difficulty {low}")
    elif low is not None or high is not None:
        parts.append(f"difficulty {low} to {high}" if None not in (low, high) else f"difficulty {low}+" if high is None else f"difficulty up to {high}")
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
