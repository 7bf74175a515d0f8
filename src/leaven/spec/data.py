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


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How mixture weights move over a stage (data/schedules.py)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    kind: str = "constant"
    """constant, phases, linear, cosine; of Ma et al. 2024 Table 5: uniform, stepwise_increase, stepwise_decrease."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of that schedule."""


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
