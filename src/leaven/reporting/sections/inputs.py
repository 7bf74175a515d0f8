"""What the sections on the order of thought and code are made from: plain frozen records, one per kind of result.

Every field that is a number a reader may quote is a Measured: estimate, 95 % interval, what it rests on. A section
appears when its records are there; OrderInputs() makes none. `inputs_from` reads the same records from plain JSON.
Not covered: computing any of these numbers (analysis/, probes/, data/), drawing and wording them (the files beside).
Paper: Liu et al. 2025, tables 1-13 and figures 1-15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from leaven.errors import DataError

STRATEGIES = ("seed", "code_only", "thought_code", "code_thought", "mixed", "filler_code")
"""What a condition trains on: the original response, code, thought then code (C_follow), code then thought (C_precede),
both patterns for the same question, as many words that carry no thought then code. A changed form of one of them is
written with a plus: "code_thought+no_signature", "+no_comments", "+no_docstrings", "+renamed", "+inconsistent",
"+noise"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One number with its 95 % interval, how many items or examples it rests on, its seeds and its runs.

    `n` counts what was averaged (items of a benchmark, examples of a probe); `runs` are ids, nodes or keys of
    ReportData.runs, which the page links to.
    """

    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyResult:
    """A condition's score on one benchmark, and what it cost: paper tables 1, 2, 3, 7 and 12.

    `difficulty` is None for all items. `binary` marks pass rates (shares of 1, shown as per cent). `prompted` names the
    order that the model was made to answer in, where it is not the one it was trained on. `trained_tokens` and
    `learned_tokens` are totals over all stages, mean over seeds; `generated_tokens` is the mean per answer (the cost of
    inference); `parse_failures` the share of answers from which nothing could be extracted.
    """

    condition: str
    benchmark: str
    score: Measured
    metric: str = "accuracy"
    level: str = ""
    difficulty: int | None = None
    prompted: str = ""
    binary: bool = True
    trained_tokens: float | None = None
    learned_tokens: float | None = None
    generated_tokens: Measured | None = None
    parse_failures: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A histogram over examples of one measured value: paper figures 3, 4 and 11.

    `measure` is one of MEASURES (others are shown under their own name); `part` says whose tokens (thought, code);
    `given` what they are conditioned on ("prompt", "prompt and code"). `edges` has one entry more than `counts`; counts
    of seeds are added up. `mean` and `sd` are those of the values, not of the bins; the Gaussian fit is drawn from them.
    """

    measure: str
    condition: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    mean: Measured
    sd: float
    part: str = ""
    given: str = ""
    unit: str = ""
    level: str = ""

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or any(b <= a for a, b in pairwise(self.edges)):
            raise DataError(
                f"distribution {self.measure!r} of {self.condition!r}: expected rising edges, one more than counts; "
                f"found {len(self.edges)} edges and {len(self.counts)} counts"
            )


