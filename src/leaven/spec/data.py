"""The `data` section: sources and, per training stage, what is mixed, scheduled, formatted and budgeted. The only
section a condition patches.

Not covered: reading files (data/sources), compiling the order table (data/build.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

CONFIG: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Procedural problems made by leaven itself (data/sources/world)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    families: tuple[str, ...]
    """Task families; known names are listed by the error for an unknown one; docs/extend.md says how to add one."""
    n: int
    """Number of distinct problems, split evenly over families and difficulties."""
    difficulties: tuple[int, ...] | None = None
    """Structural difficulty levels; null means all that the family has."""
    seed: int = 0
    """Seed of the draw; the split never depends on it."""
    split: Literal["train", "test"] = "train"
    """Train and test problems are disjoint by a hash of the problem text, whatever the seeds."""
    thought: Literal["brief", "full", "long"] = "full"
    """How long the thoughts of the same problems are, all true: every second step, every step, or every step with what it does."""
    rendering: Literal["default", "text", "code"] = "default"
    """default: question/thought/code/answer; text or code: the same facts as raw documents for pretraining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grader:
    """A language model that grades problems (data/labels/grading.py)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    server: str
    """Base address of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str = ""
    """Model name the server knows."""
    key_env: str | None = None
    """Environment variable that holds the API key; the key itself is never written anywhere."""
    max_tokens: int | None = 1024
    """Longest reply; null sends no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What the examples of a source are labelled with when it is loaded (data/labels)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    difficulty: Literal["", "math", "aops", "apps", "taco", "leetcode", "structural", "pass_rate"] = ""
    """The scale of difficulty: MATH 1-5, AoPS 1-10, the words of APPS, TACO and LeetCode, that of procedural problems, or how often a model
    fails."""
    column: str = ""
    """The file's column with the difficulty; empty means the scale's usual one. A dotted path reaches inside."""
    grades: str | None = None
    """A file of a teacher's replies that end in `[[grade]]` (aops): rows {source, id, reply} or {question, reply}."""
    grader: Grader | None = None
    """A model that is asked for those replies (aops)."""
    verdicts: str | None = None
    """A table of a model's verdicts on these examples (pass_rate): Parquet or JSONL rows {item or id, score or verdict}."""
    metric: str = ""
    """Which of its metrics, where it holds several."""
    classes: int = 5
    """Number of classes that 1 - pass rate is cut into."""
    domain: Literal["", "rules"] = ""
    """rules: code, math or other by what questions and replies look like; overrides `domain` of the source."""
    behaviours: Literal["", "lexicon"] = ""
    """lexicon: what each piece of a thought does (verify, backtrack, try another way ...) becomes tags of its segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """A change of the examples' code or thought (data/perturb); ids stay, so that conditions pair."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    name: str
    """Name of a perturbation; known names are listed by the error for an unknown one."""
    rate: float = 1.0
    """Share of the examples (for noise: of the tokens) that it changes."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that perturbation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where examples come from: exactly one of `world` and `file`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    world: World | None = None
    """Procedural problems."""
    file: str | None = None
    """A file: `data:NAME` under runtime.paths.data, or a path relative to the study file. JSONL, JSON, Parquet, .gz."""
    shape: str = "auto"
    """auto, alpaca, input_target, instruction_response, prompt_completion, sharegpt, messages, text or problem."""
    fields: dict[str, str] | None = None
    """Our field -> the file's column, when the shape is not one of the named ones."""
    limit: int | None = None
    """Keep only the first rows."""
    licence: str = ""
    """Licence of the source, shown in the report."""
    domain: str = ""
    """code, math, logic, text or general; a label for tables."""
    subset_of: str | None = None
    """Name of another source from which `size_of` many rows are drawn at random (size-matched control)."""
    size_of: str | None = None
    """Name of the source whose number of rows a `subset_of` draw matches."""
    label: Label | None = None
    """Difficulty, domain and behaviours of its examples."""
    perturb: tuple[str | Perturbation, ...] = ()
    """Changes made to this source alone, before those of the stage: names, or {name, rate, options}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How mixture weights move over a stage (data/schedules.py)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    kind: str = "constant"
    """constant, phases, linear, cosine; of Ma et al. 2024 Table 5: uniform, stepwise_increase, stepwise_decrease."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of that schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reweigh:
    """A change of what the slots of an order hold, or weigh, by groups of examples (data/reweigh)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    by: Literal["difficulty", "domain", "family", "source", "example"] = "difficulty"
    """What groups examples; those without a value are left alone."""
    how: Literal["flip", "target", "influence"] = "flip"
    """flip: the easiest get the place of the hardest (c'_l = c_{K+1-l}); target: declared shares; influence: weights ~ exp(mean
    influence / tau)."""
    mode: Literal["reweight", "resample", "replace"] = "reweight"
    """Other weights for the same examples; repetitions of the order's own examples; or examples that the order does not hold."""
    match: tuple[Literal["source", "tokens"], ...] = ("source",)
    """What stays equal: the source of every slot (else its domain), the tokens of each (within 1 %)."""
    control: Literal["none", "random_swap"] = "none"
    """random_swap: the same slots or weights change, but at random with respect to groups."""
    sources: tuple[str, ...] | None = None
    """Which sources of the mixture change; null means all but the pool."""
    range: tuple[int, int] | None = None
    """The scale that a flip mirrors; null means the difficulties that occur."""
    pool: str | None = None
    """A source of the mixture (weight 0, usually) whose examples come in when a replacement finds none of the slot's own source."""
    target: dict[str, float] = field(default_factory=dict)
    """Group -> share, for how: target."""
    influence: str | None = None
    """influence.parquet of `leaven attribute`, or its folder, for how: influence."""
    method: str = ""
    """Whose scores; empty means the curvature method's."""
    query: str = ""
    """Scores for which query; empty means the mean over all."""
    tau: float | None = None
    """Temperature in nats of influence; null means the standard deviation over groups."""
    floor: float = 0.1
    """Least weight that influence may give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOut:
    """Examples that a stage does not draw (data/reweigh/leave_out.py): exactly one of `groups`, `influence` and `ids` names them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    groups: tuple[str, ...] = ()
    """Values of `by` whose examples go."""
    by: Literal["difficulty", "domain", "family", "source"] = "difficulty"
    """What groups are."""
    influence: str | None = None
    """influence.parquet of `leaven attribute`, or its folder; the `count` examples at one end of it go."""
    count: int | None = None
    """How many."""
    end: Literal["helpful", "harmful"] = "helpful"
    """Which end."""
    method: str = ""
    """Whose scores; empty means the curvature method's."""
    query: str = ""
    """Scores for which query; empty means the mean over all."""
    ids: str | None = None
    """A file of rows {source, id}."""
    sources: tuple[str, ...] | None = None
    """Which sources of the mixture lose examples; null means all."""
    control: Literal["none", "random"] = "none"
    """random: as many examples of each source go, drawn at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much is trained in a stage; exactly one field is set."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    steps: int | None = None
    """Optimiser steps."""
    examples: int | None = None
    """Training slots."""
    tokens: int | None = None
    """Tokens seen, prompts included."""
    learned_tokens: int | None = None
    """Tokens that carry loss."""
    epochs: float | None = None
    """Passes over the mixture's smallest source need."""
    tokens_of: str | None = None
    """Name of the condition whose total trained tokens (same stage, same seed) are matched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One training stage: mixture, schedule, format and budget, compiled to an order table."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    mixture: dict[str, float]
    """Source -> weight; shares are exact (largest remainder) in every block."""
    budget: Budget
    """How much is trained."""
    unit: Literal["examples", "tokens", "learned_tokens"] = "examples"
    """What the shares count."""
    schedule: Schedule = field(default_factory=Schedule)
    """How shares move over the stage."""
    format: str | dict[str, str] = "auto"
    """Response format (data/formats.py), one for all sources or source -> format."""
    perturb: tuple[str | Perturbation, ...] = ()
    """Changes made to every source of the mixture, in this order: names, or {name, rate, options}."""
    batch: int = 32
    """Training slots per optimiser step."""
    max_tokens: int = 512
    """Longest row."""
    truncate: Literal["right", "drop", "keep_code", "split", "error"] = "error"
    """What happens to longer examples (split: consecutive rows, for long documents); what was cut is counted."""
    pack: Literal["none", "best_fit"] = "none"
    """Whether several examples share a row (attention is reset between them)."""
    repeat: Literal["error", "repeat"] = "error"
    """What happens when a source runs out."""
    leave_out: LeaveOut | None = None
    """Examples that are not drawn, by group, by influence or by name."""
    reweigh: Reweigh | None = None
    """What changes in the finished order: weights or examples by difficulty, domain or influence."""
    extends: str | None = None
    """Name of a condition whose order table this one continues: the shared part is trained once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Sources and stages, in training order."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    sources: dict[str, Source]
    """Name -> source."""
    stages: dict[str, Stage]
    """Name -> stage; trained in this order, each from the model of the one before."""
