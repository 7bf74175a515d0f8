"""Samples and verdicts of a study's runs -> the sample browser: a few items, each with what every condition answered.

Items are spread evenly over difficulty and read from the folders that the study's runs name. An answer shows the
verdict of the metric that judged it; metrics that only measure (bits per byte) stand beside it and pass nothing.
Not covered: computing scores (analysis/), the page around the rows (template.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.tables import SAMPLES, VERDICTS, read_items, read_table
from leaven.core.types import Item
from leaven.reporting.facts import MEASURED_ONLY, Output, ReportData, Shown
from leaven.reporting.marks import drawn_mark, series_label
from leaven.reporting.wording import amount, clip, number, plural

MAX_SHOWN_ITEMS = 6
MAX_OUTPUTS = 40
MAX_OUTPUT_CHARACTERS = 2_000


def shown_samples(runs: Sequence[Mapping[str, Any]], inputs: Mapping[str, Path]) -> tuple[Shown, ...]:
    """Return a few items of each benchmark, evenly spread over difficulty, with every condition's output of its
    first seed.
    """
    usable = [r for r in runs if all(r.get(k) in inputs for k in ("verdicts_input", "samples_input", "items_input"))]
    shown: list[Shown] = []
    benchmarks = list(dict.fromkeys(str(r.get("benchmark") or "") for r in usable))
    for benchmark in benchmarks:
        first: dict[tuple[str, str], Mapping[str, Any]] = {}
        for run in sorted(
            (r for r in usable if str(r.get("benchmark") or "") == benchmark), key=lambda r: int(r.get("seed") or 0)
        ):
            first.setdefault((str(run["condition"]), str(run.get("level") or "")), run)
        order = {str(r["condition"]): i for i, r in reversed(list(enumerate(usable)))}
        chosen = sorted(first.values(), key=lambda r: (order[str(r["condition"])], str(r.get("level") or "")))[
            :MAX_OUTPUTS
        ]
        limit = max(1, min(MAX_SHOWN_ITEMS, MAX_OUTPUTS // (len(chosen) * len(benchmarks))))
        items = spread_items(list(read_items(_table(inputs[chosen[0]["items_input"]], "items.parquet"))), limit)
        outputs = [_outputs(run, inputs, {i.id for i in items}) for run in chosen]
        shown += [_shown(item, benchmark, [o[item.id] for o in outputs if item.id in o]) for item in items]
    return tuple(s for s in shown if s.outputs)


def spread_items(items: Sequence[Item], limit: int) -> list[Item]:
    """Return up to `limit` items in order of difficulty: as many difficulties as possible first, from the middle of
    each.
    """
    groups: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda i: i.id):
        groups.setdefault(-1 if item.example.difficulty is None else item.example.difficulty, []).append(item)
    levels = sorted(groups)
    if len(levels) > limit:
        levels = [levels[round(i * (len(levels) - 1) / max(limit - 1, 1))] for i in range(limit)]
    ranked = [
        (n, level, groups[level][(n + len(groups[level]) // 2) % len(groups[level])])
        for level in levels
        for n in range(len(groups[level]))
    ]
    chosen = sorted(sorted(ranked, key=lambda r: (r[0], r[1]))[:limit], key=lambda r: (r[1], r[0]))
    return [item for _, _, item in chosen]


def _table(folder: Path, name: str) -> Path:
    return folder if folder.is_file() else folder / name


def _outputs(run: Mapping[str, Any], inputs: Mapping[str, Path], items: set[str]) -> dict[str, Output]:
    verdicts = read_table(_table(inputs[run["verdicts_input"]], "verdicts.parquet"), VERDICTS)
    samples = read_table(_table(inputs[run["samples_input"]], "samples.parquet"), SAMPLES)
    texts = {
        r["item"]: r["text"]
        for r in samples.filter(pl.col("item").is_in(list(items)) & (pl.col("index") == 0))
        .sort("request", descending=True)
        .iter_rows(named=True)
    }
    rows = verdicts.filter(pl.col("item").is_in(list(items)) & (pl.col("index") == 0))
    by_item: dict[str, list[dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        by_item.setdefault(row["item"], []).append(row)
    return {item: _output(run, found, texts.get(item) or "") for item, found in by_item.items()}


def _output(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], text: str) -> Output:
    """Return one answer with the verdict of its first judged metric; the other metrics follow as second values."""
    first, *others = sorted(rows, key=lambda r: r["metric"] in MEASURED_ONLY)
    return Output(
        condition=str(run["condition"]),
        level=str(run.get("level") or ""),
        seed=int(run.get("seed") or 0),
        raw=first["raw"] or text,
        extracted=first["extracted"] or "",
        status=first["status"] or "",
        score=first["score"],
        metric=first["metric"] or "",
        also=tuple((str(r["metric"]), r["score"]) for r in others),
        detail=first["detail"] or "",
        run=str(run.get("id") or ""),
    )


def _shown(item: Item, benchmark: str, outputs: Sequence[Output]) -> Shown:
    example = item.example
    gold = example.answer or example.code or "\n".join(example.tests)
    return Shown(
        item=item.id,
        benchmark=benchmark or item.benchmark,
        prompt=example.question or example.text,
        gold=gold,
        difficulty=example.difficulty,
        difficulty_unit=example.difficulty_unit,
        seen=item.seen,
        outputs=tuple(outputs),
    )


# ---- rows of the page ----


def shown_item(shown: Shown, data: ReportData) -> dict[str, Any]:
    """Return one item of the sample browser: prompt, expected answer, and each condition's answer with its verdict."""
    unit = f" {shown.difficulty_unit}" if shown.difficulty_unit else ""
    meta = [
        shown.benchmark,
        f"difficulty {shown.difficulty}{unit}" if shown.difficulty is not None else "",
        "may occur in training" if shown.seen else "",
    ]
    prompt, more = clip(shown.prompt, MAX_OUTPUT_CHARACTERS)
    return {
        "item": shown.item,
        "meta": ", ".join(m for m in meta if m),
        "prompt": prompt + (f"\n\u2026 {more} more characters" if more else ""),
        "gold": clip(shown.gold, MAX_OUTPUT_CHARACTERS)[0],
        "tally": _tally(shown),
        "outputs": [_answer(o, data) for o in shown.outputs],
    }


