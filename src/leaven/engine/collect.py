"""Run folders -> what the store must keep; everything else -> free bytes.

Every run registers its keys under `roots/` before it builds anything, so an artifact that no run folder names is
garbage. A run folder that was deleted names nothing. Not covered: thinning checkpoints inside an artifact (train.keep).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.core.hashing import digest
from leaven.engine.store import Store, folder_bytes, follow, remove, write_json
from leaven.errors import RefusedError


@dataclass(slots=True)
class Root:
    """The keys and links one run folder names; `old` are those of its earlier runs, kept until a run completes."""

    path: Path
    run_dir: Path
    keys: set[str]
    old_keys: set[str]
    old_links: set[str]
    saved: bool = False

    @classmethod
    def open(cls, store: Store, run_dir: Path) -> Root:
        """Read what `run_dir` named before."""
        path = store.root / "roots" / f"{digest(str(run_dir))[:16]}.json"
        raw = _read(path)
        return cls(path, run_dir, set(), set(raw.get("keys", [])), set(raw.get("links", [])))

    def name(self, key: str) -> None:
        """Add a key; `save` before anything is built under it."""
        if key not in self.keys:
            self.keys.add(key)
            self.saved = False

    def save(self) -> None:
        """Write the old and the new keys unless nothing changed."""
        if not self.saved:
            self._write(self.keys | self.old_keys, self.old_links)

    def close(self, links: set[str], *, complete: bool) -> None:
        """End a run; a complete one forgets what earlier graphs named and removes their links."""
        if not complete:
            self._write(self.keys | self.old_keys, links | self.old_links)
            return
        for link in self.old_links - links:
            place = self.run_dir / link
            if (place.is_symlink() or place.is_file()) and self.path.parent.parent in follow(place).parents:
                place.unlink()
        self._write(self.keys, links)

    def _write(self, keys: set[str], links: set[str]) -> None:
        write_json(self.path, {"run_dir": str(self.run_dir), "keys": sorted(keys), "links": sorted(links)})
        self.saved = True


@dataclass(frozen=True, slots=True)
class Garbage:
    """What `collect` frees (or would free): keys of artifacts, names of work folders, bytes of both."""

    artifacts: tuple[str, ...]
    work: tuple[str, ...]
    size_bytes: int
    removed: bool


def collect(store: Store, *, dry_run: bool = True, work_days: float = 7.0) -> Garbage:
    """Free artifacts that no run folder names and work folders untouched for `work_days`.

    Raises RefusedError when a run uses the store (a dry run only looks, and always may).
    """
    roots = [_read(path) for path in (store.root / "roots").glob("*.json")]
    named = {key for root in roots if Path(root["run_dir"]).is_dir() for key in root["keys"]}
    oldest = time.time() - work_days * 86400
    artifacts = [key for key in store.keys() if key not in named]
    work = [p for p in sorted((store.root / "work").glob("*")) if p.name.startswith("trash-") or _touched(p) < oldest]
    size = sum(folder_bytes(store.path(key)) for key in artifacts) + sum(folder_bytes(p) for p in work)
    if not dry_run:
        with store.in_use(alone=True) as alone:
            if not alone:
                raise RefusedError(f"{store.root}: a run is using the store; expected none while artifacts are "
                                   "removed. Wait for it to end")
            for key in artifacts:
                store.discard(key)
            for path in work:
                remove(path)
            for lock in (store.root / "locks").glob("?" * 64):  # nobody holds one while the store is ours alone
                remove(lock)
    return Garbage(tuple(artifacts), tuple(p.name for p in work), size, removed=not dry_run)


def _touched(folder: Path) -> float:
    """Return when anything in a folder was last written, seconds since 1970."""
    return max(p.stat().st_mtime for p in [folder, *folder.rglob("*")])


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON of a root file, {} when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
