"""Item-level result files of any tool (JSONL, JSON, Parquet, CSV, gz) -> rows (item, index, cluster, score).

Known shapes: one row per item with an id and a score column; lm-evaluation-harness `samples_*.jsonl` (doc_id,
metrics, filter); evalplus `eval_results.json` (eval -> task -> samples with base_status and plus_status); leaven's
own verdicts (metric in a column); a JSON mapping of ids to scores. Columns are detected by name; whatever is
ambiguous is refused naming the choices rather than guessed.
Not covered: aggregate files, which hold no items and cannot be compared; the comparison itself (compare.py).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from leaven.errors import DataError, RefusedError, did_you_mean

Row = dict[str, Any]
ITEM_COLUMNS = (
    "item",
    "item_id",
    "task_id",
    "doc_id",
    "question_id",
    "problem_id",
    "example_id",
    "prompt_id",
    "id",
    "uid",
    "idx",
    "name",
)
SCORE_COLUMNS = (
    "score",
    "correct",
    "is_correct",
    "passed",
    "pass",
    "acc",
    "accuracy",
    "exact_match",
    "em",
    "acc_norm",
    "pass@1",
    "f1",
    "success",
    "result",
    "status",
    "plus_status",
    "base_status",
    "value",
    "reward",
)
SAMPLE_COLUMNS = (
    "index",
    "sample_index",
    "sample_id",
    "sample",
    "completion_id",
    "completion_index",
    "trial",
    "attempt",
    "repeat",
    "epoch",
)
_TRUE = ("pass", "passed", "true", "correct", "success", "succeeded", "yes", "ok")
_FALSE = (
    "fail",
    "failed",
    "false",
    "incorrect",
    "wrong",
    "error",
    "timeout",
    "timed out",
    "no",
    "no_answer",
    "crash",
    "memory",
    "output_limit",
    "timeout_cpu",
    "timeout_wall",
)
_NOT_MEASURED = ("not_measured", "harness_error")


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """One result file as rows (item, index, cluster, score); `item_column` and `score_column` say where they were
    found."""

    path: Path
    rows: pl.DataFrame
    item_column: str
    score_column: str


def read_scores(
    path: Path, *, item: str | None = None, metric: str | None = None, cluster: str | None = None
) -> ScoreFile:
    """Read one result file; `item`, `metric` and `cluster` name columns and override detection.

    `metric` may also be a value of a column "metric", or "name,filter" as lm-evaluation-harness writes it.

    Raises:
        DataError: unreadable, no item or score column, duplicate ids without a sample index, or a score that is not a
            number.
        RefusedError: several metrics or filters and none was named.
    """
    rows = read_rows(path)
    item_column = _column(path, rows, item, ITEM_COLUMNS, "item id", "--item")
    rows, score_column = _metric_rows(path, rows, metric, item_column)
    sample_column = next((c for c in SAMPLE_COLUMNS if c in rows[0] and c not in (item_column, score_column)), None)
    if cluster is not None and cluster not in rows[0]:
        raise DataError(
            f"{path}: no cluster column {cluster!r}; found {_names(rows)}.{did_you_mean(cluster, _names(rows))}"
        )
    out: list[Row] = []
    counts: dict[str, int] = {}
    samples: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, 1):
        name = row.get(item_column)
        if name is None or isinstance(name, dict | list):
            raise DataError(f"{path}: row {number}: expected an id in {item_column!r}, found {name!r}")
        name = str(name)
        counts[name] = counts.get(name, 0) + 1
        samples.add((name, str(row.get(sample_column)) if sample_column else ""))
        out.append(
            {
                "item": name,
                "index": counts[name] - 1,
                "cluster": str(row[cluster]) if cluster and row.get(cluster) is not None else "",
                "score": parse_score(row.get(score_column), f"{path}: row {number} (item {name!r}): {score_column}"),
            }
        )
    twice = [n for n, c in counts.items() if c > 1]
    if len(samples) < len(out):
        each = f"each {item_column}" + (f" and {sample_column}" if sample_column else "")
        raise DataError(
            f"{path}: expected {each} once, found {len(twice)} ids repeated (e.g. {twice[:3]}). Keep one model and "
            f"seed per file; add a "
            f"sample index column ({', '.join(SAMPLE_COLUMNS[:3])}) to average over samples, or name another id "
            f"column with --item"
        )
    frame = pl.DataFrame(
        out, schema={"item": pl.String, "index": pl.Int32, "cluster": pl.String, "score": pl.Float64}, orient="row"
    )
    return ScoreFile(path, frame, item_column, score_column)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSONL, JSON, Parquet, CSV or TSV file (also .gz) as mappings; DataError when that is not
    what it holds."""
    suffixes = [s for s in path.suffixes if s != ".gz"]
    kind = suffixes[-1].lower() if suffixes else ""
    try:
        if kind == ".parquet":
            rows = pl.read_parquet(path).to_dicts()
        else:
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
            if kind in (".csv", ".tsv"):
                rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ","))
            elif kind == ".json":
                rows = _json_rows(path, json.loads(text))
            elif kind in (".jsonl", ".ndjson"):
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            else:
                raise DataError(
                    f"{path}: expected .jsonl, .json, .parquet, .csv or .tsv (also .gz), found "
                    f"{path.suffix or 'no suffix'!r}"
                )
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path}: cannot be read as {kind or 'a result file'}: {type(error).__name__}: {error}"
        ) from error
    bad = next((i for i, r in enumerate(rows, 1) if not isinstance(r, dict)), None)
    if bad is not None:
        raise DataError(f"{path}: row {bad}: expected a mapping, found {type(rows[bad - 1]).__name__}")
    if not rows:
        raise DataError(f"{path}: expected at least one item, found none")
    return rows


