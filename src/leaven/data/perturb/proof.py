"""Examples -> how their programs end, each distinct program run once, verdicts kept in a file so that a stop loses none.

Not covered: what a verdict means for a change (passes.py), the sandbox (core/sandbox).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leaven.core.hashing import digest
from leaven.core.sandbox import Job, Limits, execute
from leaven.core.types import Example
from leaven.data.consistency import append_log, read_log
from leaven.data.perturb.places import program_of

LIMITS = Limits()
DRAFT_LIMITS = Limits(cpu_s=1.0, wall_s=10.0)
"""For draws of which only those count that end by themselves."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How a program ended: its verdict and the end of what it printed."""

    status: str = ""
    printed: str = ""


def _never() -> bool:
    return False


@dataclass(slots=True)
class Lab:
    """Runs programs in the sandbox; `log` is a JSONL file of verdicts by content that is read first and appended to."""

    tier: str = "auto"
    workers: int = 0
    stop: Callable[[], bool] = _never
    log: Path | None = None
    _known: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.log is not None:
            self._known |= {row["key"]: Seen(row["status"], row["printed"]) for row in read_log(self.log)}

    def run(self, examples: Sequence[Example], limits: Limits = LIMITS) -> list[Seen]:
        """Return how each example's code ends with its tests, or as a script where it has none.

        Args:
            examples: any; those without code count as empty programs.
            limits: of each program.

        Raises:
            RefusedError: the tier is not available here.
            Interrupted: `stop` turned true; verdicts so far are in the log.
        """
        keys, jobs = [], {}
        for example in examples:
            program = program_of(example)
            whole = {"program": program, "tests": example.tests, "entry_point": example.entry_point, "limits": limits}
            key = digest(whole)[:32]
            keys.append(key)
            if key not in self._known:
                jobs[key] = Job(id=key, program=program, tests=example.tests, entry_point=example.entry_point, limits=limits)
        results = execute(list(jobs.values()), workers=self.workers, tier=self.tier, stop=self.stop) if jobs else ()
        for result in results:
            self._known[result.id] = Seen(result.status, result.stdout_tail)
            if self.log is not None and result.status != "harness_error":
                append_log(self.log, {"key": result.id, "status": result.status, "printed": result.stdout_tail})
        return [self._known[k] for k in keys]
