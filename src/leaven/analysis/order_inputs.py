"""Tables and findings of a study -> the records behind the report's sections on the order of thought and code, as plain data.

Scores of every condition with what they cost (tokens trained, tokens generated, answers that could not be parsed), the
declared contrasts as effects between strategies, learning curves and sweeps, what perturbations did. Keys are the fields of
reporting/sections/inputs.py, which reads them.
Not covered: what probes saw (order.py), drawing and wording (reporting/sections).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from leaven.analysis.contrasts import Contrast
from leaven.analysis.findings import contrast_findings
from leaven.analysis.levels import level_cell
from leaven.analysis.scores import score_table
from leaven.core.tables import FUNNEL, PERTURBED, read_table
from leaven.core.types import Finding

Row = dict[str, Any]
_CELL = ["condition", "level", "benchmark"]


def strategy_results(
    scores: pl.DataFrame, results: pl.DataFrame, generated: pl.DataFrame, amounts: Sequence[Row], begins: Mapping[str, str]
) -> list[Row]:
    """Return one record per condition, level, benchmark and metric, over all (unseen, where told apart) items and by difficulty.

    Args:
        scores: SCORES.
        results: RESULTS.
        generated: condition, level, seed, benchmark, item, n_tokens: the length of every answer.
        amounts: Rows of the finding note/amounts.
        begins: Benchmark -> the part that its prompts open, "" where the model chooses.
    """
    costs = _trained(amounts)
    lengths, failures = _cost_scores(results, generated)
    records = []
    for row in _unseen(scores).iter_rows(named=True):
        key = (row["condition"], row["level"], row["benchmark"])
        whole = row["difficulty"] is None
        tokens, learned = costs.get(key[:2], (None, None))
        records.append(
            {
                "condition": row["condition"],
                "benchmark": row["benchmark"],
                "score": _measured(row),
                "metric": row["metric"],
                "level": row["level"],
                "difficulty": row["difficulty"],
                "prompted": begins.get(row["benchmark"], ""),
                "binary": row["k"] is not None,
                "trained_tokens": tokens if whole else None,
                "learned_tokens": learned if whole else None,
                "generated_tokens": lengths.get(key) if whole else None,
                "parse_failures": failures.get(key) if whole else None,
            }
        )
    return records


ROOM = (0.2, 0.9)
"""Pass rates of code_only between which an ablation can be read: below it nothing is left to lose, above it nothing to gain."""


def length_findings(results: pl.DataFrame, generated: pl.DataFrame, contrasts: Sequence[Contrast]) -> list[Finding]:
    """Return, for the pairs that the study contrasts by accuracy, the difference of tokens written per answer (descriptive)."""
    lengths = _lengths(results, generated).with_columns(pl.lit("generated_tokens").alias("metric"))
    asked = [
        dataclasses.replace(c, metric="generated_tokens", primary=False, descriptive=True, margin=None, direction="lower")
        for c in contrasts
        if c.metric == "accuracy"
    ]
    return contrast_findings(lengths, asked) if asked and not lengths.is_empty() else []


def effects(
    findings: Sequence[Finding],
    strategies: Mapping[str, str],
    begins: Mapping[str, str],
    scores: pl.DataFrame,
) -> list[Row]:
    """Return the taken contrasts as effects between strategies; those between conditions that play none are left out.

    Contrasts of changed training programs carry `unfit` where code_only lies outside ROOM on their benchmark.
    """
    records = []
    room = _room(scores, strategies)
    for finding in findings:
        said = finding.data
        if finding.kind != "contrast" or finding.estimate is None or begins.get(said["benchmark"]):
            continue
        treatment, control = strategies.get(said["treatment"], ""), strategies.get(said["control"], "")
        if not treatment or not control or treatment == control:
            continue
        where = [f"difficulty {said['difficulty']}"] if said["difficulty"] is not None else []
        if said["level"] not in ("", "{}"):
            where.append(f"level {said['level']}")
        records.append(
            {
                "treatment": treatment,
                "control": control,
                "measure": "pass_rate" if said["metric"] in ("accuracy", "pass@1") else said["metric"],
                "effect": {
                    "estimate": finding.estimate,
                    "low": finding.low,
                    "high": finding.high,
                    "n": finding.n_items,
                    "seeds": list(finding.seeds),
                    "runs": list(finding.runs),
                },
                "benchmark": said["benchmark"],
                "scope": ", ".join(where),
                "decision": finding.decision,
                "binary": bool(said.get("binary")),
                "unfit": room.get((said["benchmark"], said["level"]), "") if "+" in treatment + control else "",
            }
        )
    return records


def _room(scores: pl.DataFrame, strategies: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Return (benchmark, level) -> why an ablation cannot be read there, where code_only leaves no room."""
    plain = [c for c, strategy in strategies.items() if strategy == "code_only"]
    rows = _unseen(scores).filter(pl.col("condition").is_in(plain[:1]) & pl.col("difficulty").is_null() & (pl.col("metric") == "accuracy"))
    return {
        (row["benchmark"], row["level"]): f"code_only at {row['mean']:.2f}, outside {ROOM[0]} to {ROOM[1]}, leaves no room"
        for row in rows.iter_rows(named=True)
        if row["mean"] is not None and not ROOM[0] <= row["mean"] <= ROOM[1]
    }