def _tally(shown: Shown) -> str:
    """Return how many of the judged answers pass; answers that were only measured are counted apart."""
    judged = [o for o in shown.outputs if not o.measured]
    passed = f"{sum(o.status == 'pass' for o in judged)} of {len(judged)} pass" if judged else ""
    measured = f"{len(shown.outputs) - len(judged)} measured" if len(judged) < len(shown.outputs) else ""
    return ", ".join(part for part in (passed, measured) if part)


def _answer(output: Output, data: ReportData) -> dict[str, Any]:
    """Return one answer of the sample browser."""
    raw, more = clip(output.raw, MAX_OUTPUT_CHARACTERS)
    kind = "other" if output.measured or output.status not in ("pass", "fail") else output.status
    return {
        "name": f"{series_label(output.condition, output.level)}, seed {output.seed}",
        "mark": drawn_mark(output.condition, data),
        "raw": raw or ("(nothing was generated: the expected text was scored)" if output.measured else "(nothing)"),
        "more": f"{more:,}" if more else "",
        "extracted": clip(output.extracted.strip(), 600)[0],
        "multiline": "\n" in output.extracted.strip(),
        "detail": clip(output.detail, 300)[0],
        "kind": kind,
        "verdict": _verdict(output, kind),
        "also": ", ".join(f"{metric.replace('_', ' ')} {number(value)}" for metric, value in output.also),
    }


def _verdict(output: Output, kind: str) -> str:
    """Return the verdict in words with its sign, the value beside it where it is more than pass or fail."""
    sign = {"pass": "\u2713", "fail": "\u2717"}.get(kind, "\u2022")
    word = "measured" if output.measured else output.status.replace("_", " ")
    told = output.score is not None and (output.measured or output.score not in (0, 1))
    return f"{sign} {word}" + (f" ({output.metric.replace('_', ' ')} {number(output.score)})" if told else "")


def samples_note(data: ReportData) -> str:
    """Return how many items the sample browser shows and how they were chosen."""
    total = f" of {amount(data.samples_total)}" if data.samples_total else ""
    return (
        f"{plural(len(data.samples), 'item')}{total}, spread over difficulty, each with the raw output of every "
        f"condition. "
        "The full outputs are in the evaluation artifacts named below."
    )
