"""Verdicts, items, curves and orders of a study -> its result tables, findings and answer: the last step before the
report.

spec: {"study", "question", "contrasts": [Contrast as plain data], "runs": [{condition, level, seed, benchmark, input,
node, fingerprint}], "curves": [{condition, level, seed, input, node}], "orders": [{condition, level, seed, input}],
"checkpoints": [{condition, level, seed, benchmark, stage, share, input, node}]}.
`input` names the entry of `inputs`; left out, it is `verdicts:<condition>:<level>:<seed>:<benchmark>`,
`curve:<condition>:<level>:<seed>`, `order:<condition>:<level>:<seed>`, with `level` the canonical JSON of the vary
cell ("{}" for none). Benchmark items come from `items:<benchmark>`. An entry whose input is absent is a run that
failed: it is reported, and contrasts that need it are refused on their own.
Not covered: the statistics (effect.py, rule.py), drawing (report/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from leaven.analysis.amounts import amounts_finding
from leaven.analysis.contrasts import Contrast
from leaven.analysis.findings import answer_of, contrast_findings, finding_dict, plain_json
from leaven.analysis.influence_artifacts import write_influence_of
from leaven.analysis.order import probe_findings
from leaven.analysis.order_inputs import (
    checkpoint_scores,
    effects,
    funnel_rows,
    length_findings,
    pass_at_k_rows,
    perturbation_counts,
    sampling_findings,
    strategy_results,
    sweeps_of,
)
from leaven.analysis.probe_records import probe_records, regions_of
from leaven.analysis.probe_tables import gather_grids, gather_values
from leaven.analysis.progress import PROGRESS, progress_findings, progress_table
from leaven.analysis.scores import SCORES, score_table
from leaven.analysis.summaries import curve_findings, mixture_findings, score_findings
from leaven.core.hashing import canonical
from leaven.core.lineage import lineage
from leaven.core.step import StepContext, step
from leaven.core.tables import CURVE, ITEMS, REALISED, RESULTS, SAMPLES, VERDICTS, read_table, write_table
from leaven.core.types import Finding
from leaven.errors import DataError, StudyError

_CELL = {"condition": pl.String, "level": pl.String, "seed": pl.Int32}
CURVES = {**_CELL, **CURVE, "run": pl.String}
"""CURVE of every trained model with where it came from."""
ALL_REALISED = {**_CELL, **REALISED}
"""REALISED of every order with where it came from."""


@step(version=9)
def analyse(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write results, curves, realised, scores, progress (Parquet), findings.json, probes.json and answer.json; order.json
    holds the records of the report's sections on the order of thought and code, influence.json those on influence.

    Raises DataError when verdicts and items do not belong together, StudyError for a malformed spec.
    """
    contrasts = [Contrast.of(c) for c in spec.get("contrasts", ())]
    if sum(c.primary for c in contrasts) > 1:
        raise StudyError(f"contrasts: expected at most one primary, found {[c.name for c in contrasts if c.primary]}")
    study = str(spec.get("study", ""))
    items, results, missing = _results(list(spec.get("runs", ())), study, inputs, ctx)
    curves = _gather(spec.get("curves", ()), inputs, "curve", "curve.parquet", CURVE, CURVES)
    realised = _gather(spec.get("orders", ()), inputs, "order", "realised.parquet", REALISED, ALL_REALISED)
    ctx.check_stop()
    scores = _scores(results, items)
    progress = _progress(spec, inputs, results, curves, ctx)
    fingerprints = _fingerprints(spec, inputs)
    amounts = amounts_finding(spec.get("orders", ()), inputs, _level)
    probed = _probed(spec, inputs, contrasts, items)
    findings = [
        *contrast_findings(results, contrasts, fingerprints),
        *score_findings(scores),
        *curve_findings(curves),
        *progress_findings(progress),
        *mixture_findings(realised),
        amounts,
        *_notes(results, missing),
    ]
    for name, frame, schema in (
        ("results", results, RESULTS),
        ("curves", curves, CURVES),
        ("realised", realised, ALL_REALISED),
        ("scores", scores, SCORES),
        ("progress", progress, PROGRESS),
    ):
        write_table(out / f"{name}.parquet", frame, schema)
    _write_json(out / "order.json", plain_json(_order(spec, inputs, results, scores, progress, amounts, findings, probed, contrasts)))
    write_influence_of(spec, inputs, out, findings, scores)
    _write_json(out / "probes.json", [finding_dict(f) for f in probed.findings])
    _write_json(out / "findings.json", [finding_dict(f) for f in findings])
    _write_json(out / "answer.json", answer_of(str(spec.get("question", "")), findings))
    ctx.progress(1, 1, "analysed")


