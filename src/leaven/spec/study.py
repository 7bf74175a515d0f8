"""The study: one question, conditions that differ only in their data, seeds, declared contrasts; how patches resolve.

A condition patches `data` only (other sections when the study says `compares: training`); `vary` crosses every
condition with levels of model, tokenizer or training settings. `cells` lists the (condition, level) pairs,
each a complete `Cell`. Not covered: YAML, validation and line numbers (load.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from leaven.spec.attribute import Attribute
from leaven.spec.data import CONFIG, Data
from leaven.spec.measure import Contrast, Measure, Probe
from leaven.spec.runtime import Runtime
from leaven.spec.train import Model, TokenizerSpec, Train


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A named patch of the data section."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    description: str = ""
    """One line for the report."""
    data: dict[str, Any] = field(default_factory=dict)
    """Fields of `data` that differ."""
    train: dict[str, Any] = field(default_factory=dict)
    """Fields of `train` that differ (only with `compares: training`)."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of `model` that differ (only with `compares: training`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A whole study file."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    leaven: Literal[1]
    """Version of this file format."""
    study: str
    """Name; its run folder is runs/<name>."""
    question: str
    """The question the report answers in its first line."""
    data: Data
    """What every condition trains on, before its patch."""
    conditions: dict[str, Condition]
    """Name -> patch."""
    measure: dict[str, Measure]
    """Name -> benchmark."""
    contrasts: tuple[Contrast, ...]
    """Declared comparisons; exactly one is primary."""
    seeds: tuple[int, ...]
    """Training seeds, shared by all conditions."""
    compares: Literal["data", "training"] = "data"
    """What conditions may differ in."""
    model: Model = field(default_factory=Model)
    """The model."""
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    """The tokenizer of models from scratch."""
    train: Train = field(default_factory=Train)
    """Optimiser settings."""
    probe: dict[str, Probe] = field(default_factory=dict)
    """Name -> probe."""
    attribute: dict[str, Attribute] = field(default_factory=dict)
    """Name -> attribution of results to training examples."""
    vary: dict[str, list[Any]] = field(default_factory=dict)
    """Dotted path -> values crossed with every condition: train.lr, model.width, tokenizer.kind ...; of data only
    data.stages.NAME.batch and data.stages.NAME.budget.FIELD (epochs, steps ...), for sweeps."""
    papers: tuple[Literal["zhang2025", "ma2024", "kou2025", "liu2025"], ...] = ()
    """Papers that the study follows: cited in the report (all, when none is named); liu2025 also puts that paper's claims, printed
    numbers and errata beside what the study found."""
    plugins: tuple[str, ...] = ()
    """Python files, relative to the study file, that register benchmarks, formats, schedules, row shapes, families."""
    runtime: Runtime = field(default_factory=Runtime)
    """Where it runs; never hashed."""
    lock: dict[str, Any] = field(default_factory=dict)
    """Written by `leaven run` into study.lock.yaml: the version and the digests of outside files, checked on replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One (condition, level) with every section resolved; crossed with the study's seeds."""

    condition: str
    level: dict[str, Any]
    data: Data
    model: Model
    tokenizer: TokenizerSpec
    train: Train

    @property
    def label(self) -> str:
        """Return a path-safe name of the level, or "" when nothing varies."""
        return ",".join(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in self.level.items()).replace("/", "_").replace(" ", "")