def checkpoint_scores(progress: pl.DataFrame, scores: pl.DataFrame) -> list[Row]:
    """Return learning curves (PROGRESS) and, for every setting that `vary` sweeps, the final scores at its values."""
    records = [
        {
            "condition": row["condition"],
            "benchmark": row["benchmark"],
            "step": row["step"],
            "score": _measured(row),
            "metric": row["metric"],
            "binary": row["k"] is not None,
            "level": row["level"],
        }
        for row in progress.iter_rows(named=True)
        if row["mean"] is not None
    ]
    overall = _unseen(scores).filter(pl.col("difficulty").is_null())
    for row in overall.iter_rows(named=True):
        cell = level_cell(row["level"])
        if len(cell) == 1 and row["mean"] is not None:
            ((path, value),) = cell.items()
            sweep = {"sweep": path.rsplit(".", 1)[-1].replace("_", " "), "setting": str(value), "step": 1.0}
            shown = {k: row[k] for k in ("condition", "benchmark", "metric", "level")}
            records.append({**shown, **sweep, "score": _measured(row), "binary": row["k"] is not None})
    return records


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """Benchmarks of a study that ask the same items the same way at several temperatures: (benchmark, temperature), rising."""

    name: str
    members: tuple[tuple[str, float], ...]


def sweeps_of(results: pl.DataFrame, temperatures: Mapping[str, float], alike: Mapping[str, str]) -> list[Sweep]:
    """Return the benchmarks together that differ in their temperature alone; one without a partner is its own.

    Args:
        results: RESULTS, for the items that each benchmark asked.
        temperatures: benchmark -> temperature.
        alike: benchmark -> what else it asks for (kind, beginning): equal for those that may belong together.
    """
    items = {str(b): frozenset(part["item"].to_list()) for (b,), part in results.group_by("benchmark", maintain_order=True)}
    groups: dict[tuple[str, frozenset[str]], list[str]] = {}
    for benchmark, asked in items.items():
        groups.setdefault((alike.get(benchmark, benchmark), asked), []).append(benchmark)
    found = []
    for names in groups.values():
        heats = [float(temperatures.get(n, 0.0)) for n in names]
        if len(set(heats)) < len(heats):  # the same twice: nothing says which belongs to which
            found += [Sweep(n, ((n, t),)) for n, t in zip(names, heats, strict=True)]
        else:
            members = sorted(zip(names, heats, strict=True), key=lambda m: m[1])
            found.append(Sweep(_stem([n for n, _ in members]), tuple(members)))
    return found


def _stem(names: Sequence[str]) -> str:
    """Return what names have in common at their beginning, or all of them: sampled_t02, sampled_t08 -> sampled."""
    if len(names) == 1:
        return names[0]
    stem = re.sub(r"[_.-]?(?:t(?:emperature)?)?[_.-]?[\d_.-]*$", "", os.path.commonprefix(list(names)))
    return stem if len(stem) > 2 else ", ".join(names)


