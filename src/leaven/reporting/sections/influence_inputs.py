"""What the sections on influence are made from: plain frozen records, as analysis/influence.py writes them.

Every number is a Measured: estimate, 95 % interval, how many texts (or segments, tokens, subsets) and seeds it rests on.
A cell is one (attribution, condition, level); the first cell leads, the others stand in folded tables. A section appears
when its records are there.
Not covered: computing any of it (analysis/influence*.py), drawing and wording (influence*.py beside).
Paper: Kou et al. 2025, figures 2-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leaven.reporting.sections.inputs import Effect, Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """What one cell's attribution is: its models (seeds), methods, targets with how many queries each has, texts.

    `main` is the method that the page uses where it shows one: the best predictor of retraining, else EK-FAC. `complete`
    says whether every text has a score; only then are there means.
    """

    name: str
    condition: str
    level: str = "{}"
    seeds: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    main: str = ""
    targets: Mapping[str, int] = field(default_factory=dict)
    n_texts: int = 0
    n_lost: int = 0
    n_parameters: int = 0
    n_modules: int = 0
    complete: bool = True
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMean:
    """Mean influence of one group on one target; `length` is raw, per_token or regressed.

    `by` says what groups are (domain, family, language, source, difficulty, kind, behaviour, token_class); `within` is the
    training domain that a grouping is restricted to. The slope over difficulty has the group "slope".
    """

    name: str
    condition: str
    method: str
    target: str
    by: str
    group: str
    mean: Measured
    level: str = "{}"
    decomposition: str = ""
    within: str = ""
    length: str = "raw"
    n_clusters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A group's share among the k most and least helpful texts, and among all (`base`)."""

    name: str
    condition: str
    method: str
    target: str
    by: str
    group: str
    percent: float
    k: int
    base: float
    top: Measured
    bottom: Measured
    level: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedToken:
    """A token of high or low mean influence among the `n_frequent` that occur often enough."""

    name: str
    condition: str
    method: str
    target: str
    token: str
    token_class: str
    side: str
    n_frequent: int
    mean: Measured
    level: str = "{}"
    decomposition: str = ""
    n_clusters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StripPiece:
    """Neighbouring tokens of one step: -2 hurts much, -1 hurts, 0 little, 1 helps, 2 helps much."""

    text: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One text token by token; `n_before` and `n_after` tokens are left out, `largest` is the score of a full step in nats."""

    name: str
    condition: str
    method: str
    target: str
    side: str
    source: str
    example: str
    score: Measured
    pieces: tuple[StripPiece, ...]
    level: str = "{}"
    decomposition: str = ""
    label: str = ""
    n_before: int = 0
    n_after: int = 0
    largest: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an intervention was predicted to do to a target's log-likelihood, and what it did, in nats.

    `predicted` sums influence over every change of weight, `removed` over lowered weights alone; `n_new` examples are new
    and have no score.
    """

    name: str
    reference: str
    condition: str
    method: str
    target: str
    predicted: Measured
    removed: Measured
    level: str = "{}"
    n_new: int = 0
    realised: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How many measured changes have the predicted sign, and their rank correlation over interventions."""

    name: str
    reference: str
    method: str
    target: str
    right_sign: Measured
    level: str = "{}"
    spearman: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthConfound:
    """Rank correlation of scores, and of their size, with the learned tokens of the texts."""

    name: str
    condition: str
    method: str
    target: str
    spearman: Measured
    of_size: Measured
    level: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Rank correlation and overlap of the top k of two methods (`b` "another seed": of one method's own seeds)."""

    name: str
    condition: str
    target: str
    a: str
    b: str
    k: int
    chance: float
    spearman: Measured
    overlap: Measured
    level: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluenceEffect:
    """A number of ours that a claim of the paper may be held against: `measure` as in references_kou2025.py."""

    name: str
    condition: str
    method: str
    target: str
    measure: str
    effect: Measured
    level: str = "{}"
    length: str = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """How well one method predicts retraining, as attribution/agreement.py measures it.

    `kind` is lds (random subsets), group (groups left out), auc (planted helpful against harmful texts) or top (the drop of the
    target in nats when a method's top texts are left out, n = random removals beside it); `statistic` is spearman, pearson,
    sign, auc or top-K and bottom-K. `models_averaged` above 1: scores were averaged over so many models first.
    `minus_reference` is the paired difference to the method `reference` (random removal for top); `ceiling` what the noise of
    retraining leaves possible.
    """

    name: str
    condition: str
    kind: str
    method: str
    query: str
    value: Measured
    statistic: str = "spearman"
    level: str = "{}"
    step: int = -1
    n_seeds: int = 0
    models_averaged: int = 1
    reference: str = ""
    minus_reference: Measured | None = None
    ceiling: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluenceInputs:
    """All that the sections on influence may show; without `models` there is none.

    `accuracies` are measured contrasts of accuracy between conditions by the role they play (`roles`: condition -> original,
    flip, ...); `domains` gives query and benchmark names their domain; `paper` asks for the comparison with Kou et al. 2025.
    """

    models: tuple[Attributed, ...] = ()
    validation: tuple[Validated, ...] = ()
    means: tuple[GroupMean, ...] = ()
    slopes: tuple[GroupMean, ...] = ()
    shares: tuple[Share, ...] = ()
    tokens: tuple[ListedToken, ...] = ()
    strips: tuple[Strip, ...] = ()
    changes: tuple[Change, ...] = ()
    quality: tuple[Quality, ...] = ()
    length: tuple[LengthConfound, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    effects: tuple[InfluenceEffect, ...] = ()
    accuracies: tuple[Effect, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)
    paper: bool = False
    model: str = ""