@dataclass(frozen=True, slots=True)
class Probed:
    """What all probes saw, and what was found in it."""

    values: pl.DataFrame
    grids: pl.DataFrame
    findings: list[Finding]
    clusters: Mapping[str, str]


def _probed(
    spec: Mapping[str, Any], inputs: Mapping[str, Path], contrasts: list[Contrast], items: Mapping[str, pl.DataFrame]
) -> Probed:
    """Gather the values of all probes and compare the conditions that the study contrasts; a benchmark's items bring their clusters."""
    entries = spec.get("probes", ())
    values, grids = gather_values(entries, inputs), gather_grids(entries, inputs)
    if values.is_empty():
        return Probed(values, grids, [], {})
    pairs = list(dict.fromkeys((c.treatment, c.control) for c in contrasts))
    clusters = {
        item: cluster or item
        for name in {e.get("of") for e in entries} & set(items)
        for item, cluster in items[name].select("item", "cluster").iter_rows()
    }
    return Probed(values, grids, probe_findings(values, pairs, clusters, grids), clusters)


def _order(
    spec: Mapping[str, Any],
    inputs: Mapping[str, Path],
    results: pl.DataFrame,
    scores: pl.DataFrame,
    progress: pl.DataFrame,
    amounts: Finding,
    findings: list[Finding],
    probed: Probed,
    contrasts: list[Contrast],
) -> dict[str, Any]:
    """Return the records of the report's sections on the order of thought and code."""
    strategies, begins = dict(spec.get("strategies") or {}), dict(spec.get("begins") or {})
    rows = amounts.data.get("rows", [])
    generated = _generated(spec, inputs)
    kinds = dict(spec.get("benchmark_kinds") or {})
    alike = {b: f"{kinds.get(b, b)}/{begins.get(b, '')}" for b in results["benchmark"].unique().to_list()}
    sweeps = sweeps_of(results, dict(spec.get("temperatures") or {}), alike)
    compared = [*findings, *length_findings(results, generated, contrasts), *sampling_findings(results, contrasts, sweeps)]
    seen = probe_records(
        probed.values,
        probed.grids,
        regions_of(spec.get("probes", ()), inputs),
        probed.findings,
        strategies,
        probed.clusters,
    )
    return {
        **seen,
        "paper": bool(spec.get("paper")),
        "model": str(spec.get("model", "")),
        "benchmark_kinds": kinds,
        "strategies": strategies,
        "results": strategy_results(scores, results, generated, rows, begins),
        "perturbations": perturbation_counts({n: p for n, p in inputs.items() if n.startswith("perturbed:")}),
        "funnel": funnel_rows({n: p for n, p in inputs.items() if n.startswith("funnel:")}),
        "checkpoints": checkpoint_scores(progress, scores),
        "pass_at_k": pass_at_k_rows(scores, sweeps),
        "effects": [*effects(compared, strategies, begins, scores), *seen["effects"]],
    }


