"""One node of a run: where it stands, how long it took, how long it may still take.

Times left come from the step's own progress when it reports any, else from the store's history of the same step.
Not covered: moving a node from state to state (run.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from leaven.engine.graph import Node
from leaven.engine.status import State
from leaven.engine.store import Recipe


@dataclass(slots=True)
class Track:
    """Where one node stands; `recipe` is set once its inputs are built."""

    node: Node
    log: str
    expected_s: float
    state: State = "waiting"
    reason: str = ""
    kind: str = ""
    recipe: Recipe | None = None
    key: str = ""
    started: float = 0.0
    seconds: float = 0.0
    progress: tuple[float, float, str] = (0.0, 0.0, "")
    retry_at: float = 0.0
    rebuilds: int = 0

    @property
    def spent_s(self) -> float:
        """Return the seconds it ran, or has been running."""
        return time.monotonic() - self.started if self.state == "running" else self.seconds

    def left_s(self) -> float | None:
        """Return the expected seconds of work left, None when nobody knows."""
        done, total, _ = self.progress
        if self.state == "running" and total > 0 and done > 0.02 * total:
            return self.spent_s * max(0.0, total - done) / done
        if self.state == "running" and self.expected_s:
            return max(0.0, self.expected_s - self.spent_s)
        return self.expected_s or None if self.state in ("running", "waiting") else 0.0

    def row(self) -> dict[str, Any]:
        """Return what the status file and the history say about this node."""
        left = self.left_s()
        return {"node": self.node.id, "state": self.state, "reason": self.reason, "kind": self.kind, "key": self.key,
                "function": self.node.function, "seconds": round(self.spent_s, 3),
                "eta_s": None if left is None else round(left, 1), "progress": list(self.progress), "log": self.log}
