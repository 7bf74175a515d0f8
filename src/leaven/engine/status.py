"""What a run is doing -> `status.json` (now) and `events.jsonl` (history), readable while it runs and after a kill.

`status.json` is replaced atomically; a lock that dies with its holder tells a running study from a killed one.
Not covered: showing it (progress.py, the command line).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from leaven.engine.provenance import redact_all
from leaven.engine.store import flock, write_json
from leaven.errors import StudyError

State = Literal["waiting", "running", "done", "cached", "failed", "blocked", "interrupted"]
Event = Mapping[str, Any]
"""`event` is run_started, node, progress, message or run_finished; `time` is seconds since 1970."""

WRITE_SECONDS = 1.0


class Record:
    """Writes the status file and the event history of one run, and passes every event on to `log`."""

    def __init__(self, run_dir: Path, resume: str, log: Callable[[Event], None], redact: Callable[[str], str]) -> None:
        self._dir, self._resume, self._log, self._redact = run_dir, resume, log, redact
        self._started = time.time()
        self._written = 0.0
        self._warned = False

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the lock that says a run works in this folder."""
        with flock(self._dir / ".running", fcntl.LOCK_SH, wait=True):
            yield

    def event(self, event: str, **fields: Any) -> None:
        """Log one event; all but progress are kept in events.jsonl."""
        row = {"event": event, "time": round(time.time(), 3), **fields}
        row = redact_all(row, self._redact)
        if event != "progress":
            with self._disk_may_be_full(), (self._dir / "events.jsonl").open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._log(row)

    def write(
        self, state: str, nodes: Callable[[], Mapping[str, Any]], eta_s: float | None, *, now: bool = False
    ) -> None:
        """Replace status.json, at most once per WRITE_SECONDS unless `now`."""
        if not now and time.time() - self._written < WRITE_SECONDS:
            return
        self._written = time.time()
        status = {
            "state": state,
            "started": round(self._started, 3),
            "updated": round(self._written, 3),
            "pid": os.getpid(),
            "resume": self._resume,
            "eta_s": eta_s,
            "nodes": nodes(),
        }
        with self._disk_may_be_full():
            write_json(self._dir / "status.json", redact_all(status, self._redact))

    @contextlib.contextmanager
    def _disk_may_be_full(self) -> Iterator[None]:
        """Let the run go on when its own notes cannot be written, and say so once."""
        try:
            yield
        except OSError as error:
            if not self._warned:
                self._warned = True
                text = f"{self._dir}: status cannot be written: {error}"
                self._log({"event": "message", "time": time.time(), "text": text})


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return the status of a run folder; a run that was killed reads as `killed` and its running steps as interrupted.

    Raises StudyError when nothing ran there.
    """
    path = run_dir / "status.json"
    if not path.is_file():
        raise StudyError(
            f"expected a run folder with status.json at {run_dir}, found none; start it with: leaven run STUDY.yaml"
        )
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(
            f"{path}: expected the status of a run (JSON), found {error}; run the study again to write a new one"
        ) from error
    if status["state"] == "running":
        with flock(run_dir / ".running", fcntl.LOCK_EX, wait=False) as nobody_runs:
            if nobody_runs:
                status["state"], status["eta_s"] = "killed", None
                for row in status["nodes"].values():
                    if row["state"] == "running":
                        row.update(state="interrupted", reason="the run was killed; the same command resumes")
    return status
