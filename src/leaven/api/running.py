"""A study file -> its run folder: load, plan, run every step, and put the answer where people look for it.

runs/<study>/ gets report.html, findings.json, tables/, figures/, study.lock.yaml and links to every artifact.
Not covered: which steps (engine/plan), how they run (engine/run), printing (cli.py).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leaven
from leaven.core.step import Resources
from leaven.engine.graph import FileInput
from leaven.engine.plan import Plan, answer_from, build_plan
from leaven.engine.run import Failure, Outcome
from leaven.engine.run import run as run_graph
from leaven.engine.store import Store, follow, write_json
from leaven.spec.load import LoadedStudy, load_study
from leaven.spec.runtime import cores, store_path


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `run` brings back: exit code, answer, where the report is, and how each step ended."""

    exit_code: int
    answer: str
    report: Path | None
    run_dir: Path
    outcome: Outcome
    findings: list[dict[str, Any]]
    notes: list[str]

    @property
    def failed(self) -> dict[str, Failure]:
        """Return the failed steps."""
        return dict(self.outcome.failed)


def load(path: Path | str, set: Sequence[str] = ()) -> LoadedStudy:
    """Read and check a study file.

    Args:
        path: The study file.
        set: `dotted.path=value` overrides.

    Raises:
        StudyError: With file, line, path and a suggestion for every mistake.
    """
    return load_study(Path(path), tuple(set))


def run(
    path: Path | str, set: Sequence[str] = (), *, log: Callable[[Any], None] | None = None, workers: int | None = None
) -> RunResult:
    """Run a study (or go on with it) and return its answer.

    Args:
        path: The study file; `study.lock.yaml` of an earlier run replays it.
        set: `dotted.path=value` overrides.
        log: Receives engine events (engine/progress draws them).
        workers: Steps at a time; default is the study's runtime.

    Raises:
        StudyError: When the file is wrong; nothing has run then.
    """
    loaded = load(path, set)
    plan = build_plan(loaded)
    folder = run_dir_of(loaded)
    folder.mkdir(parents=True, exist_ok=True)
    write_lock(plan, folder)
    write_json(
        folder / "plan.json",
        {
            "study": loaded.study.study,
            "study_file": str(loaded.path.absolute()),
            "runs": [{"id": r.id, "condition": r.condition, "level": r.level, "seed": r.seed} for r in plan.runs],
        },
    )
    resume = f"leaven run {path}" + "".join(f" --set {s}" for s in set)
    outcome = execute(plan, folder, log=log, workers=workers, resume=resume)
    if outcome.failed and not outcome.interrupted:
        outcome = _report_what_worked(plan, folder, outcome, log, resume)
    return _collect(folder, outcome)


def _report_what_worked(
    plan: Plan, folder: Path, outcome: Outcome, log: Callable[[Any], None] | None, resume: str
) -> Outcome:
    """Analyse and report the runs that worked; the report names what is missing, and contrasts that need it are refused.

    Returns `outcome`, with analysis and report moved to done when that worked.
    """
    lost = {*outcome.failed, *outcome.skipped}
    if (
        not lost - {"analysis", "report"}
        or lost & set(plan.items.values())
        or all(v in lost for r in plan.runs for v in r.verdicts.values())
    ):
        return outcome
    rest = answer_from(plan, lost)
    second = execute(rest, folder, only=["report"], log=log, workers=1, resume=resume)
    return dataclasses.replace(
        outcome,
        done=(*outcome.done, *second.done),
        failed={**outcome.failed, **second.failed},
        skipped=tuple(n for n in outcome.skipped if n not in ("analysis", "report")),
        interrupted=second.interrupted,
    )


