"""What a report says, as plain frozen records: the one argument of `render_html`.

Findings, tables and the resolved study are read into these records by read.py; figures.py and render.py see nothing
else, so a report can be drawn from a hand-made value, and drawing never opens a file.
Not covered: computing any of the numbers (analysis/).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from leaven.core.types import Finding
from leaven.reporting.sections.influence_inputs import InfluenceInputs
from leaven.reporting.sections.inputs import OrderInputs

SCOPES = {True: "items seen in training", False: "unseen items"}

MEASURED_ONLY = ("bits_per_byte",)
"""Metrics that measure an item without judging the answer: their rows carry the status "pass" and pass nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A condition's score on one benchmark metric, over all items or over the items of one difficulty.

    `scope` names a part of the items ("unseen items"), "" for all or for one difficulty; `binary` marks pass rates,
    which are shown as percentages; `low`, `high` bound the 95 % interval; `per_seed` holds each seed's own mean;
    `seen` is true when training may contain these items by construction, null when only some of them are seen;
    `n_missing` counts verdicts that were not measured.
    """

    condition: str
    benchmark: str
    metric: str = "accuracy"
    level: str = ""
    scope: str = ""
    difficulty: int | None = None
    seen: bool | None = False
    binary: bool = False
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n_items: int = 0
    n_clusters: int = 0
    n_missing: int = 0
    seeds: tuple[int, ...] = ()
    per_seed: tuple[float, ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The loss of one training run: `points` are (step, nats per learned token), thinned to at most a few hundred."""

    condition: str
    seed: int
    level: str = ""
    stage: str = ""
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How much of a source a condition was to train on in a stage, and how much it did, in `unit`."""

    condition: str
    stage: str
    source: str
    planned: float
    realised: float
    unit: str = "examples"
    level: str = ""
    seeds: tuple[int, ...] = ()
    worst_block: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one condition answered to one item: raw model text, what was extracted from it and how it was judged.

    `metric` is the one that judged the answer (a measured one where nothing else was asked for); `also` holds the
    other metrics of the same answer with their values.
    """

    condition: str
    seed: int
    raw: str
    extracted: str = ""
    status: str = ""
    score: float | None = None
    metric: str = ""
    also: tuple[tuple[str, float | None], ...] = ()
    detail: str = ""
    level: str = ""
    run: str = ""

    @property
    def measured(self) -> bool:
        """Return whether the answer was measured and not judged: no pass or fail may be said of it."""
        return self.metric in MEASURED_ONLY or (self.status == "pass" and self.score != 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One benchmark item of the sample browser with the outputs of the conditions side by side."""

    item: str
    benchmark: str
    prompt: str
    gold: str = ""
    difficulty: int | None = None
    difficulty_unit: str = ""
    seen: bool = False
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One evaluated model: where its numbers come from.

    `node` is the readable path of its verdicts, `key` their artifact key, `model` the key of the model, `machines`
    the positions in ReportData.fingerprints of the machines that trained, sampled and judged it.
    """

    id: str
    condition: str
    seed: int
    level: str = ""
    benchmark: str = ""
    node: str = ""
    key: str = ""
    model: str = ""
    machines: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A named arm of the study and the study paths in which it differs from the first one."""

    name: str
    description: str = ""
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything one report shows; `facts` keeps parts of the resolved study for the methods (model, train, stages).

    `order` feeds the sections on the order of thought and code, `influence` those on the influence of training examples; what is
    empty in them makes no section.
    """

    study: str
    question: str
    answer: str
    version: str = ""
    lock_digest: str = ""
    primary: str = ""
    conditions: tuple[Condition, ...] = ()
    contrasts: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    scores: tuple[Score, ...] = ()
    curves: tuple[Curve, ...] = ()
    mixtures: tuple[Mixture, ...] = ()
    samples: tuple[Shown, ...] = ()
    samples_total: int = 0
    differences: tuple[tuple[str, dict[str, Any]], ...] = ()
    warnings: tuple[str, ...] = ()
    licences: tuple[dict[str, Any], ...] = ()
    runs: tuple[Run, ...] = ()
    fingerprints: tuple[dict[str, Any], ...] = ()
    seeds: tuple[int, ...] = ()
    benchmarks: tuple[dict[str, Any], ...] = ()
    references: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    order: OrderInputs = field(default_factory=OrderInputs)
    influence: InfluenceInputs = field(default_factory=InfluenceInputs)

    def is_primary(self, contrast: Finding) -> bool:
        """Return whether a contrast answers the question (one for each level of what the study varies)."""
        return bool(self.primary) and contrast.id == self.primary or bool(contrast.data.get("primary"))

    def leading_scores(self) -> tuple[Score, ...]:
        """Return the scores that stand first: over the primary contrast's items where those are scored apart, else all.

        Only contrasts restricted to seen or to unseen items have such scores.
        """
        primary = self.primary_contrast()
        where = dict(primary.data.get("where") or {}) if primary else {}
        scope = SCOPES.get(where["seen"], "") if set(where) == {"seen"} else ""
        apart = {(s.benchmark, s.metric) for s in self.scores if s.scope and s.scope == scope}
        overall = (s for s in self.scores if s.difficulty is None)
        return tuple(s for s in overall if s.scope == (scope if (s.benchmark, s.metric) in apart else ""))

    def primary_contrast(self) -> Finding | None:
        """Return the declared primary contrast, or None when the study declares none or it was not computed."""
        return next((c for c in self.contrasts if self.primary and c.id == self.primary), None)
