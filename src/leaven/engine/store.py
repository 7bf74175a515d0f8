"""Recipes -> artifacts: a content-addressed folder store where an artifact is either absent or complete.

    artifacts/ab/<key>/   what a step wrote, plus _manifest.json; moved here by one atomic rename
    work/<key>/           where a step writes; survives a kill so that it can resume
    locks/<key>           one flock per key: of two runs, one builds and the other finds it built
    roots/<run>.json      which keys a run folder names (what `collect` keeps)

A key is known before a step runs, its content digest after it; names that start with `_` carry no identity, so
`tree_digest(artifact) == manifest.digest`. Not covered: which step runs when (run.py), why a key changed
(provenance.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.core.hashing import digest, plain, tree_digest
from leaven.errors import StepError

MANIFEST = "_manifest.json"
RESUME = "_resume"
DEEP_LIMIT_BYTES = 64 * 2**20
"""Files below this size are digested again when a run first reads them; larger ones are checked by size."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one input came from: node id, key ("" for a file from outside) and the digest in the reader's key."""

    node: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides an artifact: `key` is its name in the store."""

    function: str
    version: int
    deterministic: bool
    spec: Mapping[str, Any]
    inputs: Mapping[str, Source]

    @property
    def key(self) -> str:
        """Return the hex sha256 that names the artifact."""
        return Store.key(self.function, self.version, self.spec, {n: s.digest for n, s in self.inputs.items()})


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size, sha256 and time of writing of one file's bytes, to notice damage (identity is `Manifest.digest`)."""

    size: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What building took: seconds of wall clock and processor (children included) and the peak of resident bytes."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record inside an artifact; written last, so its presence means the artifact is complete."""

    node: str
    key: str
    recipe: Recipe
    digest: str
    files: Mapping[str, FileEntry]
    created: str
    cost: Cost
    fingerprint: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Return what readers' keys contain: the content digest, or the key when the step is not deterministic."""
        return self.digest if self.recipe.deterministic else self.key

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(entry.size for entry in self.files.values())


class Store:
    """The folder that holds every artifact; cheap to construct, safe to share between processes."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()

    @staticmethod
    def key(function: str, version: int, spec: Mapping[str, Any], input_digests: Mapping[str, str]) -> str:
        """Return the key of a step: sha256 over its name, version, canonical spec and input digests."""
        return digest({"function": function, "version": version, "spec": plain(dict(spec), "spec"),
                       "inputs": dict(input_digests)})

    def path(self, key: str) -> Path:
        """Return where the artifact of `key` lies once published."""
        return self.root / "artifacts" / key[:2] / key

    def work(self, key: str) -> Path:
        """Return the folder a step writes into before publication."""
        return self.root / "work" / key

    def lookup(self, key: str) -> Manifest | None:
        """Return the manifest when the artifact is complete and its files are as published, else None (see `damage`).

        Cheap: a file is read only when its time of writing is not the recorded one.
        """
        manifest = self._read(key)
        return manifest if manifest is not None and not self._damage(manifest, deep=False) else None

    def damage(self, key: str, *, deep: bool = False) -> str:
        """Return what is wrong with a published artifact, "" when it is sound or was never published.

        `deep` also digests the bytes of files below DEEP_LIMIT_BYTES.
        """
        if not self.path(key).exists():
            return ""
        manifest = self._read(key)
        return "its manifest is missing or unreadable" if manifest is None else self._damage(manifest, deep=deep)

    def _read(self, key: str) -> Manifest | None:
        """Parse a manifest; None when absent or not a manifest of this key (damage, which `damage` reports)."""
        try:
            raw = json.loads((self.path(key) / MANIFEST).read_text(encoding="utf-8"))
            manifest = manifest_from(raw)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return manifest if manifest.key == key else None

    def _damage(self, manifest: Manifest, *, deep: bool) -> str:
        """Compare files with their recorded sizes and, when they were written since or the look is deep, digests."""
        folder = self.path(manifest.key)
        for name, entry in manifest.files.items():
            try:
                found = (folder / name).stat()
            except OSError:
                return f"{name} is missing"
            if found.st_size != entry.size:
                return f"{name} has {found.st_size} bytes instead of {entry.size}"
            suspect = found.st_mtime_ns != entry.mtime_ns or (deep and entry.size < DEEP_LIMIT_BYTES)
            if suspect and _bytes_digest(folder / name) != entry.sha256:
                return f"the content of {name} changed after it was published"
        return ""

    @contextlib.contextmanager
    def lock(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of one key; yields False at once when `wait` is false and another process holds it."""
        with flock(self.root / "locks" / key, fcntl.LOCK_EX, wait=wait) as held:
            yield held

    @contextlib.contextmanager
    def in_use(self, *, alone: bool = False) -> Iterator[bool]:
        """Hold the store itself: runs share it, `collect` needs it alone; yields False when that is impossible now."""
        with flock(self.root / "locks" / "store", fcntl.LOCK_EX if alone else fcntl.LOCK_SH, wait=not alone) as held:
            yield held

    def prepare(self, key: str) -> Path:
        """Return the work folder, emptied unless an earlier attempt left something to resume from (hold the lock)."""
        out = self.work(key)
        if not (out / RESUME).is_dir() or not any((out / RESUME).iterdir()):
            remove(out)
        out.mkdir(parents=True, exist_ok=True)
        for stale in [*out.rglob("*.part"), *out.rglob("*.tmp"), out / MANIFEST]:
            remove(stale)
        return out

    def publish(self, node: str, recipe: Recipe, cost: Cost, fingerprint: Mapping[str, Any]) -> Manifest:
        """Make the work folder the artifact of `recipe.key` (hold the lock); a kill leaves all of it or nothing."""
        key, out = recipe.key, self.work(recipe.key)
        names = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
        kept = [n for n in names if n.parts[0] != RESUME and n.as_posix() != MANIFEST]
        files = {n.as_posix(): _entry(out / n) for n in kept}
        manifest = Manifest(node, key, recipe, tree_digest(out), files, _now(), cost, fingerprint)
        write_json(out / MANIFEST, dataclasses.asdict(manifest))
        self.discard(key)
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        os.rename(out, self.path(key))
        _sync_folder(self.path(key).parent)
        remove(self.path(key) / RESUME)
        return manifest

    def discard(self, key: str) -> int:
        """Remove an artifact and return its bytes; renamed first, so that nobody sees half of it."""
        if not self.path(key).exists():
            return 0
        trash = self.root / "work" / f"trash-{key}-{os.getpid()}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.path(key), trash)
        size = folder_bytes(trash)
        remove(trash)
        return size

    def keys(self) -> list[str]:
        """Return the keys of all published artifacts, sorted."""
        return sorted(p.name for p in (self.root / "artifacts").glob("??/*") if p.is_dir())

    def manifests(self) -> Iterator[Manifest]:
        """Yield every readable manifest (sizes are not checked)."""
        for key in self.keys():
            manifest = self._read(key)
            if manifest is not None:
                yield manifest

    def manifest(self, key: str) -> Manifest | None:
        """Return the manifest of `key` without looking at the files."""
        return self._read(key)


