"""Values, files and tables -> sha256 digests that depend on content only.

`canonical` refuses what it cannot serialise deterministically and names the field. A table's digest covers column names, types
and row values, never Parquet bytes; files called `timings.*` and names that start with `_` carry no identity.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from leaven.errors import StudyError


def plain(value: Any, where: str = "value") -> Any:
    """Turn `value` into JSON types; raise StudyError naming the field for anything without one deterministic form."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return plain(value.value, where)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StudyError(f"{where}: expected a finite number, found {value!r}")
        return value
    if isinstance(value, dict):
        bad = [k for k in value if not isinstance(k, str)]
        if bad:
            raise StudyError(f"{where}: expected text keys, found {bad[0]!r}")
        return {k: plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise StudyError(
        f"{where}: a {type(value).__name__} has no deterministic form and cannot identify an artifact; "
        "use numbers, text, lists or mappings"
    )


def canonical(value: Any, where: str = "value") -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, ASCII."""
    return json.dumps(plain(value, where), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any, where: str = "value") -> str:
    """Return the hex sha256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value, where).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hex sha256 of a file: of its rows for `.parquet`, of its bytes otherwise."""
    if path.suffix == ".parquet":
        return table_digest(path)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def table_digest(path: Path) -> str:
    """Return the hex sha256 of a Parquet table's column names, types and rows (independent of compression and row groups)."""
    import polars as pl

    frame = pl.read_parquet(path)
    state = hashlib.sha256(json.dumps([[n, str(t)] for n, t in frame.schema.items()]).encode())
    for start in range(0, frame.height, 65536):
        # NDJSON text of the rows: stable across Parquet writers, row groups and string encodings
        state.update(frame.slice(start, 65536).write_ndjson().encode())
    return state.hexdigest()


def carries_identity(relative: Path) -> bool:
    """Return whether a file inside an artifact counts for its digest."""
    return not any(part.startswith("_") for part in relative.parts) and not relative.name.startswith("timings.")


def tree_digest(folder: Path) -> str:
    """Return the hex sha256 over the sorted (relative path, file digest) pairs of a folder."""
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    pairs = [[p.as_posix(), file_digest(folder / p)] for p in files if carries_identity(p)]
    return digest(pairs)
