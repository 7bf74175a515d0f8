"""Verdicts kept by content: the same program, tests, limits and kind of tier -> the stored verdict, nothing runs again.

One SQLite file, safe to share between processes and to kill at any moment: a kill loses at most the last second. What
says nothing about the program (harness errors, missing toolchains) is never stored. Not covered: which jobs are asked
for (pool.py), verdict rows of a file (api/executing.py).
"""

from __future__ import annotations

import hashlib
import platform
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path

from leaven.core.sandbox.jobs import Job, Result
from leaven.errors import RefusedError

RULES = 5  # to be raised whenever the same program may get another verdict than before
_TIER_KINDS = {"A": "namespaces", "B": "namespaces", "C": "filter", "D": "limits"}
_NEVER_KEPT = ("harness_error", "not_measured")
_COMMIT_S = 1.0
_COLUMNS = "status, detail, cpu_s, wall_s, tier, stdout_tail"


class VerdictCache:
    """The verdicts of one SQLite file, as seen by runs on one tier and strictness.

    Raises:
        RefusedError: the file is there and is no such cache.
    """

    def __init__(self, path: Path | str, tier: str, strict: bool) -> None:
        self._setting = ("verdicts", str(RULES), _TIER_KINDS[tier], str(strict), platform.python_version())
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, status TEXT, detail TEXT, cpu_s REAL, wall_s REAL, "
                "tier TEXT, stdout_tail TEXT) WITHOUT ROWID"
            )
        except (sqlite3.Error, OSError) as problem:
            raise RefusedError(
                f"{self._path}: expected a verdict cache (or a place for a new one), found: {problem}; give another path or delete it"
            ) from None
        self._open = False
        self._committed = time.monotonic()

    def key_of(self, job: Job) -> bytes:
        """Return the digest of everything that decides a job's verdict; its id does not."""
        parts: Iterable[object] = (
            *self._setting,
            job.language,
            job.program,
            job.entry_point,
            *astuple(job.limits),
            job.stdin is None,
            job.stdin or "",
            job.expected_stdout is None,
            job.expected_stdout or "",
            *job.tests,
        )
        hashed = hashlib.sha256()
        for part in parts:
            data = str(part).encode("utf-8", "surrogatepass")
            hashed.update(len(data).to_bytes(8, "big") + data)
        return hashed.digest()

    def find(self, key: bytes, job: Job) -> Result | None:
        """Return the stored result under the job's own id, None where there is none."""
        row = self._file.execute(f"SELECT {_COLUMNS} FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else Result(job.id, *row)

    def keep(self, key: bytes, result: Result) -> None:
        """Store a result; committed within a second."""
        if result.status in _NEVER_KEPT:
            return
        if not self._open:
            self._file.execute("BEGIN IMMEDIATE")
            self._open = True
        stored = replace(result, detail=_storable(result.detail), stdout_tail=_storable(result.stdout_tail))
        self._file.execute(
            f"INSERT OR REPLACE INTO verdicts (key, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, stored.status, stored.detail, stored.cpu_s, stored.wall_s, stored.tier, stored.stdout_tail),
        )
        if time.monotonic() - self._committed > _COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Make what was kept last."""
        if self._open:
            self._file.execute("COMMIT")
            self._open = False
        self._committed = time.monotonic()

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._file.close()


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
