"""Published folders + the resolved study -> ReportData, the facts one report shows.

Reads the analysis folder (findings.json, answer.json, scores, curves, realised, results, order.json and influence.json if there) and
the sources' own accounts of their rows. Curves are thinned to at most POINTS means, so that a report stays small however large the
study is.
Not covered: the sample browser's items (samples.py), computing scores or contrasts (analysis/), drawing (figures.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from leaven.analysis.scores import SCORES
from leaven.core.lineage import Lineage, distinct, lineage
from leaven.core.tables import RESULTS, read_table
from leaven.core.types import Finding
from leaven.errors import DataError
from leaven.reporting.facts import SCOPES, Condition, Curve, Mixture, ReportData, Run, Score
from leaven.reporting.samples import shown_samples
from leaven.reporting.sections.from_json import influence_inputs_from, inputs_from
from leaven.reporting.sections.influence_inputs import InfluenceInputs
from leaven.reporting.sections.inputs import OrderInputs

POINTS = 90
ALL_POINTS = 4_000
SHOWN_REASONS = 3
T = TypeVar("T", Score, Curve, Mixture)
CELL = ("condition", "level", "benchmark", "metric", "seen")


def read_report(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> ReportData:
    """Return the facts of one report.

    Args:
        spec: the resolved study as plain JSON (study, question, conditions, differences, runs, ...).
        inputs: "analysis" and the folders that spec["runs"] names as verdicts_input, samples_input and items_input.

    Raises DataError when the analysis folder lacks a file, or a table lacks a column.
    """
    if "analysis" not in inputs:
        raise DataError(
            f"report: expected an input called 'analysis', found {sorted(inputs)}; run the analysis step first"
        )
    folder = inputs["analysis"]
    findings = tuple(finding_from(row) for row in _json(folder / "findings.json"))
    answer = _json(folder / "answer.json")
    results = read_table(folder / "results.parquet", RESULTS)
    order = {str(name): i for i, name in enumerate(spec.get("conditions", {}))}
    runs, fingerprints = _runs(spec, lineage(inputs.values()))
    licences = _licences(spec, inputs)
    return ReportData(
        study=str(spec["study"]),
        question=str(answer.get("question") or spec["question"]),
        answer=str(answer["answer"]),
        version=str(spec.get("version") or ""),
        lock_digest=str(spec.get("lock_digest") or ""),
        primary=_primary(answer, findings),
        conditions=_conditions(spec),
        contrasts=tuple(f for f in findings if f.kind == "contrast"),
        notes=tuple(f for f in findings if f.kind != "contrast" and f.warnings),
        scores=_in_order(_scores(folder), order),
        curves=_in_order(_curves(folder), order),
        mixtures=_in_order(_mixtures(folder), order),
        samples=shown_samples(spec.get("runs", ()), inputs),
        samples_total=results["item"].n_unique(),
        differences=tuple((str(row["path"]), dict(row["values"])) for row in spec.get("differences", ())),
        warnings=(*(str(w) for w in spec.get("warnings", ())), *refused_rows(licences)),
        licences=licences,
        runs=runs,
        fingerprints=fingerprints,
        seeds=tuple(spec.get("seeds", ())),
        benchmarks=_named(spec.get("benchmarks", ())),
        references=tuple(str(r) for r in spec.get("references", ())),
        order=_order(folder / "order.json"),
        influence=_influence(folder / "influence.json"),
        facts={name: spec[name] for name in ("model", "train", "stages", "tokenizer") if spec.get(name)},
    )


def finding_from(row: Mapping[str, Any]) -> Finding:
    """Return a Finding from its JSON form; raise DataError naming a field that is not one of Finding's."""
    known = {f.name for f in fields(Finding)}
    unknown = sorted(set(row) - known)
    if unknown:
        raise DataError(
            f"findings.json, finding {row.get('id')!r}: expected the fields {sorted(known)}, found {unknown}"
        )
    values = {k: tuple(v) if isinstance(v, list) and k != "data" else v for k, v in row.items()}
    return Finding(**values)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: expected JSON written by an earlier step, {type(error).__name__}: {error}") from error


def _order(path: Path) -> OrderInputs:
    """Return what the analysis found on the order of thought and code; nothing where it did not look."""
    return inputs_from(_json(path), str(path)) if path.is_file() else OrderInputs()


def _influence(path: Path) -> InfluenceInputs:
    """Return what the analysis found on the influence of training examples; nothing where nothing was attributed."""
    return influence_inputs_from(_json(path), str(path)) if path.is_file() else InfluenceInputs()


