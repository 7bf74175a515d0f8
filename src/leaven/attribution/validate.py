"""Influence tables + retrained values -> validation.json: how well every method predicts retraining.

Random subsets give the linear datamodelling score, groups left out give predicted against realised change (rank,
linear, sign), the top removed gives the drop of the target beside random removal (agreement.py has the definitions).
Every method in the tables is ranked, baselines included. Several influence tables (models of several seeds) are
also averaged, which gains more than any curvature. Sources planted to help, to hurt or as noise give the area under the
ROC curve. Not covered: whether what was planted does what it should (retraining without it says that).

Shapes: K subsets or groups (copies after copy 0), S seeds, Q queries, M models scored, N examples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.attribution.agreement import Validation, agreements, planted_auc, removal_drops
from leaven.core.step import StepContext, step
from leaven.core.tables import INFLUENCE, RETRAINED, SUBSETS, read_table
from leaven.errors import DataError

REFERENCE = "ekfac"


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What retraining showed at one measuring point.

    values float64[1+K,S,Q] in nats, copy 0 first; left_out: the examples each copy leaves out; groups: why.
    """

    values: np.ndarray
    left_out: list[set[tuple[str, str]]]
    groups: list[str]
    queries: list[str]
    step: int

    def drops(self) -> np.ndarray:
        """Return value of copy 0 minus value of every other copy, [K,S,Q]."""
        return self.values[:1] - self.values[1:]