def _generated(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> pl.DataFrame:
    """Return the length in tokens of every answer."""
    parts = []
    for run in spec.get("runs", ()):
        name = f"samples:{run['condition']}:{_level(run)}:{run['seed']}:{run['benchmark']}"
        if name not in inputs:
            continue
        answers = read_table(inputs[name] / "samples.parquet", SAMPLES).filter(pl.col("finish") != "")
        cell = {"condition": run["condition"], "level": _level(run), "seed": run["seed"], "benchmark": run["benchmark"]}
        parts.append(
            answers.sort("item", "request", "index")
            .unique(["item", "index"], keep="first", maintain_order=True)
            .select("item", "index", "n_tokens")
            .with_columns(*(pl.lit(v).alias(k) for k, v in cell.items()))
        )
    schema = {"item": pl.String, "index": pl.Int32, "n_tokens": pl.Int32, **_CELL, "benchmark": pl.String}
    frame = pl.concat(parts) if parts else pl.DataFrame(schema=schema)
    return frame.with_columns(pl.col("seed").cast(pl.Int32))


def _progress(
    spec: Mapping[str, Any], inputs: Mapping[str, Path], results: pl.DataFrame, curves: pl.DataFrame, ctx: StepContext
) -> pl.DataFrame:
    """Return PROGRESS: the scores of models kept during the last stage, ending with the final ones."""
    entries = [e for e in spec.get("checkpoints", ()) if e["input"] in inputs]
    if not entries:
        return pl.DataFrame(schema=PROGRESS)
    by_share = {
        share: _results([e for e in entries if e["share"] == share], str(spec.get("study", "")), inputs, ctx)[1]
        for share in dict.fromkeys(e["share"] for e in entries)
    }
    by_share["1/1"] = results.filter(pl.col("benchmark").is_in([e["benchmark"] for e in entries]))
    stages = {(str(e["condition"]), _level(e)): e["stage"] for e in entries}
    steps = curves.group_by("condition", "level", "stage").agg(pl.col("step").n_unique().alias("steps"))
    totals = {(c, level): int(n) for c, level, stage, n in steps.iter_rows() if stages.get((c, level)) == stage}
    return progress_table(by_share, totals)


def _results(
    runs: list[Any], study: str, inputs: Mapping[str, Path], ctx: StepContext
) -> tuple[dict[str, pl.DataFrame], pl.DataFrame, list[str]]:
    """Return items by benchmark, the RESULTS table, and the names of runs whose verdicts are absent."""
    items: dict[str, pl.DataFrame] = {}
    parts, missing = [], []
    for done, run in enumerate(runs):
        benchmark, level = str(run["benchmark"]), _level(run)
        name = run.get("input") or f"verdicts:{run['condition']}:{level}:{run['seed']}:{benchmark}"
        if name not in inputs:
            missing.append(name)
            continue
        if benchmark not in items:
            if f"items:{benchmark}" not in inputs:
                raise DataError(
                    f"benchmark {benchmark!r}: expected the input 'items:{benchmark}', found {sorted(inputs)}"
                )
            items[benchmark] = read_table(inputs[f"items:{benchmark}"] / "items.parquet", ITEMS).filter(
                pl.col("benchmark") == benchmark
            )
        parts.append(
            _join(
                read_table(inputs[name] / "verdicts.parquet", VERDICTS),
                items[benchmark],
                name,
                {
                    "study": study,
                    "condition": str(run["condition"]),
                    "level": level,
                    "seed": int(run["seed"]),
                    "benchmark": benchmark,
                    "run": str(run.get("node") or name),
                },
            )
        )
        ctx.progress(done + 1, len(runs), name)
    if not parts:
        raise DataError(
            f"expected the verdicts of at least one of {len(runs)} runs, found none; missing: {missing[:5]}"
        )
    table = pl.concat(parts).sort("condition", "level", "seed", "benchmark", "metric", "item", "index")
    return items, table, missing


def _join(verdicts: pl.DataFrame, items: pl.DataFrame, where: str, cell: Mapping[str, Any]) -> pl.DataFrame:
    """Return the verdicts of one run as RESULTS rows; DataError unless they speak of exactly the benchmark's items."""
    verdicts = verdicts.filter(pl.col("benchmark") == cell["benchmark"])
    known, judged = set(items["item"].to_list()), set(verdicts["item"].to_list())
    if known != judged:
        raise DataError(
            f"{where}: expected a verdict for each of {len(known)} items of {cell['benchmark']}; without one: "
            f"{sorted(known - judged)[:5]} ({len(known - judged)}); not among the items: {sorted(judged - known)[:5]} "
            f"({len(judged - known)}). Evaluate again on the current items"
        )
    facts = items.select(
        "item",
        pl.when(pl.col("cluster") == "").then(pl.col("item")).otherwise(pl.col("cluster")).alias("cluster"),
        "difficulty",
        "seen",
    )
    return (
        verdicts.join(facts, on="item", how="left")
        .with_columns(*(pl.lit(v).alias(k) for k, v in cell.items()))
        .select([pl.col(c).cast(t) for c, t in RESULTS.items()])
    )


def _fingerprints(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, str]:
    """Return run -> where its numbers were computed (spec, else its artifacts' manifests); empty when all agree."""
    known = lineage(inputs.values())
    found = {}
    for run in spec.get("runs", ()):
        node = str(run.get("node") or "")
        machines = (
            [str(run["fingerprint"])] if run.get("fingerprint") else [canonical(dict(m)) for m in known.machines(node)]
        )
        if node and machines:
            found[node] = " + ".join(machines)
    return found if len(set(found.values())) > 1 else {}


def _gather(
    entries: Any, inputs: Mapping[str, Path], kind: str, file: str, schema: dict[str, Any], wanted: dict[str, Any]
) -> pl.DataFrame:
    """Return one table of all runs from the file of that name in each entry's input; absent inputs and files are left
    out."""
    parts = []
    for entry in entries:
        level = _level(entry)
        name = entry.get("input") or f"{kind}:{entry['condition']}:{level}:{entry['seed']}"
        if name not in inputs or not (inputs[name] / file).is_file():
            continue
        cell = {
            "condition": str(entry["condition"]),
            "level": level,
            "seed": int(entry["seed"]),
            "run": str(entry.get("node") or name),
        }
        frame = read_table(inputs[name] / file, schema).with_columns(*(pl.lit(v).alias(k) for k, v in cell.items()))
        parts.append(frame.select([pl.col(c).cast(t) for c, t in wanted.items()]))
    return pl.concat(parts) if parts else pl.DataFrame(schema=wanted)


def _scores(results: pl.DataFrame, items: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return mean scores overall, per seen or unseen items, per difficulty, and each of one seed."""
    texts = {
        (b, row[0]): "\x1f".join(str(x) for x in row[1:])
        for b, frame in items.items()
        for row in frame.select("item", "question", "text", "turns", "answer", "code").iter_rows()
    }
    groupings: list[list[str]] = [[], ["seed"]]
    if results["seen"].n_unique() > 1:
        groupings += [["seen"], ["seed", "seen"]]
    tables = [score_table(results, by, texts) for by in groupings]
    deep = results.filter(pl.col("difficulty").is_not_null())
    if not deep.is_empty():
        tables.append(score_table(deep, ["difficulty", "seen"], texts))
    return pl.concat([t.select(list(SCORES)) for t in tables])


def _notes(results: pl.DataFrame, missing: list[str]) -> list[Finding]:
    """Return notes on runs without verdicts and on verdicts that measured nothing."""
    out = []
    if missing:
        out.append(
            Finding(
                id="note/missing-runs",
                kind="note",
                title="Runs without results",
                warnings=(
                    f"{len(missing)} runs have no verdicts (a step failed or was left out): {', '.join(missing[:5])}"
                    + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
                ),
                data={"missing": missing},
            )
        )
    lost = results.filter(pl.col("score").is_null())
    if not lost.is_empty():
        counts = (
            lost.group_by("condition", "benchmark", "status")
            .agg(pl.len().alias("n"))
            .sort("condition", "benchmark", "status")
        )
        out.append(
            Finding(
                id="note/not-measured",
                kind="note",
                title="Not measured",
                warnings=(
                    f"{lost.height} verdicts measured nothing "
                    f"({', '.join(sorted(lost['status'].unique().to_list()))}); those items are left out",
                ),
                data={"rows": counts.to_dicts()},
            )
        )
    return out


def _level(entry: Mapping[str, Any]) -> str:
    """Return an entry's vary cell as canonical JSON text."""
    level = entry.get("level") or "{}"
    return level if isinstance(level, str) else canonical(level)


def _write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON with one final newline."""
    path.write_text(
        json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False, allow_nan=False) + "\n", encoding="utf-8"
    )