def _primary(answer: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    declared = next((f.id for f in findings if f.kind == "contrast" and f.data.get("primary")), "")
    return declared or str(answer.get("finding") or "")


def _named(rows: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(rows, Mapping):
        return tuple({"name": name, **(row if isinstance(row, Mapping) else {})} for name, row in rows.items())
    return tuple(dict(r) if isinstance(r, Mapping) else {"name": str(r)} for r in rows)


def _conditions(spec: Mapping[str, Any]) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            name=str(name),
            description=str(row.get("description") or ""),
            differs=tuple(map(str, row.get("differs") or ())),
        )
        for name, row in spec.get("conditions", {}).items()
    )


def _runs(spec: Mapping[str, Any], made: Lineage) -> tuple[tuple[Run, ...], tuple[dict[str, Any], ...]]:
    """Return the runs with their artifacts, and the distinct machines that they or the study name."""
    rows = spec.get("runs", ())
    per_run = [made.machines(str(row.get("node") or "")) for row in rows]
    machines = distinct([*(dict(f) for f in spec.get("fingerprints", ())), *(f for found in per_run for f in found)])
    runs = tuple(
        Run(
            id=str(row.get("id", "")),
            condition=str(row.get("condition", "")),
            seed=int(row.get("seed") or 0),
            level=str(row.get("level") or ""),
            benchmark=str(row.get("benchmark") or ""),
            node=str(row.get("node") or ""),
            key=str(row.get("key") or made.key(str(row.get("node") or ""))),
            model=made.model(str(row.get("node") or "")),
            machines=tuple(machines.index(f) for f in found),
        )
        for row, found in zip(rows, per_run, strict=True)
    )
    return runs, tuple(dict(m) for m in machines)


