"""`leaven evaluate`: a model folder, or predictions somebody already has, scored on one benchmark file without a study.

Writes samples.jsonl and verdicts.jsonl and returns the score with its Wilson interval. Not covered: comparing models (`leaven compare`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.core.step import Resources, StepContext
from leaven.core.types import Item, Sample, Verdict
from leaven.errors import DataError, StudyError

ANSWERS = ("completion", "prediction", "output", "response", "text", "solution", "generated_text")
IDS = ("id", "item", "task_id", "question_id")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model or prediction file: per metric mean, interval (Wilson for 0/1 scores), n; and how verdicts ended."""

    benchmark: str
    scores: dict[str, dict[str, float | int | None]]
    by_status: dict[str, int]
    out: Path


def evaluate(
    benchmark: str,
    items: Path | str,
    *,
    model: Path | str | None = None,
    predictions: Path | str | None = None,
    out: Path | str = "evaluation",
    format: str = "auto",
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    n: int = 1,
    seed: int = 0,
    tier: str = "auto",
) -> Evaluation:
    """Score a model folder, or ready predictions, on a benchmark.

    Args:
        benchmark: Registered name (program, answer, humaneval, mbpp, gsm8k, folio ...).
        items: The benchmark's rows: JSONL, JSON or Parquet, also .gz.
        model: A model folder; exactly one of `model` and `predictions`.
        predictions: Rows {id, completion}; several rows of one id are several samples.
        out: Folder for samples.jsonl and verdicts.jsonl.
        format: Prompt format of a model.
        metrics: Metrics; default is the benchmark's own.
        limit: Use only the first items.
        max_new_tokens: Longest completion.
        temperature: 0 is greedy.
        n: Samples per item.
        seed: Seed of sampling.
        tier: Sandbox tier.

    Raises:
        StudyError: Both or neither of model and predictions are given, or a name is unknown.
        DataError: Predictions name other items, or leave some out.
    """
    from leaven.evals.harness import Setting, answer, judge_all, metrics_of, open_benchmark, requests_of
    from leaven.evals.run import items_of

    if (model is None) == (predictions is None):
        raise StudyError("evaluate: expected exactly one of --model and --predictions")
    opened = open_benchmark(benchmark, "--benchmark")
    setting = Setting(
        format=format,
        metrics=metrics_of(opened, metrics, "--metric"),
        n=n,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
    )
    asked = items_of(opened, benchmark, Path(items), limit)
    if predictions is not None:
        samples = _predicted(Path(predictions), asked)
    else:
        from leaven.lm.backend import open_backend

        assert model is not None
        backend = open_backend(model, Resources())
        samples = answer(
            backend, [(i.id, k, r) for i in asked for k, r in enumerate(requests_of(opened, i, setting))], seed
        )
    by_item: dict[str, list[Sample]] = {}
    for sample in samples:
        by_item.setdefault(sample.item, []).append(sample)
    ctx = StepContext(runtime=Resources(threads=0, sandbox_tier=tier))
    verdicts = list(judge_all(opened, asked, by_item, setting, ctx))
    folder = Path(out)
    _write_rows(folder / "samples.jsonl", samples)
    _write_rows(folder / "verdicts.jsonl", verdicts)
    return Evaluation(benchmark, {m: _score(verdicts, m) for m in setting.metrics}, _statuses(verdicts), folder)


def _predicted(path: Path, items: list[Item]) -> list[Sample]:
    """Return ready predictions as samples; items without one are an error that names them."""
    from leaven.data.sources.rows import read_rows

    known = {i.id for i in items}
    found: dict[str, list[Sample]] = {}
    for row in read_rows(path):
        if row.problem or not isinstance(row.value, Mapping):
            raise DataError(f"{row.where}: expected a row {{id, completion}}, {row.problem or 'found ' + row.start}")
        identity = next((str(row.value[k]) for k in IDS if k in row.value), None)
        text = next((row.value[k] for k in ANSWERS if k in row.value), None)
        if identity is None or text is None:
            raise DataError(
                f"{row.where}: expected an id ({', '.join(IDS)}) and a text ({', '.join(ANSWERS)}), found {sorted(row.value)}"
            )
        own = found.setdefault(identity, [])
        own.append(Sample(item=identity, request=0, index=len(own), text=str(text), finish="stop"))
    lost, strange = sorted(known - found.keys()), sorted(found.keys() - known)
    if lost or strange:
        raise DataError(
            f"{path}: expected predictions for the benchmark's {len(known)} items; missing {len(lost)} {lost[:3]}, "
            f"not in the benchmark {len(strange)} {strange[:3]}. An item without an answer gets an empty completion"
        )
    return [s for i in items for s in found[i.id]]


def _score(verdicts: Sequence[Verdict], metric: str) -> dict[str, float | int | None]:
    """Return mean, 95 % interval and n of one metric; unmeasured verdicts are counted apart."""
    from leaven.analysis.stats import wilson

    scores = [v.score for v in verdicts if v.metric == metric and v.score is not None]
    unmeasured = sum(v.metric == metric and v.score is None for v in verdicts)
    mean = sum(scores) / len(scores) if scores else None
    binary = bool(scores) and set(scores) <= {0.0, 1.0} and len({v.item for v in verdicts}) == len(scores)
    interval = wilson(int(sum(scores)), len(scores)) if binary else None
    return {
        "mean": mean,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": len(scores),
        "not_measured": unmeasured,
    }


def _statuses(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return how many verdicts ended how."""
    counts: dict[str, int] = {}
    for verdict in verdicts:
        counts[verdict.status] = counts.get(verdict.status, 0) + 1
    return counts


def _write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclasses as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(dataclasses.asdict(r), ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