MEASURES = {
    "perplexity": "Conditional perplexity",
    "log_perplexity": "Conditional log perplexity",
    "kl": "KL divergence from the base model, KL(trained \u2016 base)",
    "reverse_kl": "KL divergence to the base model, KL(base \u2016 trained)",
    "validation_loss": "Validation loss",
    "similarity": "Similarity to the instruction",
}
"""Names of the measured values that the paper draws as histograms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference between two distributions of one measure, paired by example: the gap of the means.

    `label` says what is subtracted from what ("thought minus code" within one condition, or "a vs b"); `condition` is
    "" when it compares two conditions; `p` and `test` are those of the test that was made, if any.
    """

    measure: str
    label: str
    effect: Measured
    condition: str = ""
    p: float | None = None
    test: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A stretch of the attention map: cells `start` (included) to `end` (not included), fractions allowed."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionMass:
    """The share of the attention of region `query` that goes to region `key`; shares of one query sum to 1."""

    query: str
    key: str
    share: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMap:
    """Attention of one layer, averaged over heads, examples and seeds, resized to a square grid: paper figure 5.

    `grid[row][column]` is the weight that the tokens of `row` give to those of `column`, both from first to last.
    """

    condition: str
    grid: tuple[tuple[float, ...], ...]
    regions: tuple[Region, ...] = ()
    masses: tuple[RegionMass, ...] = ()
    layer: str = "last"
    n: int = 0
    seeds: tuple[int, ...] = ()
    level: str = ""

    def __post_init__(self) -> None:
        if not self.grid or any(len(row) != len(self.grid) for row in self.grid):
            found = f"{len(self.grid)} rows of {sorted({len(row) for row in self.grid})}"
            raise DataError(f"attention map of {self.condition!r}: expected a square grid, found {found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNorm:
    """The L2 norm of the gradient of the loss on one part's tokens for one weight matrix: paper figure 6.

    `part` is "thought" or "code"; `projection` is q, k, v or o (others are shown under their own name); `layer` counts
    from 0. The model is the same for both parts: the initial weights, or those that `level` names.
    """

    condition: str
    part: str
    projection: str
    layer: int
    norm: Measured
    level: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunnelRow:
    """How many rows of a source survived synthesis: paper table 10.

    `reasons` counts rejected rows by reason ("filter: no function", "tests: 3 of 10 failed"); it should sum to
    total - consistent, and the page says so where it does not.
    """

    source: str
    total: int
    filtered: int
    consistent: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictChange:
    """How many perturbed programs went from verdict `before` to verdict `after` when both were run."""

    before: str
    after: str
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """What an operation did to the rows it was given: paper figures 7 and 8.

    `target` says what was perturbed ("training data", "scored solutions"). Every row is counted once: changed,
    unchanged (nothing to change), skipped (cannot be changed) or refused (a proof by execution failed). `reasons`
    counts skipped and refused rows by reason; `verdicts` the programs run before and after.
    """

    operation: str
    changed: int
    unchanged: int = 0
    skipped: int = 0
    refused: int = 0
    target: str = "training data"
    reasons: Mapping[str, int] = field(default_factory=dict)
    verdicts: tuple[VerdictChange, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointScore:
    """A condition's score at one checkpoint: paper figures 1, 2 and 9; with `sweep`, figures 13 to 15.

    `step` is the optimiser step (or the share of all steps, 0 to 1, in a sweep whose settings take different numbers of
    steps). A sweep with several steps is drawn as a chart per setting, one with a single step as score against setting.
    `per_seed` holds each seed's own score, in the order of score.seeds, for the band. `sweep` names the swept
    setting ("learning rate") and `setting` its value ("0.001"); both are "" for the plain learning curve.
    """

    condition: str
    benchmark: str
    step: float
    score: Measured
    metric: str = "accuracy"
    binary: bool = True
    per_seed: tuple[float, ...] = ()
    sweep: str = ""
    setting: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassAtK:
    """Pass@k of a condition at one sampling temperature, unbiased over its samples: paper figure 10."""

    condition: str
    benchmark: str
    temperature: float
    k: int
    score: Measured
    level: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A difference of ours that a claim of the paper may be held against: treatment minus control.

    `treatment` and `control` are strategies (see STRATEGIES), not conditions; for a claim about parts of one example
    they are "part:code" and "part:thought". `measure` is one word of CLAIM_MEASURES in references_liu2025.py. `scope` is
    "" for all items, "difficulty 3" for one difficulty, "level ..." for one cell of what the study varies, "condition ..."
    for a comparison of parts within one condition, "language ..." for another programming language. `decision` is
    that of the declared rule ("" where no rule was declared: then the interval decides). `unfit` says why the number
    must not be held against a claim ("code_only at 0.97 leaves no room"), and makes it not comparable.
    """

    treatment: str
    control: str
    measure: str
    effect: Measured
    benchmark: str = ""
    scope: str = ""
    decision: str = ""
    binary: bool = False
    unfit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderInputs:
    """All that the sections on the order of thought and code may show; what is empty makes no section.

    `strategies` gives every condition of the study, in the study's order, the strategy it plays ("" for none).
    `paper` asks for the comparison with the paper and its errata; `model` names the trained model, and
    `benchmark_kinds` the kind of each benchmark (humaneval, mbpp_plus, ...), so that only like is put beside like.
    """

    strategies: Mapping[str, str] = field(default_factory=dict)
    results: tuple[StrategyResult, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    differences: tuple[Difference, ...] = ()
    attention: tuple[AttentionMap, ...] = ()
    gradients: tuple[GradientNorm, ...] = ()
    funnel: tuple[FunnelRow, ...] = ()
    perturbations: tuple[Perturbation, ...] = ()
    checkpoints: tuple[CheckpointScore, ...] = ()
    pass_at_k: tuple[PassAtK, ...] = ()
    effects: tuple[Effect, ...] = ()
    paper: bool = False
    model: str = ""
    benchmark_kinds: Mapping[str, str] = field(default_factory=dict)