def sampling_findings(results: pl.DataFrame, contrasts: Sequence[Contrast], sweeps: Sequence[Sweep]) -> list[Finding]:
    """Return, for the pairs that the study contrasts by accuracy, the descriptive contrasts that claims on sampling speak of.

    Of pass@k at the largest k (metric pass_at_k), and, where a benchmark was sampled at several temperatures, of what is lost from
    the lowest to the highest (metric temperature_drop, from pass@1 or else accuracy).
    """
    made = [frame for sweep in sweeps for frame in (_largest_k(results, sweep), _drop(results, sweep)) if frame is not None]
    pairs = {(c.treatment, c.control): c for c in contrasts if c.metric in ("accuracy", "pass@1")}
    if not made or not pairs:
        return []
    rows = pl.concat(made)
    asked = []
    for benchmark, metric in rows.select("benchmark", "metric").unique(maintain_order=True).iter_rows():
        better = "lower" if metric == "temperature_drop" else "higher"
        for (treatment, control), c in pairs.items():
            about = {"name": f"{treatment} vs {control}: {metric} on {benchmark}", "benchmark": benchmark, "metric": metric}
            fixed = {"primary": False, "descriptive": True, "margin": None, "direction": better}
            asked.append(dataclasses.replace(c, **about, **fixed))
    return contrast_findings(rows, asked)


def _largest_k(results: pl.DataFrame, sweep: Sweep) -> pl.DataFrame | None:
    """Return RESULTS rows of pass@k at the largest k above 1, at the highest temperature of a sweep."""
    benchmark = sweep.members[-1][0]
    rows = results.filter((pl.col("benchmark") == benchmark) & pl.col("metric").str.starts_with("pass@"))
    largest = max((int(m.removeprefix("pass@")) for m in rows["metric"].unique().to_list()), default=1)
    if largest == 1:
        return None
    return rows.filter(pl.col("metric") == f"pass@{largest}").with_columns(pl.lit("pass_at_k").alias("metric"))


def _drop(results: pl.DataFrame, sweep: Sweep) -> pl.DataFrame | None:
    """Return RESULTS rows whose score is an item's pass rate at the lowest temperature minus that at the highest."""
    if len(sweep.members) < 2:
        return None
    ends = [results.filter(pl.col("benchmark") == sweep.members[i][0]) for i in (0, -1)]
    metric = next((m for m in ("pass@1", "accuracy") if all(m in e["metric"].to_list() for e in ends)), None)
    if metric is None:
        return None
    keys = ["condition", "level", "seed", "item"]
    cold, hot = (
        e.filter(pl.col("metric") == metric).group_by(keys, maintain_order=True).agg(pl.all().first(), pl.col("score").mean().alias("mean"))
        for e in ends
    )
    both = cold.join(hot.select(*keys, pl.col("mean").alias("hot")), on=keys, how="inner", maintain_order="left")
    named = {"benchmark": sweep.name, "metric": "temperature_drop"}
    both = both.with_columns((pl.col("mean") - pl.col("hot")).alias("score"), *(pl.lit(v).alias(k) for k, v in named.items()))
    return both.select(results.columns)


def pass_at_k_rows(scores: pl.DataFrame, sweeps: Sequence[Sweep]) -> list[Row]:
    """Return the scores of every metric pass@K, with the temperature at which the answers were sampled, benchmarks of a sweep as one."""
    overall = _unseen(scores).filter(pl.col("difficulty").is_null() & pl.col("metric").str.starts_with("pass@"))
    places = {name: (sweep.name, heat) for sweep in sweeps for name, heat in sweep.members}
    return [
        {
            "condition": row["condition"],
            "benchmark": places.get(row["benchmark"], (row["benchmark"], 0.0))[0],
            "temperature": places.get(row["benchmark"], (row["benchmark"], 0.0))[1],
            "k": int(row["metric"].removeprefix("pass@")),
            "score": _measured(row),
            "level": row["level"],
        }
        for row in overall.iter_rows(named=True)
    ]