def parse_score(value: Any, where: str) -> float | None:
    """Return a score as a number: booleans and pass/fail words become 1 and 0, what was not measured becomes None.

    Raises DataError naming the value when it is none of these.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "none", *_NOT_MEASURED)):
        return None
    if isinstance(value, bool | int | float):
        if not math.isfinite(value):
            raise DataError(f"{where}: expected a finite number, found {value!r}")
        return float(value)
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUE:
        return 1.0
    if word in _FALSE or word.startswith(("failed:", "fail:", "error:")):
        return 0.0
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{where}: expected a number, true/false or pass/fail, found {value!r}. Name the score column with --metric"
        )
    return number


def _json_rows(path: Path, value: Any) -> list[Any]:
    """Return the rows inside a JSON document of a known shape."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("eval"), dict):
            return list(_evalplus_rows(value["eval"]))
        for key in ("samples", "rows", "data", "items", "results", "verdicts"):
            if isinstance(value.get(key), list):
                return value[key]
        if value and all(isinstance(v, bool | int | float) for v in value.values()):
            return [{"item": k, "score": v} for k, v in value.items()]
        if (
            value
            and all(isinstance(v, dict) for v in value.values())
            and any(c in next(iter(value.values())) for c in SCORE_COLUMNS)
        ):
            return [{"item": k, **v} for k, v in value.items()]
    raise DataError(
        f"{path}: expected one score per item (a list of rows, evalplus' eval, or a mapping of ids to scores), found "
        f"{'keys ' + str(list(value)[:8]) if isinstance(value, dict) else type(value).__name__}. Aggregate files "
        f"cannot be compared; "
        "for lm-evaluation-harness pass samples_*.jsonl (written with --log_samples)"
    )


def _evalplus_rows(tasks: dict[str, Any]) -> Iterable[Row]:
    """Yield one row per sample of evalplus' "eval" mapping, in its present form (list of samples) and its older one
    (base, plus)."""
    for task, samples in tasks.items():
        if isinstance(samples, dict):
            base, plus = samples.get("base") or [], samples.get("plus") or []
            samples = [
                {"base_status": b[0], **({"plus_status": plus[i][0]} if i < len(plus) else {})}
                for i, b in enumerate(base)
            ]
        for index, sample in enumerate(samples):
            kept = {k: sample[k] for k in ("base_status", "plus_status") if sample.get(k) is not None}
            if "plus_status" in kept and kept.get("base_status") != "pass":
                kept["plus_status"] = "fail"  # evalplus counts a sample only when base and plus tests both pass
            yield {"task_id": task, "sample_index": index, **kept}


def _metric_rows(path: Path, rows: list[Row], metric: str | None, item_column: str) -> tuple[list[Row], str]:
    """Return the rows of the chosen metric (and filter) and the column its scores stand in."""
    name, _, chosen_filter = (metric or "").partition(",")
    filters = sorted({str(r["filter"]) for r in rows if isinstance(r.get("filter"), str)})
    if len(filters) > 1 or chosen_filter:
        if chosen_filter not in filters:
            raise RefusedError(
                f"{path}: scored under several filters {filters}; name one: --metric "
                f"{name or 'exact_match'},{filters[0] if filters else '?'}"
            )
        rows = [r for r in rows if r.get("filter") == chosen_filter]
    if isinstance(rows[0].get("metric"), str) and "score" in rows[0]:
        metrics = sorted({str(r["metric"]) for r in rows})
        if (name and name not in metrics) or (not name and len(metrics) > 1):
            raise RefusedError(f"{path}: holds the metrics {metrics}; name one with --metric")
        return [r for r in rows if not name or r["metric"] == name], "score"
    listed = rows[0].get("metrics")
    if not name and isinstance(listed, list) and listed:
        if len(listed) > 1:
            raise RefusedError(f"{path}: holds the metrics {listed}; name one with --metric")
        name = str(listed[0])
    if not name and "plus_status" in rows[0]:
        name = "plus_status"
    return rows, _column(path, rows, name or None, [c for c in SCORE_COLUMNS if c != item_column], "score", "--metric")


def _column(path: Path, rows: list[Row], wanted: str | None, known: Iterable[str], what: str, option: str) -> str:
    """Return the named column, or the first known one that occurs; DataError listing what the file has."""
    found = _names(rows)
    if wanted is not None:
        if wanted not in found:
            raise DataError(f"{path}: no {what} column {wanted!r}; found {found}.{did_you_mean(wanted, found)}")
        return wanted
    for name in known:
        if name in rows[0]:
            return name
    raise DataError(f"{path}: no {what} column among {found}; name it with {option}")


def _names(rows: list[Row]) -> list[str]:
    """Return the column names of the first row."""
    return [str(k) for k in rows[0]]