def _licences(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> tuple[dict[str, Any], ...]:
    """Return the licence rows with what is known of each source's rows where its folder is an input.

    Adds n_examples and, for sources read from a file, rows_read, rows_kept and bad_rows and quoted by reason.
    """
    rows = []
    for row in spec.get("licences", ()):
        folder = inputs.get(str(row.get("input")))
        count, books = row.get("n_examples"), {}
        if folder is not None and count is None and (folder / "examples.parquet").is_file():
            count = pl.scan_parquet(folder / "examples.parquet").select(pl.len()).collect().item()
        if folder is not None and (folder / "report.json").is_file():
            found = _json(folder / "report.json")
            books = {k: found[k] for k in ("rows_read", "rows_kept", "bad_rows", "quoted") if k in found}
        rows.append({**row, "n_examples": count, **books})
    return tuple(rows)


def refused_rows(licences: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return one warning per source that refused rows of its file: how many, and the first of each reason."""
    found = []
    for row in licences:
        read, kept = row.get("rows_read"), row.get("rows_kept")
        if read is None or kept is None or read == kept:
            continue
        quotes = row.get("quoted") or {}
        reasons = [
            f"{quotes[reason][0]['where']}: {reason}" if quotes.get(reason) else f"{reason}, {n:,}"
            for reason, n in sorted((row.get("bad_rows") or {}).items(), key=lambda pair: (-pair[1], pair[0]))
        ]
        more = f"; {len(reasons) - SHOWN_REASONS} more reasons" if len(reasons) > SHOWN_REASONS else ""
        told = f" ({'; '.join(reasons[:SHOWN_REASONS])}{more})" if reasons else ""
        found.append(f"source {row.get('source', '')}: {read - kept:,} of {read:,} rows refused{told}")
    return tuple(dict.fromkeys(found))


def _in_order(rows: tuple[T, ...], order: Mapping[str, int]) -> tuple[T, ...]:
    """Return rows in the order in which the study names their conditions; otherwise as they came."""
    return tuple(sorted(rows, key=lambda row: order.get(row.condition, len(order))))


# ---- tables of the analysis ----------------------------------------------------------------------


def _scores(folder: Path) -> tuple[Score, ...]:
    """Return the scores over all seeds: over all items, over seen and unseen ones, and of each (difficulty, seen)."""
    frame = read_table(folder / "scores.parquet", SCORES)
    per_seed: dict[tuple[Any, ...], tuple[float, ...]] = {}
    for row in (
        frame.filter(pl.col("seed").is_not_null() & pl.col("difficulty").is_null()).sort("seed").iter_rows(named=True)
    ):
        if row["mean"] is not None:
            key = tuple(row[c] for c in CELL)
            per_seed[key] = (*per_seed.get(key, ()), row["mean"])
    rows = frame.filter(pl.col("seed").is_null()).sort("seen", descending=False, nulls_last=False, maintain_order=True)
    return tuple(_score(row, per_seed.get(tuple(row[c] for c in CELL), ())) for row in rows.iter_rows(named=True))


def _score(row: Mapping[str, Any], per_seed: tuple[float, ...]) -> Score:
    overall = row["difficulty"] is None
    return Score(
        condition=row["condition"],
        benchmark=row["benchmark"],
        metric=row["metric"],
        level=row["level"] or "",
        scope=SCOPES[row["seen"]] if overall and row["seen"] is not None else "",
        difficulty=row["difficulty"],
        seen=row["seen"],
        binary=row["k"] is not None,
        estimate=row["mean"],
        low=row["low"],
        high=row["high"],
        n_items=row["n_distinct"] if row["n_distinct"] is not None else row["n_items"] or 0,
        n_clusters=row["n_clusters"] or 0,
        n_missing=row["n_not_measured"] or 0,
        seeds=tuple(row["seeds"] or ()),
        per_seed=per_seed if overall else (),
        runs=tuple(row["runs"] or ()),
    )


def _curves(folder: Path) -> tuple[Curve, ...]:
    path = folder / "curves.parquet"
    frame = read_table(path)
    _expect(frame, ("condition", "seed", "step", "loss"), path)
    keys = [c for c in ("condition", "level", "seed", "stage") if c in frame.columns]
    groups = (
        frame.drop_nulls("loss")
        .sort([*keys, "step"], nulls_last=True)
        .partition_by(keys, as_dict=True, maintain_order=True)
    )
    limit = max(16, min(POINTS, ALL_POINTS // max(len(groups), 1)))
    curves = []
    for key, rows in groups.items():
        cell = dict(zip(keys, key, strict=True))
        curves.append(
            Curve(
                condition=str(cell["condition"]),
                seed=int(cell["seed"]),
                level=str(cell.get("level") or ""),
                stage=str(cell.get("stage") or ""),
                points=thinned(rows["step"].to_list(), rows["loss"].to_list(), limit),
            )
        )
    return tuple(curves)


def thinned(steps: Sequence[int], losses: Sequence[float], limit: int) -> tuple[tuple[float, float], ...]:
    """Return at most `limit` (step, loss) points: consecutive steps are averaged and stand at the last step of their
    bin.

    Bin edges depend on the number of steps alone, so that the seeds of a condition share their steps.
    """
    n = len(steps)
    if n <= limit:
        return tuple((float(s), float(v)) for s, v in zip(steps, losses, strict=True))
    edges = [round(i * n / limit) for i in range(limit + 1)]
    return tuple(
        (float(steps[b - 1]), float(sum(losses[a:b]) / (b - a)))
        for a, b in zip(edges, edges[1:], strict=False)
        if b > a
    )


def _mixtures(folder: Path) -> tuple[Mixture, ...]:
    path = folder / "realised.parquet"
    frame = read_table(path)
    _expect(frame, ("condition", "stage", "source", "planned", "realised"), path)
    for name, value in (("level", ""), ("unit", "examples"), ("seed", 0)):
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit(value).alias(name))
    keys = ["condition", "level", "stage", "source", "unit"]
    per_seed = frame.group_by([*keys, "seed"], maintain_order=True).agg(
        pl.col("planned").sum(),
        pl.col("realised").sum(),
        (pl.col("realised") - pl.col("planned")).abs().max().alias("worst"),
    )
    rows = per_seed.group_by(keys, maintain_order=True).agg(
        pl.col("planned").mean(), pl.col("realised").mean(), pl.col("worst").max(), pl.col("seed").unique().sort()
    )
    return tuple(
        Mixture(
            condition=r["condition"],
            level=r["level"] or "",
            stage=r["stage"] or "",
            source=r["source"],
            unit=r["unit"] or "",
            planned=float(r["planned"] or 0),
            realised=float(r["realised"] or 0),
            worst_block=float(r["worst"] or 0),
            seeds=tuple(r["seed"]),
        )
        for r in rows.iter_rows(named=True)
    )


def _expect(frame: pl.DataFrame, columns: Sequence[str], path: Path) -> None:
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise DataError(f"{path}: expected columns {list(columns)}, missing {missing}; found {frame.columns}")