def perturbation_counts(folders: Mapping[str, Path], target: str = "training data") -> list[Row]:
    """Return what every operation did, summed over the sources it changed; `folders` hold perturbed.parquet."""
    frames = [read_table(f / "perturbed.parquet", PERTURBED) for f in folders.values() if (f / "perturbed.parquet").is_file()]
    if not frames:
        return []
    records = []
    for (operation,), part in pl.concat(frames).group_by("operation", maintain_order=True):
        outcomes = Counter(part["outcome"].to_list())
        told = part.filter(pl.col("outcome").is_in(["skipped", "refused"]))
        ran = part.filter((pl.col("status_before") != "") & (pl.col("status_after") != ""))
        verdicts = Counter(zip(ran["status_before"].to_list(), ran["status_after"].to_list(), strict=True))
        records.append(
            {
                "operation": operation,
                **{name: outcomes.get(name, 0) for name in ("changed", "unchanged", "skipped", "refused")},
                "target": target,
                "reasons": dict(Counter(reason.split(":")[0] for reason in told["reason"].to_list())),
                "verdicts": [{"before": b, "after": a, "n": n} for (b, a), n in sorted(verdicts.items())],
            }
        )
    return records


def funnel_rows(files: Mapping[str, Path]) -> list[Row]:
    """Return what became of every seed source of the synthesised data among a study's files (funnel.parquet)."""
    found: dict[str, Row] = {}
    for path in files.values():
        for row in read_table(path, FUNNEL).filter(pl.col("source") != "sum").iter_rows(named=True):
            lost = {
                "seed filter": row["total"] - row["filtered"],
                "not asked about": row["filtered"] - row["asked"],
                "no answer": row["asked"] - row["answered"],
                "malformed answer": row["answered"] - row["parsed"],
                "tests failed": row["inconsistent"],
                "not judged": row["unjudged"],
            }
            kept = {k: row[k] for k in ("source", "total", "filtered", "consistent")}
            found[row["source"]] = {**kept, "reasons": {k: n for k, n in lost.items() if n}}
    return list(found.values())


def _unseen(scores: pl.DataFrame) -> pl.DataFrame:
    """Return scores over seeds, of unseen items where a benchmark tells them apart from seen ones."""
    over_seeds = scores.filter(pl.col("seed").is_null())
    split = over_seeds.filter(pl.col("seen").is_not_null() & pl.col("difficulty").is_null())["benchmark"].unique().to_list()
    whole = pl.col("difficulty").is_null() & pl.when(pl.col("benchmark").is_in(split)).then(~pl.col("seen")).otherwise(
        pl.col("seen").is_null()
    )
    deep = pl.col("difficulty").is_not_null() & ~pl.col("seen").fill_null(False)
    return over_seeds.filter(whole.fill_null(False) | deep)


def _measured(row: Mapping[str, Any]) -> Row:
    return {
        "estimate": row["mean"],
        "low": row["low"],
        "high": row["high"],
        "n": row["n_items"],
        "seeds": list(row["seeds"]),
        "runs": list(row["runs"]),
    }


def _trained(amounts: Sequence[Row]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return (condition, level) -> tokens and learned tokens of all stages, means over seeds."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for row in amounts:
        key = (row["condition"], row["level"])
        before = found.get(key, (0, 0))
        found[key] = before[0] + row["tokens"], before[1] + row["learned_tokens"]
    return found


def _cost_scores(results: pl.DataFrame, generated: pl.DataFrame) -> tuple[dict[Any, Row], dict[Any, Row]]:
    """Return (condition, level, benchmark) -> mean tokens per answer, and share of answers without anything to judge."""
    judged = results.filter(pl.col("metric") == "accuracy")
    failed = judged.with_columns((pl.col("status") == "no_answer").cast(pl.Float64).alias("score"))
    long = _lengths(results, generated)

    def by_cell(frame: pl.DataFrame) -> dict[Any, Row]:
        return {tuple(row[c] for c in _CELL): _measured(row) for row in score_table(frame).iter_rows(named=True)}

    return by_cell(long), by_cell(failed)


def _lengths(results: pl.DataFrame, generated: pl.DataFrame) -> pl.DataFrame:
    """Return RESULTS rows whose score is the number of tokens of the judged answer."""
    keys = [*_CELL, "seed", "item", "index"]
    judged = results.filter(pl.col("metric") == "accuracy")
    long = judged.join(generated.select(*keys, "n_tokens"), on=keys, how="inner")
    return long.with_columns(pl.col("n_tokens").cast(pl.Float64).alias("score")).drop("n_tokens")
