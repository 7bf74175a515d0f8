"""The verbs that read what a run left: status, why, results, compare, report, gc, schema.

Each takes a run folder or a study file where a person would naturally give either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaven.errors import StudyError

if TYPE_CHECKING:
    from leaven.analysis.compare import Comparison
    from leaven.analysis.results import Results
    from leaven.api.running import RunResult
    from leaven.engine.collect import Garbage


def run_folder(path: Path | str) -> Path:
    """Return the run folder that a path names: itself, or the one of a study file.

    Raises:
        StudyError: When neither is there.
    """
    place = Path(path)
    if (place / "status.json").is_file():
        return place
    if place.is_file():
        from leaven.api.running import load, run_dir_of

        folder = run_dir_of(load(place))
        if (folder / "status.json").is_file():
            return folder
        raise StudyError(
            f"{place}: expected an earlier run in {folder}, found none; start it with `leaven run {place}`"
        )
    known = sorted(str(p.parent) for p in Path("runs").glob("*/status.json"))
    raise StudyError(
        f"{place}: expected a run folder (with status.json) or a study file, found neither."
        + (f" Known here: {', '.join(known)}" if known else " No runs here yet: `leaven new quickstart` writes a study")
    )


def status(path: Path | str) -> dict[str, Any]:
    """Return the state of every step of a run: {state, nodes: {id: {state, reason, ...}}, eta_s}."""
    from leaven.engine.status import read_status

    return read_status(run_folder(path))


def why(path: Path | str, artifact: str, store: Path | str | None = None) -> list[str]:
    """Return lines that say why an artifact of a run was built: what changed since the build before.

    Args:
        path: Run folder or study file.
        artifact: A step's name as `status` shows it, such as code_only/seed-0/model.
        store: The artifact store; default is the one beside the run (LEAVEN_STORE or .leaven).
    """
    from leaven.engine.provenance import why as explain
    from leaven.engine.store import Store
    from leaven.spec.runtime import Runtime, store_path

    folder = run_folder(path)
    place = Path(store) if store else store_path(Runtime())
    return explain(Store(place), folder, artifact)


def results(path: Path | str) -> Results:
    """Open the tables of a run for queries: `.table(by=...)`, `.contrast(a, b)`, `.sql(query)`."""
    from leaven.analysis.results import Results

    return Results.load(run_folder(path))


def compare(
    a: Sequence[Path | str],
    b: Sequence[Path | str],
    *,
    cluster: str | None = None,
    metric: str | None = None,
    item: str | None = None,
    unequal_seeds: str = "refuse",
) -> Comparison:
    """Compare two sets of result files item by item; several files a side are seeds.

    Raises:
        DataError: For files without item or score columns.
        RefusedError: When the two sides do not hold the same items.
    """
    from leaven.analysis.compare import compare_files

    if unequal_seeds not in ("refuse", "common", "welch"):
        raise StudyError(f"unequal seeds: expected refuse, common or welch, found {unequal_seeds!r}")
    return compare_files(
        [Path(p) for p in a],
        [Path(p) for p in b],
        cluster=cluster,
        metric=metric,
        item=item,
        unequal_seeds=unequal_seeds,
    )  # type: ignore[arg-type]


def report(path: Path | str, set: Sequence[str] = (), *, log: Any = None) -> RunResult:
    """Build the report of a study again from what is in the store (steps that are missing run first)."""
    from leaven.api.running import run

    return run(path, set, log=log)


def gc(store: Path | str | None = None, *, dry_run: bool = True) -> Garbage:
    """Free artifacts that no run folder names; a dry run only counts them."""
    from leaven.engine.collect import collect
    from leaven.engine.store import Store
    from leaven.spec.runtime import Runtime, store_path

    place = Path(store) if store else store_path(Runtime())
    if store and not (place / "artifacts").is_dir():
        raise StudyError(f"--store {place}: expected an artifact store (a folder with artifacts/), found none")
    return collect(Store(place), dry_run=dry_run)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of study files."""
    from leaven.spec.load import json_schema

    return json_schema()
