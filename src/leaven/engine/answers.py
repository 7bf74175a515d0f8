"""The last two nodes of every study: the analysis of all runs and the report.

They are built from references only, so that they can be made again from the runs that worked when others failed.
Not covered: what the steps compute (analysis/run.py, report/render.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import leaven
from leaven.core.hashing import digest, plain
from leaven.engine.graph import FileInput
from leaven.engine.origins import format_of, operations
from leaven.errors import StudyError
from leaven.spec.data import Data
from leaven.spec.train import Model

if TYPE_CHECKING:
    from leaven.engine.plan import Plan, RunRef

Add = Callable[..., str]


def add_analysis_and_report(plan: Plan, add: Add, without: Collection[str] = ()) -> None:
    """Add the nodes `analysis` and `report`; runs whose steps are in `without` (failed or blocked) are left out of both.

    Raises:
        StudyError: When no run is left.
    """
    study = plan.loaded.study
    usable = [(r, name) for r in plan.runs for name in study.measure if r.verdicts[name] not in without]
    if not usable:
        raise StudyError("no run of the study has verdicts; see `leaven status` for what failed")
    spec, inputs = _analysis_spec(plan), _analysis_inputs(plan, usable, without)
    if plan.attributions is not None and study.attribute:
        told, more = plan.attributions.facts(without)
        spec["attributions"] = {**told, "model": spec["model"]} if told else {}
        inputs |= more
    analysis = add("analysis", "leaven.analysis.run:analyse", spec, inputs, ("analysis",))
    shown = _browsed(plan, without)
    report_inputs = {"analysis": analysis, **{f"items:{n}": plan.items[n] for _, n in usable}}
    for run, name in shown:
        report_inputs[_input("samples", run, name)] = run.samples[name]
        report_inputs[_input("verdicts", run, name)] = run.verdicts[name]
    for condition in plan.sources:
        report_inputs |= {f"source:{node}": node for node in plan.sources[condition].values() if node not in without}
    add(
        "report",
        "leaven.reporting.render:report",
        _report_spec(plan, usable, {(r.id, n) for r, n in shown}),
        report_inputs,
        ("report",),
    )


def _analysis_inputs(plan: Plan, usable: list[tuple[RunRef, str]], without: Collection[str]) -> dict[str, str | FileInput]:
    """Return what the analysis reads of every run, as far as it worked."""
    runs = plan.runs
    inputs: dict[str, str | FileInput] = {f"items:{name}": plan.items[name] for _, name in usable}
    for run, name in usable:
        inputs[_input("verdicts", run, name)] = run.verdicts[name]
        inputs[_input("samples", run, name)] = run.samples[name]
    changed = {node for nodes in plan.perturbed.values() for node in nodes.values() if node not in without}
    inputs |= {f"perturbed:{node}": node for node in sorted(changed)}
    inputs |= {f"funnel:{name}": file for name, file in plan.funnels.items()}
    for run in runs:
        inputs |= {_input("probe", run, name): node for name, node in run.probes.items() if node not in without}
        for name, kept in run.checkpoints.items():
            inputs |= {
                _input("verdicts", run, f"{name}@{share}"): node for share, node in kept.items() if node not in without
            }
        for stage in run.models:
            if run.models[stage] not in without:
                inputs[_input("curve", run, stage)] = run.models[stage]
            if run.orders[stage] not in without:
                inputs[_input("order", run, stage)] = run.orders[stage]
    return inputs


def _analysis_spec(plan: Plan) -> dict[str, Any]:
    """Return what the analysis is told of the study and its runs."""
    study, runs = plan.loaded.study, plan.runs
    cells = [{"condition": r.condition, "level": r.level, "seed": r.seed} for r in runs]
    return {
        "study": study.study,
        "question": study.question,
        "contrasts": [_contrast(c) for c in study.contrasts],
        "runs": [
            {**cell, "benchmark": name, "input": _input("verdicts", r, name), "node": r.verdicts[name]}
            for r, cell in zip(runs, cells, strict=True)
            for name in study.measure
        ],
        "curves": [
            {**cell, "input": _input("curve", r, s), "node": r.models[s]}
            for r, cell in zip(runs, cells, strict=True)
            for s in r.models
        ],
        "strategies": {c.condition: strategy_of(c.data) for c in plan.loaded.cells},
        "begins": {name: m.begin for name, m in study.measure.items()},
        "paper": "liu2025" in study.papers,
        "model": model_words(study.model),
        "benchmark_kinds": {name: m.benchmark for name, m in study.measure.items()},
        "temperatures": {name: m.temperature for name, m in study.measure.items()},
        "probes": [
            {
                **cell,
                "probe": name,
                "kind": study.probe[name].kind,
                "of": study.probe[name].of,
                "input": _input("probe", r, name),
                "node": node,
            }
            for r, cell in zip(runs, cells, strict=True)
            for name, node in r.probes.items()
        ],
        "checkpoints": [
            {
                **cell,
                "benchmark": name,
                "stage": list(r.models)[-1],
                "share": share,
                "input": _input("verdicts", r, f"{name}@{share}"),
                "node": node,
            }
            for r, cell in zip(runs, cells, strict=True)
            for name, kept in r.checkpoints.items()
            for share, node in kept.items()
        ],
        "orders": [
            {**cell, "input": _input("order", r, s)} for r, cell in zip(runs, cells, strict=True) for s in r.orders
        ],
    }


CHANGED = {
    "remove_signatures": "no_signature",
    "remove_comments": "no_comments",
    "remove_docstrings": "no_docstrings",
    "rename_identifiers": "renamed",
    "inconsistent": "inconsistent",
    "noise": "noise",
}
"""Perturbation -> the word that a changed strategy carries behind a plus."""


def strategy_of(data: Data) -> str:
    """Return which strategy of Liu et al. 2025 a condition's last stage plays (its format, "+" what changed it), "" for none."""
    stage = list(data.stages.values())[-1]
    formats = {format_of(stage, s) for s, weight in stage.mixture.items() if weight > 0}
    names = [o["name"] for o in operations(stage.perturb)]
    if len(formats) != 1 or not formats <= {"seed", "code_only", "thought_code", "code_thought", "mixed", "filler_code"}:
        return ""
    found = formats.pop()
    if "filler" in names:
        found, names = ("filler_code" if found == "thought_code" else ""), [n for n in names if n != "filler"]
    return "+".join([found, *(CHANGED.get(n, n) for n in names)]) if found else ""


