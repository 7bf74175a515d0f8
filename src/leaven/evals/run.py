"""The evaluation steps: rows -> items; items x model -> samples; items x samples -> verdicts.

Each is an artifact of its own, so that judging again (a better extractor, another tier) never generates again.
Not covered: what a benchmark asks and accepts (benchmarks/), models (lm/).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import (
    EXAMPLES,
    PERTURBED,
    TIMINGS,
    read_items,
    read_samples,
    read_table,
    write_examples,
    write_items,
    write_samples,
    write_table,
    write_verdicts,
)
from leaven.core.types import Item, Sample, Verdict
from leaven.data.perturb import perturb_examples
from leaven.data.sources.rows import read_rows
from leaven.errors import DataError
from leaven.evals.derived import is_derived
from leaven.evals.harness import (
    Benchmark,
    Setting,
    answer,
    judge_all,
    limits_of,
    metrics_of,
    open_benchmark,
    requests_of,
)
from leaven.evals.passk import check_k


def setting_of(spec: Mapping[str, Any], benchmark: Benchmark) -> Setting:
    """Return the Setting of a step's spec; limits it does not name are the benchmark's own.

    Raises:
        StudyError: For pass@k with fewer than k samples, or without a temperature.
    """
    check_k(spec["metrics"] or (), spec["n"], spec["temperature"], f"benchmark {spec['benchmark']}")
    return Setting(
        format=spec["format"],
        begin=spec.get("begin", ""),
        perturb=tuple(spec.get("perturb") or ()),
        metrics=metrics_of(benchmark, spec["metrics"]),
        n=spec["n"],
        temperature=spec["temperature"],
        top_p=spec["top_p"],
        max_new_tokens=spec["max_new_tokens"],
        limits=limits_of(spec.get("limits") or {}, defaults=getattr(benchmark, "limits", None)),
        options=spec["options"],
    )


@step(version=2)
def load_items(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write items.parquet from rows of a file or of the world.

    Args:
        spec: benchmark, name (what the study calls it), options, limit; `perturb`, changes of the items' own code.
        inputs: `examples` (a folder with examples.parquet) or `file`; `plugin:*` files are imported first.
        out: Receives items.parquet and report.json.
        ctx: Unused beyond the stop flag.

    Raises:
        DataError: When a row lacks what the benchmark needs, ids repeat, or nothing is left.
    """
    load_plugins(inputs)
    benchmark = open_benchmark(spec["benchmark"])
    rows: Iterator[Mapping[str, Any]]
    if "examples" in inputs:
        rows = read_table(inputs["examples"] / "examples.parquet", EXAMPLES).iter_rows(named=True)
    else:
        rows = _whole_rows(inputs["file"])
    where = str(inputs["file"]) if "file" in inputs else ""
    items = _items(benchmark, rows, spec["options"], spec["limit"], spec["name"], where)
    if spec.get("perturb"):
        changed, rows_changed = perturb_examples([i.example for i in items], spec["perturb"], 0)
        items = [dataclasses.replace(i, example=e) for i, e in zip(items, changed, strict=True)]
        write_table(out / "perturbed.parquet", rows_changed, PERTURBED)
    write_items(out / "items.parquet", items)
    write_examples(out / "examples.parquet", [dataclasses.replace(i.example, id=i.id) for i in items])
    (out / "report.json").write_text(
        json.dumps(
            {"n_items": len(items), "n_seen": sum(i.seen for i in items), "n_clusters": len({i.cluster for i in items})}
        )
    )