@step(version=1)
def validate(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write validation.json: a list of Validation records (agreement.py).

    Args:
        spec: `reference` (method that differences are taken from, default ekfac, else the first there is), `step`
            (measuring point to compare with; default the last one), `draws` (resamples, default 1000), `seed`, `planted`
            (`planted_records`; then `retrained` may be absent).
        inputs: `retrained:*` folders of `retrain`, one per seed, of one or several kinds of subsets; `influence:*` tables
            or folders of `attribute` with every pair (keep 0), one per model that was trained on everything.
        out: receives validation.json.
        ctx: progress and stop.

    Raises:
        DataError: inputs are missing, seeds left out different examples, or pairs have no score.
    """
    records: list[Validation] = []
    folders = [Path(inputs[n]) for n in sorted(inputs) if n.startswith("retrained:")]
    tables = [Path(inputs[n]) for n in sorted(inputs) if n.startswith("influence:")]
    for number, truth in enumerate(read_truths(folders, spec.get("step")) if folders or not spec.get("planted") else ()):
        ctx.check_stop()
        ctx.progress(number, len(folders), f"resampling {len(truth.groups)} copies")
        records += validation_of(truth, tables, spec)
    if spec.get("planted"):
        records += planted_records(tables, spec["planted"], spec)
    text = json.dumps([dataclasses.asdict(r) for r in records], indent=1, allow_nan=False)
    (out / "validation.json").write_text(text + "\n", encoding="utf-8")


def validation_of(truth: Truth, tables: Sequence[Path], spec: Mapping[str, Any]) -> list[Validation]:
    """Return the records of one kind of subsets; arguments and errors as of `validate`."""
    draws, seed = int(spec.get("draws", 1000)), int(spec.get("seed", 0))
    if truth.groups[0].startswith("top|"):
        return _top(truth, draws, seed)
    keys, scores = read_scores_of(tables, truth.queries)
    number = {key: n for n, key in enumerate(keys)}
    unknown = [key for left in truth.left_out for key in left if key not in number]
    if unknown:
        raise DataError(f"validation: expected scores of every example left out, found none of {'/'.join(unknown[0])}; attribute to all")
    removed = np.zeros((len(truth.left_out), len(keys)))
    for row, left in zip(removed, truth.left_out, strict=True):
        row[[number[key] for key in left]] = 1
    wanted = str(spec.get("reference", REFERENCE))
    reference = wanted if wanted in scores or "reference" in spec else next(iter(scores))
    shared = {"step": truth.step, "reference": reference, "draws": draws, "seed": seed}
    if truth.groups[0].startswith("subset-"):
        kept = {m: predicted_values(s, 1 - removed) for m, s in scores.items()}
        return agreements("lds", "spearman", kept, truth.values[1:], truth.queries, **shared)
    gone = {m: predicted_values(s, removed) for m, s in scores.items()}
    kinds = ("spearman", "pearson", "sign") if len(truth.groups) > 2 else ("sign",)
    return [r for k in kinds for r in agreements("group", k, gone, truth.drops(), truth.queries, **shared)]


def predicted_values(scores_MQN: np.ndarray, weights_KN: np.ndarray) -> np.ndarray:
    """Return the weighted sums of scores, [M,K,Q]."""
    return np.einsum("mqn,kn->mkq", scores_MQN, weights_KN, optimize=True)


def read_truths(folders: Sequence[Path], point: int | None = None) -> list[Truth]:
    """Return what folders of `retrain` hold, one Truth per kind of subsets (folders of one kind are its seeds).

    Raises:
        DataError: no folder, a measuring point that is not there, or seeds that left out different examples.
    """
    if not folders:
        raise DataError("validation: expected inputs retrained:*, found none")
    by_kind: dict[tuple[Any, ...], list[tuple[Path, pl.DataFrame]]] = {}
    names: dict[tuple[Any, ...], pl.DataFrame] = {}
    for folder in folders:
        subsets = read_table(folder / "subsets.parquet", SUBSETS).sort("copy", "source", "example")
        kind = tuple(subsets.select("copy", "group").unique(maintain_order=True).rows())
        # what tops the scores of a seed's own model may differ from seed to seed; random subsets and groups may not
        if kind in names and not names[kind].equals(subsets) and not _is_top(kind):
            raise DataError(
                f"{folder}/subsets.parquet: expected the examples left out with every other seed, found others; give all seeds the same "
                "subsets section and the same training texts"
            )
        names[kind] = subsets
        by_kind.setdefault(kind, []).append((folder, read_table(folder / "retrained.parquet", RETRAINED)))
    return [_truth(names[kind], found, point) for kind, found in by_kind.items()]


def _is_top(kind: tuple[Any, ...]) -> bool:
    return any(str(group).startswith("top|") for _, group in kind)


def _truth(subsets: pl.DataFrame, found: Sequence[tuple[Path, pl.DataFrame]], point: int | None) -> Truth:
    last = int(found[0][1]["step"].max()) if point is None else int(point)
    queries = found[0][1]["query"].unique(maintain_order=True).to_list()
    values = []
    for folder, frame in found:
        frame = frame.filter(pl.col("step") == last)
        wide = frame.pivot(on="query", index="copy", values="value").sort("copy") if frame.height else frame
        if not frame.height or set(wide.columns) - {"copy"} != set(queries):
            raise DataError(f"{folder}/retrained.parquet: expected values of {len(queries)} queries after step {last}, found others")
        values.append(wide.select(queries).to_numpy())
    left_out = {c: set(g.select("source", "example").rows()) for (c,), g in subsets.group_by("copy")}
    groups = dict(subsets.select("copy", "group").unique().rows())
    copies = range(1, len(values[0]))
    return Truth(np.stack(values, 1), [left_out[c] for c in copies], [groups[c] for c in copies], queries, last)


def read_scores_of(tables: Sequence[Path], queries: Sequence[str]) -> tuple[list[tuple[str, str]], dict[str, np.ndarray]]:
    """Return the examples scored and, for every method in all tables, its scores [M,Q,N] (windows of one text added up).

    Raises:
        DataError: no table, a query without scores, or pairs missing.
    """
    if not tables:
        raise DataError("validation: expected inputs influence:*, found none")
    frames = [read_table(t / "influence.parquet" if t.is_dir() else t, INFLUENCE).filter(level="instance") for t in tables]
    numbers = frames[0].select("source", "example").unique().sort("source", "example").with_row_index("n")
    asked = pl.DataFrame({"query": list(queries)}).with_row_index("q")
    methods = [m for m in frames[0]["method"].unique(maintain_order=True) if all(m in f["method"].unique() for f in frames)]
    result = {m: np.zeros((len(frames), len(queries), numbers.height)) for m in methods}
    for number, (frame, table) in enumerate(zip(frames, tables, strict=True)):
        rows = frame.join(asked, on="query").join(numbers, on=["source", "example"], how="left")
        if rows["n"].null_count():
            row = rows.filter(pl.col("n").is_null()).row(0, named=True)
            found = f"{row['source']}/{row['example']}"
            raise DataError(f"{table}: expected the examples of {tables[0]}, found {found}; attribute to the same texts")
        for method, dense in result.items():
            pairs = rows.filter(method=method).group_by("q", "n").agg(pl.col("score").sum())
            if pairs.height < dense[number].size:
                raise DataError(
                    f"{table}: expected a {method} score for each of {len(queries)} queries and {numbers.height} examples, found "
                    f"{pairs.height}; attribute to the queries that were retrained for, with every pair kept (keep: 0)"
                )
            dense[number, pairs["q"].to_numpy(), pairs["n"].to_numpy()] = pairs["score"].to_numpy()
    return numbers.select("source", "example").rows(), result


def _top(truth: Truth, draws: int, seed: int) -> list[Validation]:
    """Return drops of the target under removal of the top, against random removal of as many."""
    drops, number = truth.drops(), {name: q for q, name in enumerate(truth.queries)}
    random: dict[int, list[np.ndarray]] = {}
    removed: dict[tuple[str, int], dict[str, dict[str, np.ndarray]]] = {}
    for drop_SQ, group in zip(drops, truth.groups, strict=True):
        kind, *parts = group.split("|")
        if kind == "random":
            random.setdefault(int(parts[0]), []).append(drop_SQ)
        else:
            method, query, end, count = parts[0], "|".join(parts[1:-2]), parts[-2], int(parts[-1])
            removed.setdefault((end, count), {}).setdefault(method or "curvature", {})[query] = drop_SQ
    result = []
    for (end, count), methods in sorted(removed.items()):
        if count not in random:
            raise DataError(f"validation: expected random removals of {count} examples beside the top ones, found none; set controls")
        control = np.mean(random[count], axis=0)
        found = {}
        for method, by_query in methods.items():
            at = {q: number[q] for q in by_query if q in number}
            if "" in by_query:
                found[method] = (by_query[""], control)
            else:  # a query's own removal is judged by that query
                found[method] = (np.stack([by_query[q][:, n] for q, n in at.items()], 1), control[:, list(at.values())])
        name = f"top-{count}" if end == "helpful" else f"bottom-{count}"
        for method, (drop, base) in found.items():
            result += removal_drops(
                {method: drop}, base, statistic=name, step=truth.step, n_controls=len(random[count]), draws=draws, seed=seed
            )
    return result


def planted_records(
    tables: Sequence[Path], planted: Mapping[str, Mapping[str, Sequence[str]]], spec: Mapping[str, Any]
) -> list[Validation]:
    """Return the area under the ROC curve of helpful against harmful, and against noise, for every method.

    Args:
        tables: influence tables (or folders), one per model.
        planted: query -> {"helpful": sources, "harmful": sources, "noise": sources}; the last two may be empty.
        spec: as of `validate`.

    Raises:
        DataError: a source has no scored example.
    """
    queries = list(planted)
    keys, scores = read_scores_of(tables, queries)
    source = np.array([s for s, _ in keys])
    missing = sorted({s for told in planted.values() for named in told.values() for s in named} - set(source))
    if missing:
        raise DataError(f"planted: expected scored examples of every source named, found none of {', '.join(missing)}")
    wanted = str(spec.get("reference", REFERENCE))
    reference = wanted if wanted in scores else next(iter(scores))
    found: list[Validation] = []
    for against in ("harmful", "noise"):
        asked = [n for n, q in enumerate(queries) if planted[q].get(against)]
        if not asked:
            continue
        labels = np.zeros((len(asked), len(keys)), int)
        for row, n in zip(labels, asked, strict=True):
            row[np.isin(source, planted[queries[n]]["helpful"])] = 1
            row[np.isin(source, planted[queries[n]][against])] = -1
        chosen = {method: dense[:, asked] for method, dense in scores.items()}
        draws, seed = int(spec.get("draws", 1000)), int(spec.get("seed", 0))
        found += planted_auc(labels, chosen, statistic=f"helpful above {against}", reference=reference, draws=min(draws, 300), seed=seed)
    return found