def execute(
    plan: Plan,
    folder: Path,
    *,
    only: Sequence[str] | None = None,
    log: Callable[[Any], None] | None = None,
    workers: int | None = None,
    resume: str = "",
) -> Outcome:
    """Run a plan's nodes (all, or those in `only` with what they need) in the study's store."""
    runtime = plan.loaded.study.runtime
    nodes = plan.nodes if only is None else [n for n in plan.nodes if n.id in closure(plan, only)]
    count = workers or runtime.workers or max(1, cores() // max(1, runtime.threads))
    resources = Resources(
        threads=runtime.threads,
        device=runtime.device,
        micro_batch=runtime.micro_batch,
        compile=runtime.compile,
        sandbox_tier=runtime.sandbox_tier,
        checkpoint_seconds=runtime.checkpoint_seconds,
    )
    return run_graph(
        nodes,
        Store(store_path(runtime)),
        run_dir=folder,
        resources=resources,
        workers=count,
        log=log or (lambda event: None),
        resume=resume,
        partial=only is not None,
    )


def closure(plan: Plan, wanted: Sequence[str]) -> set[str]:
    """Return the ids of `wanted` nodes and of everything they read."""
    needed = set(wanted)
    for node in reversed(plan.nodes):
        if node.id in needed:
            needed.update(node.parents())
    return needed


def run_dir_of(loaded: LoadedStudy) -> Path:
    """Return the run folder of a study."""
    return Path(loaded.study.runtime.runs).expanduser().absolute() / loaded.study.study


def write_lock(plan: Plan, folder: Path) -> None:
    """Write study.lock.yaml: the study with all overrides applied, paths relative to the lock, and the digest of every outside file."""
    loaded = plan.loaded
    raw: dict[str, Any] = json.loads(json.dumps(loaded.raw))
    here = loaded.path.absolute().parent

    def moved(name: str) -> str:
        return os.path.relpath(here / Path(name).expanduser(), folder)

    for section in [raw.get("data", {}), *[c.get("data", {}) for c in (raw.get("conditions") or {}).values() if c]]:
        for source in (section.get("sources") or {}).values():
            if isinstance(source, dict) and source.get("file") and not source["file"].startswith("data:"):
                source["file"] = moved(source["file"])
    for measure in raw["measure"].values():
        if measure.get("file") and not measure["file"].startswith("data:"):
            measure["file"] = moved(measure["file"])
    model = raw.get("model") or {}
    if model.get("folder") and not model["folder"].startswith("model:"):
        model["folder"] = moved(model["folder"])
    raw["plugins"] = [moved(p) for p in raw.get("plugins") or []]
    paths = loaded.study.runtime.paths
    runtime = {k: v for k, v in (raw.get("runtime") or {}).items() if k not in ("store", "runs")}
    raw["runtime"] = {**runtime, "paths": {"data": moved(paths.data), "models": moved(paths.models)}}
    files = {Path(i.path).name: i.sha256 for n in plan.nodes for i in n.inputs.values() if isinstance(i, FileInput)}
    raw["lock"] = {"leaven": leaven.__version__, "files": files}
    from leaven.spec.load import write_yaml

    write_yaml(
        folder / "study.lock.yaml",
        raw,
        "Written by `leaven run`: the study as it ran. `leaven run study.lock.yaml` replays it to the same artifacts.",
    )


def _collect(folder: Path, outcome: Outcome) -> RunResult:
    """Copy the report's files into the run folder and read the answer."""
    answer, answered, findings, report = "", True, [], None
    link = folder / "report"
    if not outcome.interrupted and "report" in (*outcome.done, *outcome.cached) and os.path.lexists(link):
        artifact = follow(link)
        for name in ("report.html", "findings.json", "tables", "figures"):
            _copy(artifact / name, folder / name)
        findings = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
        found = json.loads((follow(folder / "analysis") / "answer.json").read_text(encoding="utf-8"))
        answer, answered = found["answer"], bool(found.get("answered", True))
        report = folder / "report.html"
    return RunResult(
        outcome.exit_code or int(not answered), answer, report, folder, outcome, findings, source_notes(folder)
    )


def source_notes(folder: Path) -> list[str]:
    """Return one line per source of a run folder whose file had rows that were refused."""
    notes = []
    for link in sorted((folder / "data").glob("*")) if (folder / "data").is_dir() else ():
        path = follow(link) / "report.json"
        refused = refused_rows(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ""
        if refused:
            notes.append(f"source {link.name}: {refused}")
    return notes


def refused_rows(report: Mapping[str, Any]) -> str:
    """Return what a source's report.json says about refused rows, "" when there are none."""
    bad: Mapping[str, int] = report.get("bad_rows") or {}
    total = sum(bad.values())
    if not total:
        return ""
    reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(bad.items(), key=lambda pair: -pair[1]))
    return f"{report['rows_kept']} of {report['rows_read']} rows used, {total} refused ({reasons})"


def _copy(source: Path, target: Path) -> None:
    """Replace `target` by a copy of a file or folder of the report artifact."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copyfile(source, target)