def manifest_from(raw: Mapping[str, Any]) -> Manifest:
    """Return the Manifest of its JSON form."""
    recipe = dict(raw["recipe"])
    recipe["inputs"] = {name: Source(**source) for name, source in recipe["inputs"].items()}
    files = {name: FileEntry(**entry) for name, entry in raw["files"].items()}
    return Manifest(**{**raw, "recipe": Recipe(**recipe), "files": files, "cost": Cost(**raw["cost"])})


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that readers see the old or the new text, never a part, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("w", encoding="utf-8") as handle:
            json.dump(value, handle, indent=1, ensure_ascii=False, sort_keys=True)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)  # a full disk must not fill up with leftovers
        raise


def remove(path: Path) -> None:
    """Remove a file, link or folder; nothing happens when it is absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() or p.is_symlink())


def place_link(run_dir: Path, link: str, target: Path) -> None:
    """Make `run_dir/link` lead to `target`: a relative symlink, or a file holding the path where links fail.

    Raises StepError when something that is not ours stands in the way.
    """
    place = run_dir / link
    for parent in [p for p in place.parents if run_dir in p.parents]:
        if parent.is_symlink():  # an older graph had its artifact here; writing through it would change the store
            parent.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        raise StepError(f"{place}: expected a link to an artifact or nothing, found a folder; "
                        "move it away and run again")
    part = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    part.unlink(missing_ok=True)
    try:
        part.symlink_to(os.path.relpath(target, place.parent.resolve()), target_is_directory=True)
    except OSError:
        part.write_text(str(target) + "\n", encoding="utf-8")
    os.replace(part, place)


def follow(link: Path) -> Path:
    """Return the artifact folder that a link or pointer file of a run folder leads to."""
    return Path(link.read_text(encoding="utf-8").strip()) if link.is_file() else link.resolve()


@contextlib.contextmanager
def flock(path: Path, kind: int, *, wait: bool) -> Iterator[bool]:
    """Hold an advisory lock on `path`, freed by the kernel when its holder dies; yields False when it may not wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        try:
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _entry(path: Path) -> FileEntry:
    """Force a file to the disk and describe it."""
    sha256, found = _bytes_digest(path, sync=True), path.stat()
    return FileEntry(found.st_size, sha256, found.st_mtime_ns)


def _bytes_digest(path: Path, *, sync: bool = False) -> str:
    """Return the hex sha256 of a file's bytes; `sync` also forces them to the disk."""
    with path.open("rb") as handle:
        if sync:
            os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    """Return the current UTC time in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
