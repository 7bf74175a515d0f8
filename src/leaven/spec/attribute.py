"""The `attribute` section: which trained models are asked which of their training examples helped them with what.

Not covered: what the methods compute (attribution/); conditions that use the scores (data.py: leave_out, reweigh).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from leaven.spec.data import CONFIG, World
from leaven.spec.lines import Problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be explained: the mean log-likelihood of texts (Kou et al. 2025: of the items answered correctly)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    of: str | None = None
    """A benchmark under `measure`: its items."""
    world: World | None = None
    """Or examples drawn from the embedded world."""
    file: str | None = None
    """Or examples from a file: `data:NAME` or a path relative to the study file."""
    texts: Literal["reference", "own_correct"] = "reference"
    """reference: the items' own responses; own_correct: what the model itself answered to the items that it got right."""
    metric: str = "accuracy"
    """Which verdicts say what is right, for own_correct."""
    format: str = "trained"
    """Format of reference texts; `trained`: the one of the model's last stage."""
    difficulties: tuple[int, ...] = ()
    """Only items of these difficulties; none named means all."""
    limit: int | None = None
    """Only the first texts."""
    domain: str = ""
    """Domain that the target belongs to (code, math ...), as sources have one; empty: the query's own name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """Models trained again without part of the examples: the truth that scores are judged by."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    kind: Literal["half", "groups", "top"] = "half"
    """half: random subsets (linear datamodelling score); groups: each group of `by` left out in turn; top: the examples at one end of
    the scores, beside random removals of as many."""
    n: int = 100
    """How many subsets, for half."""
    fraction: float = 0.5
    """Share of the examples left out, for half."""
    by: Literal["difficulty", "domain", "family", "source", "group"] = "source"
    """What groups are."""
    groups: tuple[str, ...] = ()
    """Which of them are left out; none named means all."""
    counts: tuple[int, ...] = (10, 50)
    """How many examples are left out, for top."""
    end: Literal["helpful", "harmful"] = "helpful"
    """Which end, for top."""
    controls: int = 8
    """Random removals of each count, for top."""
    checkpoints: int = 1
    """At how many evenly spaced points of training the models are asked; the last is the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Sources whose right influence on a target is known, because they were made so (perturb: swap_phrases, exchange)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    helpful: tuple[str, ...]
    """They must help."""
    harmful: tuple[str, ...] = ()
    """They must hurt."""
    noise: tuple[str, ...] = ()
    """They should do neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribution: models, targets, method. Runs after measuring; `leave_out` and `reweigh` of other conditions may use it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    of: tuple[str, ...]
    """Conditions whose models are asked; all examples of their last stage's sources get a score."""
    queries: dict[str, Target]
    """Name -> target."""
    level: Literal["instance", "segment", "token"] = "instance"
    """The finest level of the table."""
    decompositions: tuple[Literal["position", "loss", "leave_out"], ...] = ("position",)
    """How finer levels are split (attribution/scores.py)."""
    modules: Literal["mlp", "linear", "linear+head"] = "mlp"
    """Which layers are tracked."""
    fisher: Literal["true", "empirical"] = "true"
    """Labels drawn from the model, or those of the data."""
    damping: float = 0.1
    """As a multiple of each layer's mean eigenvalue."""
    refine: int = 0
    """Passes of the matrix-free refinement after EK-FAC; 0 = none."""
    baselines: tuple[str, ...] = ()
    """Other methods to score by (attribution/baselines.py)."""
    single: bool = False
    """One query per target text instead of their mean."""
    reduce: Literal["sum", "mean"] = "sum"
    """Log-likelihood of a text: summed or averaged over its tokens."""
    keep: int = 0
    """Keep each query's highest and lowest texts only; 0 = all."""
    seeds: Literal["mean", "own"] = "mean"
    """Which scores an intervention uses: the mean over all seeds' models, or those of its own seed's model."""
    retrain: dict[str, Retraining] = field(default_factory=dict)
    """Name -> models trained again (embedded models only): how well each method predicts them is the report's first line on influence."""
    planted: dict[str, Planted] = field(default_factory=dict)
    """Query -> sources whose influence on it is known: how well each method tells them apart."""


def check_attribution(
    found: dict[str, Attribute], benchmarks: list[str], conditions: list[str], sources: list[str], problems: Problems
) -> None:
    """Add a message for names that point nowhere and values that mean nothing."""
    for name, asked in found.items():
        at = f"attribute.{name}"
        if not asked.of:
            problems.at(f"{at}.of", "expected at least one condition whose models are asked, found none")
        for condition in asked.of:
            problems.must(f"{at}.of", condition, conditions, "a condition")
        if not asked.queries:
            problems.at(f"{at}.queries", "expected at least one target, such as {code: {of: BENCHMARK}}, found none")
        for query, target in asked.queries.items():
            _check_target(f"{at}.queries.{query}", target, benchmarks, problems)
        for query, told in asked.planted.items():
            problems.must(f"{at}.planted.{query}", query, asked.queries, "a query of this attribution")
            for source in (*told.helpful, *told.harmful, *told.noise):
                problems.must(f"{at}.planted.{query}", source, sources, "a source")
            if not told.helpful or not (told.harmful or told.noise):
                problems.at(f"{at}.planted.{query}", "expected helpful sources, and harmful ones or noise to tell them from")
        for retrained, how in asked.retrain.items():
            if how.kind == "top" and not how.counts:
                problems.at(f"{at}.retrain.{retrained}.counts", "expected how many examples are left out, such as [10, 50], found none")


def _check_target(at: str, target: Target, benchmarks: list[str], problems: Problems) -> None:
    origins = [k for k in ("of", "world", "file") if getattr(target, k) is not None]
    if len(origins) != 1:
        problems.at(at, f"expected exactly one of `of`, world and file as the origin of its texts, found {', '.join(origins) or 'none'}")
    if target.of is not None:
        problems.must(f"{at}.of", target.of, benchmarks, "a benchmark under measure")
    elif target.texts == "own_correct":
        problems.at(f"{at}.texts", "own_correct needs the model's answers to a benchmark; expected `of: BENCHMARK` beside it")
