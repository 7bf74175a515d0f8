"""What a stage is: a function `(spec, inputs, out, ctx)` marked with `@step(version=...)`, callable with plain paths.

A step reads `inputs` (name -> published folder), writes only inside `out`, and returns nothing. `out` survives a kill: files under
`out/_resume/` are where a step keeps checkpoints; the engine removes that folder when it publishes. `ctx.stop()` turning true
means: save what lets you resume and raise Interrupted.
Not covered: keys, caching, processes (engine/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaven.errors import Interrupted


def _silent(done: float, total: float, note: str = "") -> None:
    """Report nothing."""


def _never() -> bool:
    """Never stop."""
    return False


@dataclass(frozen=True, slots=True)
class Resources:
    """Where and how fast a step runs; never part of a key. `paths` holds runtime folders such as `data`."""

    threads: int = 1
    device: str = "cpu"
    micro_batch: int = 0
    compile: str = "auto"
    memory_bytes: int = 0
    paths: Mapping[str, str] = field(default_factory=dict)
    sandbox_tier: str = "auto"
    checkpoint_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class StepContext:
    """What the engine lends a running step: resources, a progress callback `(done, total, note)` and the stop flag."""

    runtime: Resources = field(default_factory=Resources)
    progress: Callable[..., None] = _silent
    stop: Callable[[], bool] = _never

    def check_stop(self) -> None:
        """Raise Interrupted when a stop was asked for (call only where nothing is lost)."""
        if self.stop():
            raise Interrupted("stopped; run the same command to resume")


StepFunction = Callable[[Mapping[str, Any], Mapping[str, Path], Path, StepContext], None]


def step(*, version: int, deterministic: bool = True) -> Callable[[StepFunction], StepFunction]:
    """Mark a function as a stage; bump `version` whenever its output changes for the same spec and inputs.

    Downstream keys use the *content* digest of a deterministic step's output (early cutoff) and the key itself otherwise.
    """

    def mark(function: StepFunction) -> StepFunction:
        function.step_version = version  # type: ignore[attr-defined]
        function.step_deterministic = deterministic  # type: ignore[attr-defined]
        return function

    return mark
