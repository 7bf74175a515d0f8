"""The `measure` section: benchmarks, their items and how they are asked; and the declared contrasts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from leaven.spec.data import CONFIG, Perturbation, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One benchmark of a study."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    benchmark: str
    """Name of a benchmark (evals/benchmarks, or a plugin)."""
    world: World | None = None
    """Items drawn from the embedded world."""
    file: str | None = None
    """Items from a file: `data:NAME` or a path relative to the study file."""
    limit: int | None = None
    """Use only the first items."""
    format: str = "trained"
    """Prompt format; `trained` asks each model in the format of its last stage."""
    begin: Literal["", "thought", "code", "answer"] = ""
    """Put the opening marker of this part into the prompt: a model trained one way, asked the other."""
    perturb: tuple[str | Perturbation, ...] = ()
    """Changes made before scoring: names, or {name, rate, options}."""
    perturb_what: Literal["generated", "gold"] = "generated"
    """generated: the program found in each answer, before it runs; gold: the items' own code (for bits_per_byte)."""
    at: Literal["last", "all"] = "last"
    """all: also measure every checkpoint that `train.checkpoints` keeps (learning curves; contrasts use the last)."""
    metrics: tuple[str, ...] | None = None
    """Metrics to compute; null means the benchmark's own. bits_per_byte exists wherever there is a gold."""
    n: int = 1
    """Samples per item."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling."""
    max_new_tokens: int = 256
    """Longest completion."""
    limits: dict[str, float] = field(default_factory=dict)
    """Sandbox limits; defaults: cpu_s 3, wall_s 15, memory_bytes 2^30, output_bytes, processes, file_bytes."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One look inside every trained model, on held-out examples."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    kind: str
    """perplexity, divergence, loss, attention, gradients, similarity, lengths, overlap or a plugin's."""
    of: str | None = None
    """A benchmark under `measure`: look at its items, and (overlap) at the model's answers to them."""
    world: World | None = None
    """Examples drawn from the embedded world."""
    file: str | None = None
    """Examples from a file: `data:NAME` or a path relative to the study file (shapes as for sources)."""
    limit: int | None = None
    """Use only the first examples."""
    format: str = "trained"
    """Format of the examples; `trained` shows each model the format of its last stage."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which items a contrast uses."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    min_difficulty: int | None = None
    """Keep items at least this difficult."""
    max_difficulty: int | None = None
    """Keep items at most this difficult."""
    seen: bool | None = None
    """Keep only items that training may (true) or may not (false) contain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A declared comparison: treatment minus control."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    name: str
    """Short name."""
    treatment: str
    """Condition."""
    control: str
    """Condition it is compared with."""
    benchmark: str
    """Name under `measure`."""
    metric: str = "accuracy"
    """Metric of that benchmark."""
    where: Where = field(default_factory=Where)
    """Item filter."""
    primary: bool = False
    """The contrast that answers the question; exactly one."""
    margin: float | None = None
    """Effects smaller than this (in units of the score) do not matter; decides 'no difference'. Null: none declared."""
    unequal_seeds: Literal["refuse", "common", "welch"] = "refuse"
    """What to do when the two conditions finished with different seeds."""
    better: Literal["higher", "lower"] | None = None
    """Which scores are better; null: by the metric's name (lower for losses and bits per byte)."""
