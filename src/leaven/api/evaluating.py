"""`leaven evaluate`: a model folder, or answers somebody already has, scored on one benchmark file without a study.

Writes samples.jsonl, verdicts.jsonl and results.json. One generation set per temperature is scored under every metric; sets lie under
`generations/`, saved item by item and named after all that decides them, so that the same command goes on where it stopped and another
temperature generates only what is new. Not covered: comparing models (`leaven compare`), training (`leaven run`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaven.core.hashing import digest
from leaven.core.step import Resources, StepContext
from leaven.core.types import Generate, Item, Request, Sample
from leaven.errors import BackendError, DataError, StudyError

if TYPE_CHECKING:
    from leaven.evals.harness import Benchmark, Setting
    from leaven.evals.passk import GenerationSet
    from leaven.lm.backend import Backend

BLOCK = 64
"""Items generated between two saves."""
Report = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out: one row per (temperature, metric), the table T x k, shares by difficulty, how verdicts ended and why not measured.

    Rows of `scores`: temperature (None for predictions), metric, mean, low, high (95 %, clusters of items as one), n_items, not_measured.
    Rows of `table`: as `leaven.evals.passk.sweep`. Rows of `by_difficulty`: temperature, difficulty, unit, solved, n_items, share.
    """

    benchmark: str
    n_items: int
    scores: list[dict[str, Any]]
    table: list[dict[str, Any]]
    by_difficulty: list[dict[str, Any]]
    by_status: dict[str, int]
    not_measured: dict[str, int]
    out: Path

    def plain(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return {**dataclasses.asdict(self), "out": str(self.out)}


def evaluate(
    benchmark: str,
    items: Path | str,
    *,
    model: Path | str | None = None,
    predictions: Path | str | None = None,
    out: Path | str = "evaluation",
    format: str = "auto",
    metrics: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    max_new_tokens: int = 512,
    temperature: float | Sequence[float] = 0.0,
    top_p: float = 1.0,
    n: int = 1,
    k: Sequence[int] | None = None,
    seed: int = 0,
    limits: Mapping[str, float] | None = None,
    tier: str = "auto",
    progress: Report = silent,
) -> Evaluation:
    """Score a model folder, or ready predictions, on a benchmark.

    Args:
        benchmark: Registered name (program, humaneval, mbpp, leetcode, gsm8k ...).
        items: The benchmark's rows: JSONL, JSON or Parquet, also .gz; for `program` one's own {id, prompt, tests, entry_point}.
        model: A model folder; exactly one of `model` and `predictions`.
        predictions: Rows {id, completion}; several rows of one id are several samples.
        out: Folder for samples.jsonl, verdicts.jsonl, results.json and generations/.
        format: Prompt format of a model.
        metrics: Metrics; default is the benchmark's own and, for a model, bits per byte where every item has a gold.
        options: Options of the benchmark (prompt, split, start ...).
        limit: Use only the first items.
        max_new_tokens: Longest completion.
        temperature: One or several; 0 is greedy and gives one sample per item.
        top_p: Nucleus sampling.
        n: Samples per item.
        k: Values of k for pass@k, at most n; default 1 and n.
        seed: Seed of sampling.
        limits: Sandbox limits in place of the benchmark's own.
        tier: Sandbox tier.
        progress: Receives (what, done, total).

    Raises:
        StudyError: Both or neither of model and predictions are given, a name is unknown, or k does not fit n.
        DataError: A broken benchmark file; predictions that name other items or leave some out.
    """
    from leaven.evals.harness import check_options, limits_of, open_benchmark, prompt_segments
    from leaven.evals.run import items_of

    if (model is None) == (predictions is None):
        raise StudyError("evaluate: expected exactly one of --model and --predictions")
    opened = open_benchmark(benchmark, "--benchmark")
    check_options(opened, options or {}, "--option")
    own_limits = limits_of(limits or {}, "--limits", getattr(opened, "limits", None))
    asked = items_of(opened, benchmark, Path(items), limit, options)
    plan = _Plan(opened, asked, format, max_new_tokens, top_p, seed, own_limits, dict(options or {}), progress)
    ctx = StepContext(
        runtime=Resources(threads=0, sandbox_tier=tier),
        progress=lambda done, total, note="": progress(note or "programs", int(done), int(total)),
    )
    if predictions is not None:
        sets = [_of_predictions(plan, Path(predictions), metrics, ctx)]
    else:
        prompt_segments(asked[0].example, format)  # an unknown format is said before a model is loaded
        temperatures = [temperature] if isinstance(temperature, int | float) else list(temperature)
        sets = _of_model(plan, Path(str(model)), temperatures, n, k, metrics, Path(out), ctx)
    found = _scored(plan, benchmark, sets, k, Path(out))
    _write(found, sets)
    return found


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is the same for all generation sets."""

    benchmark: Benchmark
    items: list[Item]
    format: str
    max_new_tokens: int
    top_p: float
    seed: int
    limits: Any
    options: dict[str, Any]
    progress: Report

    def setting(self, metrics: tuple[str, ...], n: int, temperature: float) -> Setting:
        """Return the setting of one generation set."""
        from leaven.evals.harness import Setting

        return Setting(
            format=self.format,
            metrics=metrics,
            n=n,
            temperature=temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            limits=self.limits,
            options=self.options,
        )


def _scored(plan: _Plan, benchmark: str, sets: Sequence[GenerationSet], k: Sequence[int] | None, out: Path) -> Evaluation:
    """Return the scores of all generation sets."""
    from leaven.evals.passk import sweep

    items = plan.items
    ks = tuple(k) if k else tuple(dict.fromkeys((1, max(s.n for s in sets))))
    clusters = {i.id: i.cluster or i.id for i in items}
    first = plan.benchmark.metrics[0]
    table = sweep(sets, [i.id for i in items], ks, clusters, first) if _is_binary(sets, first) else []
    verdicts = [v for s in sets for v in s.verdicts]
    reasons = Counter(v.detail for v in verdicts if v.status in ("not_measured", "harness_error"))
    return Evaluation(
        benchmark,
        len(items),
        [row for s in sets for row in _scores(s, items, clusters)],
        table,
        [row for s in sets for row in _by_difficulty(s, items, first)],
        dict(Counter(v.status for v in verdicts if v.metric == first)),
        dict(reasons.most_common(5)),
        out,
    )


def _of_predictions(plan: _Plan, path: Path, metrics: Sequence[str] | None, ctx: StepContext) -> GenerationSet:
    """Return ready answers with their verdicts."""
    from leaven.api.predictions import read_predictions
    from leaven.evals.harness import metrics_of
    from leaven.evals.passk import check_k

    chosen = metrics_of(plan.benchmark, metrics, "--metric")
    if "bits_per_byte" in chosen:
        raise StudyError("--metric: bits_per_byte needs the model that wrote the answers; give --model instead of --predictions")
    setting = plan.setting(chosen, 1, 0.0)
    asked = plan.benchmark.requests(plan.items[0], setting)
    if len(asked) != 1 or not isinstance(asked[0], Generate):
        name = plan.items[0].benchmark
        raise StudyError(f"--predictions: {name} asks a model for {len(asked)} scores, which texts cannot answer; give --model")
    samples = read_predictions(path, plan.items)
    n = max(Counter(s.item for s in samples).values())
    check_k(chosen, n, 1.0, "--metric")
    return _judged(plan, plan.setting(chosen, n, 0.0), None, samples, ctx)


def _of_model(
    plan: _Plan,
    model: Path,
    temperatures: Sequence[float],
    n: int,
    k: Sequence[int] | None,
    metrics: Sequence[str] | None,
    out: Path,
    ctx: StepContext,
) -> list[GenerationSet]:
    """Return one generation set per temperature, bits per byte in the first alone."""
    from leaven.evals.harness import metrics_of
    from leaven.evals.passk import check_k
    from leaven.lm.backend import open_backend

    if n < 1 or any(t < 0 for t in temperatures) or not temperatures:
        raise StudyError(f"expected --n of at least 1 and temperatures of at least 0, found n {n}, temperatures {list(temperatures)}")
    chosen = metrics_of(plan.benchmark, metrics, "--metric")
    warmest = max(temperatures)
    check_k([f"pass@{one}" for one in k or ()], n if warmest > 0 else 1, warmest, "--k")
    backend = open_backend(model, Resources())
    if metrics is None and _has_golds(plan, backend):
        chosen = (*chosen, "bits_per_byte")
    sets = []
    for number, temperature in enumerate(temperatures):
        own = n if temperature > 0 else 1
        check_k(chosen, own, temperature, f"--metric, temperature {temperature}")
        wanted = tuple(m for m in chosen if number == 0 or m != "bits_per_byte")
        setting = plan.setting(wanted, own, temperature)
        samples = _generated(plan, setting, backend, model, out / "generations")
        sets.append(_judged(plan, setting, temperature, samples, ctx))
    return sets


def _has_golds(plan: _Plan, backend: Backend) -> bool:
    """Return whether bits per byte cost no question: every item is asked for a text and has a gold that fits the model."""
    from leaven.evals.harness import gold_request

    setting = plan.setting(plan.benchmark.metrics, 1, 0.0)
    if not all(isinstance(r, Generate) for r in plan.benchmark.requests(plan.items[0], setting)):
        return False
    try:
        golds = [gold_request(item, setting) for item in plan.items]
    except (StudyError, DataError):
        return False
    lengths = [len(e.ids) for e in backend.tokenizer.encode_many([(*g.prompt, *g.target) for g in golds])]
    if long := sum(n > backend.max_tokens for n in lengths):
        plan.progress(f"golds are longer than the model's {backend.max_tokens} tokens: bits_per_byte left out", long, len(golds))
    return not long


def _generated(plan: _Plan, setting: Setting, backend: Backend, model: Path, folder: Path) -> list[Sample]:
    """Return a model's samples, those of finished items from the set's file; every block is saved before the next is asked for."""
    from leaven.evals.harness import answer, requests_of

    asked = {i.id: requests_of(plan.benchmark, i, setting) for i in plan.items}
    _check_prompts(asked, backend)
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in model.iterdir() if p.is_file())
    key = digest([str(model.resolve()), files, [(i, r) for i, r in asked.items()], plan.seed])[:16]
    path = folder / f"{key}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {i: sum(r.n if isinstance(r, Generate) else 1 for r in requests) for i, requests in asked.items()}
    known = {i: s for i, s in _saved(path).items() if len(s) == wanted.get(i)}
    part = path.with_suffix(".part")
    part.write_text("".join(_line(s) for own in known.values() for s in own), encoding="utf-8")
    os.replace(part, path)
    left = [i for i in asked if i not in known]
    what = f"items at temperature {setting.temperature:g}"
    with path.open("a", encoding="utf-8") as handle:
        for start in range(0, len(left), BLOCK):
            plan.progress(what, len(asked) - len(left) + start, len(asked))
            block = left[start : start + BLOCK]
            for sample in answer(backend, [(i, number, r) for i in block for number, r in enumerate(asked[i])], plan.seed):
                known.setdefault(sample.item, []).append(sample)
                handle.write(_line(sample))
            handle.flush()
    plan.progress(what, len(asked), len(asked))
    return [s for i in asked for s in known[i]]


def _check_prompts(asked: Mapping[str, Sequence[Request]], backend: Backend) -> None:
    """Raise BackendError for prompts that fill the model's context, naming their items, before anything is generated."""
    prompts = [(item, r.prompt) for item, requests in asked.items() for r in requests if isinstance(r, Generate)]
    lengths = [len(e.ids) for e in backend.tokenizer.encode_many([p for _, p in prompts])]
    long = [f"{item} ({n} tokens)" for (item, _), n in zip(prompts, lengths, strict=True) if n >= backend.max_tokens]
    if long:
        raise BackendError(
            f"expected prompts of fewer than the model's {backend.max_tokens} tokens, found {len(long)} of {len(prompts)} that are longer: "
            f"{', '.join(long[:3])}; use a model with a longer context, another --format or --option prompt"
        )


def _saved(path: Path) -> dict[str, list[Sample]]:
    """Return the samples of a generation file by item; a line cut by a kill is dropped."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            sample = Sample(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[sample.item].append(sample)
    return found


def _judged(plan: _Plan, setting: Setting, temperature: float | None, samples: list[Sample], ctx: StepContext) -> GenerationSet:
    """Return a generation set with its verdicts."""
    from leaven.evals.harness import judge_all
    from leaven.evals.passk import GenerationSet

    by_item: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_item[sample.item].append(sample)
    verdicts = list(judge_all(plan.benchmark, plan.items, by_item, setting, ctx))
    return GenerationSet(temperature, setting.n, samples, verdicts)


def _is_binary(sets: Sequence[GenerationSet], metric: str) -> bool:
    """Return whether a metric only says pass or fail, so that pass@k means something."""
    return all(v.score in (0.0, 1.0, None) for s in sets for v in s.verdicts if v.metric == metric)


def _scores(one: GenerationSet, items: Sequence[Item], clusters: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one row per metric of a generation set."""
    from leaven.analysis.stats import t_interval
    from leaven.evals.passk import item_values, k_of, share

    rows = []
    for metric in dict.fromkeys(v.metric for v in one.verdicts):
        own = [v for v in one.verdicts if v.metric == metric]
        row: dict[str, Any] = {"temperature": one.temperature, "metric": metric, "low": None, "high": None}
        if k_of(metric) or _is_binary([one], metric):
            values = {v.item: v.score for v in own} if k_of(metric) else item_values(own, [i.id for i in items], one.n, 1)
            found = share(values, clusters, one.n)
            row |= {"mean": found.estimate, "low": found.low, "high": found.high}
            row |= {"n_items": found.n_items, "not_measured": found.n_not_measured}
        else:
            scores: dict[str, list[float]] = defaultdict(list)
            for v in own:
                if v.score is not None:
                    scores[v.item].append(v.score)
            means = [sum(s) / len(s) for s in scores.values()]
            row |= {"mean": sum(means) / len(means) if means else None, "n_items": len(means), "not_measured": len(items) - len(means)}
            if len(means) > 1 and len({clusters[i] for i in scores}) == len(means):
                interval = t_interval(means)
                row |= {"low": interval.low, "high": interval.high}
        rows.append(row)
    return rows


def _by_difficulty(one: GenerationSet, items: Sequence[Item], metric: str) -> list[dict[str, Any]]:
    """Return how many items of each difficulty were solved (by their samples' mean score) where items have one."""
    rows = []
    scores: dict[str, list[float]] = defaultdict(list)
    for v in one.verdicts:
        if v.metric == metric and v.score is not None:
            scores[v.item].append(v.score)
    for level in sorted({i.example.difficulty for i in items if i.example.difficulty is not None}):
        own = [i for i in items if i.example.difficulty == level and scores[i.id]]
        solved = sum(sum(scores[i.id]) / len(scores[i.id]) for i in own)
        row = {"temperature": one.temperature, "difficulty": level, "unit": next(i.example.difficulty_unit for i in items)}
        rows.append({**row, "solved": solved, "n_items": len(own), "share": solved / len(own) if own else None})
    return rows


def _line(row: Any, **more: Any) -> str:
    """Return a dataclass as a line of JSON."""
    return json.dumps({**more, **dataclasses.asdict(row)}, ensure_ascii=False) + "\n"


def _write(found: Evaluation, sets: Sequence[GenerationSet]) -> None:
    """Write samples, verdicts and results."""
    found.out.mkdir(parents=True, exist_ok=True)
    for name in ("samples", "verdicts"):
        lines = [_line(row, temperature=s.temperature) for s in sets for row in getattr(s, name)]
        (found.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (found.out / "results.json").write_text(json.dumps(found.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