@step(version=1)
def generate(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write samples.parquet: a model's answers to every request of every item, saved in blocks so that a kill loses one block.

    Args:
        spec: benchmark, format, begin, metrics, n, temperature, top_p, max_new_tokens, options, seed; `checkpoint` "i/k" for
            the i-th of the k models that training kept instead of the last.
        inputs: `items` and `model` folders; `plugin:*` files.
        out: Receives samples.parquet, timings.parquet.
        ctx: Progress counts items.
    """
    from leaven.lm.backend import open_backend

    load_plugins(inputs)
    began, cpu = time.time(), time.process_time()
    benchmark = open_benchmark(spec["benchmark"])
    setting = setting_of(spec, benchmark)
    items = list(read_items(inputs["items"] / "items.parquet"))
    backend = open_backend(kept_model(inputs["model"], spec.get("checkpoint")), ctx.runtime)
    saved = out / "_resume"
    saved.mkdir(parents=True, exist_ok=True)
    block = 512
    samples: list[Sample] = []
    for start in range(0, len(items), block):
        part = saved / f"block-{start:07d}.parquet"
        if not part.exists():
            ctx.check_stop()
            asked = [
                (item.id, number, request)
                for item in items[start : start + block]
                for number, request in enumerate(requests_of(benchmark, item, setting))
            ]
            write_samples(part, answer(backend, asked, spec["seed"]))
        samples += read_samples(part)
        ctx.progress(min(start + block, len(items)), len(items), "items")
    write_samples(out / "samples.parquet", samples)
    _write_timings(out, "generate", began, cpu)


def kept_model(folder: Path, share: str | None) -> Path:
    """Return a trained model's folder, or the i-th of the k checkpoints it holds for the share "i/k".

    Raises:
        DataError: When training kept another number of models.
    """
    if share is None:
        return folder
    index, count = (int(n) for n in share.split("/"))
    kept = sorted((folder / "checkpoints").glob("step-*"))
    if len(kept) != count:
        raise DataError(
            f"{folder}: expected the {count} models of `train.checkpoints: {count}`, found {len(kept)}; a stage of fewer steps than "
            "checkpoints keeps fewer, and `checkpoint_every` adds others"
        )
    return kept[index - 1]


@step(version=2)
def judge(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write verdicts.parquet from items and samples; programs run in the sandbox.

    Args:
        spec: As for generate, and the sandbox limits that differ from the defaults.
        inputs: `items` and `samples` folders; `plugin:*` files.
        out: Receives verdicts.parquet, report.json (counts by status and tier) and timings.parquet.
        ctx: Gives the sandbox tier.
    """
    load_plugins(inputs)
    began, cpu = time.time(), _cpu_seconds()
    benchmark = open_benchmark(spec["benchmark"])
    setting = setting_of(spec, benchmark)
    items = list(read_items(inputs["items"] / "items.parquet"))
    samples: dict[str, list[Sample]] = defaultdict(list)
    for sample in read_samples(inputs["samples"] / "samples.parquet"):
        samples[sample.item].append(sample)
    verdicts = list(judge_all(benchmark, items, samples, setting, ctx))
    write_verdicts(out / "verdicts.parquet", verdicts)
    judged = [v for v in verdicts if not is_derived(v.metric)]
    (out / "report.json").write_text(json.dumps(_counts(judged), sort_keys=True))
    _write_timings(out, "judge", began, cpu)


def items_of(
    benchmark: Benchmark, name: str, path: Path, limit: int | None = None, options: Mapping[str, Any] | None = None
) -> list[Item]:
    """Return the first `limit` items of a benchmark file; raise DataError for broken rows, repeated ids or an empty file."""
    return _items(benchmark, _whole_rows(path), options or {}, limit, name, str(path))


def _items(
    benchmark: Benchmark, rows: Iterator[Mapping[str, Any]], options: Mapping[str, Any], limit: int | None, name: str, where: str
) -> list[Item]:
    """Return the items of rows under the study's name for the benchmark; a DataError names the file they came from."""
    try:
        found = [dataclasses.replace(i, benchmark=name) for i in itertools.islice(benchmark.items(rows, options), limit)]
        return _checked(found, name)
    except DataError as error:
        if not where or str(error).startswith(where):
            raise
        raise DataError(f"{where}: {error}") from error


def _checked(items: list[Item], name: str) -> list[Item]:
    """Return the items; raise DataError when there are none or ids repeat."""
    if not items:
        raise DataError(f"benchmark {name}: expected at least one item, found none")
    counts = Counter(item.id for item in items)
    repeated = [i for i, n in counts.items() if n > 1]
    if repeated:
        raise DataError(
            f"benchmark {name}: expected different item ids, found {len(repeated)} repeated, first {repeated[0]!r}"
        )
    return items


def _whole_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a benchmark file; unlike training data, one broken row stops everything (scores would not be comparable)."""
    for row in read_rows(path):
        if row.problem or not isinstance(row.value, dict):
            raise DataError(
                f"{row.where}: expected a benchmark row (a mapping), {row.problem or 'found ' + row.start}; repair the file"
            )
        yield row.value


def _counts(verdicts: list[Verdict]) -> dict[str, Any]:
    """Return how many verdicts ended how."""
    by_status: dict[str, int] = defaultdict(int)
    for verdict in verdicts:
        by_status[verdict.status] += 1
    return {"n_verdicts": len(verdicts), "by_status": dict(by_status)}


def _cpu_seconds() -> float:
    """Return CPU seconds of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _write_timings(out: Path, name: str, began: float, cpu: float) -> None:
    """Write how long a step took."""
    write_table(
        out / "timings.parquet",
        [{"name": name, "wall_s": time.time() - began, "cpu_s": _cpu_seconds() - cpu, "detail": ""}],
        TIMINGS,
    )