def model_words(model: Model) -> str:
    """Return what a study trains, in a few words."""
    if model.kind == "hf":
        return Path(str(model.folder).removeprefix("model:")).name
    layers = f"{model.layers} layer{'s' if model.layers > 1 else ''}"
    return f"a model of {layers} of width {model.width} from scratch"


def _input(kind: str, run: RunRef, name: str) -> str:
    """Return the input name of one artifact of a run."""
    return f"{kind}:{run.condition}:{run.level}:{run.seed}:{name}"


def _contrast(contrast: Any) -> dict[str, Any]:
    """Return a declared contrast as the analysis reads it."""
    found = plain(contrast)
    found["where"] = {k: v for k, v in found["where"].items() if v is not None}
    better = found.pop("better")
    return {**found, "direction": better}


def _browsed(plan: Plan, without: Collection[str]) -> list[tuple[RunRef, str]]:
    """Return the runs whose samples the report shows: the first seed of every condition that worked, at the first level."""
    found: dict[tuple[str, str], tuple[RunRef, str]] = {}
    for run in plan.runs:
        for name in run.samples:
            if run.verdicts[name] not in without:
                found.setdefault((run.condition, name), (run, name))
    return list(found.values())


def _report_spec(plan: Plan, usable: list[tuple[RunRef, str]], shown: set[tuple[str, str]]) -> dict[str, Any]:
    """Return the study's facts that the report tells: what was compared, trained, measured, under which licences."""
    from leaven.engine.plan import differences

    loaded, study = plan.loaded, plan.loaded.study
    differs = differences(loaded.cells)
    first = next(iter(study.conditions))
    conditions = {
        name: {
            "description": c.description,
            "differs": [d["path"] for d in differs if d["values"].get(name) != d["values"].get(first)],
        }
        for name, c in study.conditions.items()
    }
    what = [
        [n.id, n.function, dict(n.spec), {k: v if isinstance(v, str) else v.sha256 for k, v in n.inputs.items()}]
        for n in plan.nodes
        if n.id not in ("analysis", "report")
    ]
    licences = {}
    for condition, sources in plan.sources.items():
        cell = next(c for c in loaded.cells if c.condition == condition)
        for name, node in sources.items():
            source = cell.data.sources[name]
            origin = (Path(source.file).name if source.file else None) or (
                f"subset of {source.subset_of}"
                if source.subset_of
                else f"leaven world: {', '.join(source.world.families) if source.world else ''}"
            )
            licence = source.licence or ("Apache-2.0" if source.world else "not stated")
            licences[node] = {"source": name, "licence": licence, "origin": origin, "input": f"source:{node}"}
    runs = [
        {
            "id": f"{r.id}/{name}",
            "condition": r.condition,
            "seed": r.seed,
            "level": r.level,
            "benchmark": name,
            "node": r.verdicts[name],
            "verdicts_input": _input("verdicts", r, name) if (r.id, name) in shown else None,
            "samples_input": _input("samples", r, name) if (r.id, name) in shown else None,
            "items_input": f"items:{name}",
        }
        for r, name in usable
    ]
    return {
        "study": study.study,
        "question": study.question,
        "version": leaven.__version__,
        "lock_digest": digest(what),
        "conditions": conditions,
        "differences": differs,
        "licences": list(licences.values()),
        "references": list(study.papers),
        "seeds": list(study.seeds),
        "model": plain(study.model),
        "train": plain(study.train),
        "tokenizer": plain(study.tokenizer),
        "stages": {name: plain(stage) for name, stage in study.data.stages.items()},
        "benchmarks": {n: _described(m) for n, m in study.measure.items()},
        "runs": runs,
    }


def _described(measure: Any) -> Mapping[str, Any]:
    """Return a benchmark's declaration without empty fields."""
    return {k: v for k, v in plain(measure).items() if v not in (None, {}, [])}
