"""The contract of an executor: tasks (plain data) in, reports out; `submit`, `poll`, `cancel`.

An executor decides where a task runs; what running means is `worker.execute` everywhere. A task and a report are JSON,
so they cross any process or machine that sees the same store. Not covered: what to run next (run.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Outcome = Literal["progress", "done", "cached", "busy", "damaged", "failed", "interrupted"]
FailureKind = Literal["error", "exception", "out_of_memory", "full_disk", "backend", "corrupted_input", "crash",
                      "same_step"]


@dataclass(frozen=True, slots=True)
class TaskInput:
    """One input of a task: path, node, key ("" for an outside file), digest, and whether to digest it again first."""

    path: str
    node: str
    key: str
    digest: str
    check: bool


@dataclass(frozen=True, slots=True)
class Task:
    """One step to run: its recipe, its inputs as paths, its resources (those of core.step.Resources)."""

    id: str
    key: str
    function: str
    version: int
    deterministic: bool
    spec: Mapping[str, Any]
    inputs: Mapping[str, TaskInput]
    store: str
    log: str
    threads: int = 1
    memory_bytes: int = 0
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """News about a task.

    `busy`: another run holds its key, try again later. `damaged`: the input named `name` is not what was published
    (`reason`). `failed`: `kind` and `reason`. `progress`: `done` of `total` and a `note`. `checked`: keys whose content
    was verified.
    """

    id: str
    outcome: Outcome
    kind: FailureKind | Literal[""] = ""
    reason: str = ""
    name: str = ""
    done: float = 0.0
    total: float = 0.0
    note: str = ""
    checked: tuple[str, ...] = ()


class Executor(Protocol):
    """Where tasks run."""

    def room(self, threads: int, memory_bytes: int) -> bool:
        """Return whether a task of this size can start now."""
        ...

    def submit(self, task: Task) -> None:
        """Start a task (call only when there is room)."""
        ...

    def poll(self, timeout: float) -> list[Report]:
        """Return what happened, waiting at most `timeout` seconds for something to happen."""
        ...

    def cancel(self, *, now: bool = False) -> None:
        """Ask all tasks to save their work and stop; with `now`, end them at once. Both are reported as interrupted."""
        ...

    def close(self) -> None:
        """End everything and free the machine."""
        ...
