"""Nodes + a store -> artifacts, links and a status file. (Being written: the signatures stand.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.core.step import Resources
from leaven.engine.graph import Node
from leaven.engine.store import Store

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed: the shown reason, its kind (see executors.FailureKind), the command that resumes, and its log file."""

    reason: str
    kind: str
    resume: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, as node ids: built now, found built, failed, blocked by a failure; and whether Ctrl-C ended it."""

    done: tuple[str, ...]
    cached: tuple[str, ...]
    failed: Mapping[str, Failure]
    skipped: tuple[str, ...]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """Return 130 after Ctrl-C, 1 when a step failed, else 0."""
        return 130 if self.interrupted else 1 if self.failed else 0


def run(nodes: Sequence[Node], store: Store, *, run_dir: Path, resources: Resources = Resources(), workers: int = 0,
        log: Callable[[Event], None] = lambda event: None, resume: str = "", pass_env: tuple[str, ...] = ()) -> Outcome:
    """Build every node that is not in the store; return how each ended."""
    raise NotImplementedError


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return status.json of a run folder."""
    raise NotImplementedError
