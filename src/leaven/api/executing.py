"""`leaven execute`: rows {id, program, tests ...} -> rows {id, verdict ...}, one program or a million, resumable.

Verdicts are appended as they come; running the same command again skips the ids whose verdict is already written and whose program,
tests and limits have not changed. Not covered: what a verdict means (core/sandbox), asking a model (evals/).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.core.hashing import digest
from leaven.core.sandbox import Job, Limits, Result, language_of
from leaven.core.sandbox import execute as run_jobs
from leaven.errors import DataError, RefusedError, did_you_mean
from leaven.evals.harness import limits_of

FIELDS = ("id", "program", "tests", "stdin", "expected_stdout", "entry_point", "language", "limits")


@dataclass(frozen=True, slots=True)
class Executed:
    """How many programs were judged now, found judged, and how all of them ended."""

    judged: int
    found: int
    by_verdict: dict[str, int]
    out: Path


def execute(
    programs: Path | str,
    out: Path | str | None = None,
    *,
    workers: int = 0,
    tier: str = "auto",
    strict: bool = True,
    cache: Path | str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Executed:
    """Execute every program of a file in the sandbox and write one verdict per row.

    The file is read twice, row by row: every row is checked before anything runs, and no more than a few thousand
    programs are held at a time.

    Args:
        programs: JSONL, JSON or Parquet with the columns FIELDS; `tests` is assert text or a list of it.
        out: Verdict rows (JSONL); default is `programs` with the suffix `.verdicts.jsonl`. Existing verdicts are kept.
        workers: Programs at a time; 0 means one per core.
        tier: Sandbox tier, or auto for the strongest this machine offers.
        strict: Keep expected values out of the candidate's process.
        cache: File of verdicts by content, shared between runs and files; made when missing.
        progress: Receives (judged, total).

    Raises:
        DataError: A row lacks id or program, has an unknown column, a language that is not run, or a repeated id.
        RefusedError: The tier is not available here, or `cache` is another kind of file.
    """
    source = Path(programs)
    target = Path(out) if out is not None else source.with_name(source.name.split(".")[0] + ".verdicts.jsonl")
    wanted = {job.id: _identity(job) for job in _jobs(source)}
    known = _keep_known(target, wanted)
    counts = Counter(known.values())
    total = len(wanted) - len(known)
    left = (job for job in _jobs(source) if job.id not in known)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a", encoding="utf-8") as handle:
        for done, result in enumerate(run_jobs(left, workers=workers, tier=tier, strict=strict, cache=cache), 1):
            handle.write(json.dumps(_row(result, wanted[result.id])) + "\n")
            handle.flush()
            counts[result.status] += 1
            progress(done, total)
    return Executed(total, len(known), dict(counts.most_common()), target)


def _row(result: Result, identity: str) -> dict[str, Any]:
    """Return the verdict row of a result."""
    return {
        "id": result.id,
        "verdict": result.status,
        "detail": result.detail,
        "cpu_s": round(result.cpu_s, 4),
        "wall_s": round(result.wall_s, 4),
        "tier": result.tier,
        "stdout_tail": result.stdout_tail,
        "digest": identity,
    }


def _jobs(path: Path) -> Iterator[Job]:
    """Yield the programs of a file."""
    from leaven.data.sources.rows import read_rows

    seen: set[str] = set()
    for row in read_rows(path):
        if row.problem or not isinstance(row.value, dict):
            raise DataError(
                f"{path}: {row.where}: expected a row {{id, program, tests}}, {row.problem or 'found ' + row.start}"
            )
        job = _job(row.value, f"{path}: {row.where}")
        if job.id in seen:
            raise DataError(f"{path}: {row.where}: expected a new id, found {job.id!r} again; ids name verdicts")
        seen.add(job.id)
        yield job


def _job(value: Mapping[str, Any], where: str) -> Job:
    """Return the job of one row."""
    for name in value:
        if name not in FIELDS:
            raise DataError(f"{where}: unknown column {name!r}.{did_you_mean(name, FIELDS)} Known: {', '.join(FIELDS)}")
    if value.get("id") in (None, ""):
        raise DataError(f"{where}: expected a value for 'id', found none")
    if value.get("program") is None:  # an empty one is what a model may write, and is judged
        raise DataError(f"{where}: expected a text for 'program', found none")
    tests = value.get("tests") or []
    try:
        language = language_of(str(value.get("language") or "python"), where)
    except RefusedError as problem:
        raise DataError(str(problem)) from None
    if language != "python" and tests:
        raise DataError(
            f"{where}: found tests beside a {language} program; expected the tests inside its text (assert texts are Python), "
            "or expected_stdout"
        )
    return Job(
        id=str(value["id"]),
        program=str(value["program"]),
        tests=tuple(map(str, [tests] if isinstance(tests, str) else tests)),
        entry_point=str(value.get("entry_point") or ""),
        stdin=_text_or_none(value, "stdin", where),
        expected_stdout=_text_or_none(value, "expected_stdout", where),
        limits=limits_of(value.get("limits") or {}, where) if value.get("limits") else Limits(),
        language=language,
    )


def _text_or_none(value: Mapping[str, Any], name: str, where: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise DataError(f"{where}: expected text for {name!r}, found {type(found).__name__} {str(found)[:40]}")
    return found


def _identity(job: Job) -> str:
    """Return a short digest of everything that decides a job's verdict."""
    return digest(
        {
            "program": job.program,
            "tests": job.tests,
            "entry_point": job.entry_point,
            "stdin": job.stdin,
            "expected_stdout": job.expected_stdout,
            "limits": job.limits,
            **({} if job.language == "python" else {"language": job.language}),
        }
    )[:16]


def _keep_known(path: Path, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return id -> verdict of the rows already written for the programs wanted; all other rows go (a last line cut by a
    kill, changed or removed programs, missing toolchains, which may be there now)."""
    known: dict[str, str] = {}
    if not path.is_file():
        return known
    fresh = path.with_name(path.name + ".part")
    dropped = 0
    with path.open(encoding="utf-8", errors="replace") as old, fresh.open("w", encoding="utf-8") as new:
        for line in old:
            try:
                row = json.loads(line)
                name, verdict = str(row["id"]), str(row["verdict"])
                current = row.get("digest") == wanted.get(name, "") and name not in known and verdict != "not_measured"
            except (ValueError, KeyError, TypeError, AttributeError):
                current = False
            if not current:
                dropped += 1
                continue
            known[name] = verdict
            new.write(line if line.endswith("\n") else line + "\n")
    if dropped:
        fresh.replace(path)
    else:
        fresh.unlink()
        _end_line(path)
    return known


def _end_line(path: Path) -> None:
    """End the last line of a file that a kill cut just before its line break."""
    with path.open("rb+") as handle:
        if handle.seek(0, 2):
            handle.seek(-1, 2)
            if handle.read(1) != b"\n":
                handle.write(b"\n")
