"""What probes saw in every model (values.parquet, grid.parquet) -> findings: means, contrasts, histograms, KS, attention maps.

A probe's rows become *quantities* that mean the same in every condition, whatever the order of thought and code: the gap of
the first and the second part, the loss of the response, the KL of the code, the attention from code to thought, ... (`quantities`).
Each quantity gets a mean per condition and, for every pair of conditions, a contrast paired by seed and example under the rule of
effect.py: seeds and examples are both random. Probes describe mechanisms, so their contrasts are descriptive: they decide
nothing, and Holm spans the contrasts of one probe and level. Histograms share their bins over all conditions of a level.
`seed_tests` is the plain significance over seeds of Liu et al. 2025, table 13 (A19).
Not covered: measuring (probes/), drawing (reporting/), scores of benchmarks (findings.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import stats as scipy_stats

from leaven.analysis.contrasts import Paired, pair
from leaven.analysis.effect import Effect, effect
from leaven.analysis.levels import at_level
from leaven.analysis.stats import holm, paired_t, sample_sd, t_interval, welch_t
from leaven.core.hashing import canonical
from leaven.core.tables import PROBE_GRID, PROBE_VALUES, Schema, read_table
from leaven.core.types import Finding
from leaven.errors import DataError, RefusedError

CELL: Schema = {
    "condition": pl.String,
    "level": pl.String,
    "seed": pl.Int32,
    "probe": pl.String,
    "kind": pl.String,
    "run": pl.String,
}
ALL_VALUES: Schema = {**CELL, **PROBE_VALUES}
"""PROBE_VALUES of every probed model with where it came from; `probe` is the study's name for it, `kind` what it measures."""
ALL_GRIDS: Schema = {**CELL, **PROBE_GRID}
"""PROBE_GRID of every probed model with where it came from."""

BINS = 30
_TAIL = 0.005
_CONTENT = ("thought", "code", "answer", "text")
_PLACES = ("first", "second", "third")
_UNITS = {
    "perplexity": "perplexity",
    "gap": "perplexity",
    "nats": "nats per token",
    "gap_nats": "nats per token",
    "kl": "nats per token",
    "kl_reverse": "nats per token",
    "loss": "nats per token",
    "mass": "share of attention",
    "cosine": "cosine",
    "norm": "gradient norm",
}


# ---- reading -----------------------------------------------------------------------------------------------


def gather_values(entries: Iterable[Mapping[str, Any]], inputs: Mapping[str, Path]) -> pl.DataFrame:
    """Return the values of all probes as ALL_VALUES; entries whose input is absent (a step failed) are left out.

    Args:
        entries: {condition, level, seed, probe, kind, input, node} per probed model; `input` names the entry of `inputs`.
        inputs: name -> folder with values.parquet.
    """
    return _gather(entries, inputs, "values.parquet", PROBE_VALUES, ALL_VALUES)


def gather_grids(entries: Iterable[Mapping[str, Any]], inputs: Mapping[str, Path]) -> pl.DataFrame:
    """Return the attention maps of all probes that wrote one as ALL_GRIDS; arguments as for gather_values."""
    return _gather(entries, inputs, "grid.parquet", PROBE_GRID, ALL_GRIDS)


def _gather(
    entries: Iterable[Mapping[str, Any]], inputs: Mapping[str, Path], file: str, schema: Schema, wanted: Schema
) -> pl.DataFrame:
    parts = []
    for entry in entries:
        name = str(entry["input"])
        if name not in inputs or not (Path(inputs[name]) / file).is_file():
            continue
        level = entry.get("level") or "{}"
        cell = {
            "condition": str(entry["condition"]),
            "level": level if isinstance(level, str) else canonical(level),
            "seed": int(entry["seed"]),
            "probe": str(entry["probe"]),
            "kind": str(entry["kind"]),
            "run": str(entry.get("node") or name),
        }
        frame = read_table(Path(inputs[name]) / file, schema)
        parts.append(frame.with_columns(*(pl.lit(v).alias(k) for k, v in cell.items())).select(
            [pl.col(c).cast(t) for c, t in wanted.items()]
        ))
    return pl.concat(parts) if parts else pl.DataFrame(schema=wanted)


# ---- quantities --------------------------------------------------------------------------------------------


def quantities(values: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of one probe that are comparable between conditions: ALL_VALUES plus `quantity` and `unit`.

    One row per (condition, seed, quantity, example). Gradient norms are means over layers and projections, attention is that of
    the last layer; rows of all examples together are left out.
    """
    rows = values.filter(pl.col("example") != "")
    kind = rows["kind"][0] if rows.height else ""
    if kind == "gradients":
        rows = rows.filter(pl.col("name").is_in(list("qkvo")))
        keys = [c for c in ALL_VALUES if c not in ("value", "layer", "name", "n_tokens")]
        rows = rows.group_by(keys, maintain_order=True).agg(pl.col("value").mean(), pl.col("n_tokens").first())
        rows = rows.with_columns(pl.lit(-1, pl.Int32).alias("layer"), pl.lit("norm").alias("name")).select(list(ALL_VALUES))
    elif kind == "attention":
        rows = rows.filter((pl.col("layer") == pl.col("layer").max()) & (pl.col("name") == "mass"))
    named = [_quantity(*row) for row in rows.select("kind", "part", "other", "name").iter_rows()]
    return (
        rows.with_columns(pl.Series("quantity", named, pl.String))
        .filter(pl.col("quantity") != "")
        .with_columns(pl.col("name").replace_strict(_UNITS, default=pl.col("name")).alias("unit"))
    )


def _quantity(kind: str, part: str, other: str, name: str) -> str:
    """Return what a row measures in words that hold in every condition; "" for rows that no contrast speaks of."""
    content = part.split(".")[0] in _CONTENT
    if kind == "perplexity":
        if name in ("gap", "gap_nats"):
            return "gap of perplexities, first - second" if name == "gap" else "gap in nats, first - second"
        before = sum(p.split(".")[0] in _CONTENT for p in other.split("+"))
        place = _PLACES[before] if before < len(_PLACES) else ""
        return f"{name} of the {place} part" if place else ""
    if kind in ("divergence", "loss", "gradients"):
        what = {"kl": "KL(model || base)", "kl_reverse": "KL(base || model)", "norm": "gradient norm"}.get(name, name)
        return f"{what} of the {part}" if content or part == "response" else ""
    if kind == "attention":
        return f"attention from {part} to {other}" if content and (other == "prompt" or other in _CONTENT) else ""
    if kind == "similarity":
        return f"similarity of {part} and {other}"
    if kind in ("lengths", "overlap"):
        return f"{name} of the {part}" + (" written" if other == "sample" else "")
    return " ".join(x for x in (name, part, other) if x)


# ---- findings ----------------------------------------------------------------------------------------------


def probe_findings(
    values: pl.DataFrame,
    pairs: Sequence[tuple[str, str]] | None = None,
    clusters: Mapping[str, str] | None = None,
    grids: pl.DataFrame | None = None,
) -> list[Finding]:
    """Return the findings of all probes: per probe and level a table of means, histograms, contrasts, KS; attention maps.

    Args:
        values: ALL_VALUES.
        pairs: (treatment, control) to contrast; default: every pair in order of appearance.
        clusters: example -> cluster of examples that are not independent (its group); default: each its own.
        grids: ALL_GRIDS.
    """
    out: list[Finding] = []
    for (probe, level), part in values.group_by("probe", "level", maintain_order=True):
        where = f"probe/{probe}{at_level(str(level))}"
        rows = quantities(part)
        conditions = rows["condition"].unique(maintain_order=True).to_list()
        wanted = [p for p in pairs if set(p) <= set(conditions)] if pairs is not None else list(combinations(conditions, 2))
        out.append(mean_finding(part, where, clusters))
        out += [histogram_finding(r, where) for _, r in rows.group_by("quantity", maintain_order=True)]
        out += place_histogram(rows, where)
        out += contrast_findings(rows, wanted, where, clusters)
        out += ks_findings(rows, wanted, where)
    if grids is not None and not grids.is_empty():
        out += grid_findings(grids)
    return out


def mean_finding(values: pl.DataFrame, where: str, clusters: Mapping[str, str] | None = None) -> Finding:
    """Return a table of the mean of every (condition, part, other, layer, name) with its interval over seeds and examples.

    `low` and `high` follow the rule of effect.py (new seeds, new examples); `seeds_low` and `seeds_high` are Student's t interval over
    the seeds' means alone. Rows of all examples together have the latter only.
    """
    keys = ["condition", "part", "other", "layer", "name"]
    table = []
    for key, rows in values.group_by(keys, maintain_order=True):
        table.append(dict(zip(keys, key, strict=True)) | mean_of(rows, clusters))
    return Finding(
        id=f"{where}/means",
        kind="table",
        title=f"What the probe {values['probe'][0]} saw",
        seeds=tuple(sorted(values["seed"].unique().to_list())),
        n_items=values.filter(pl.col("example") != "")["example"].n_unique(),
        runs=_runs(values),
        data={"kind": values["kind"][0], "level": values["level"][0], "rows": table},
    )


def mean_of(rows: pl.DataFrame, clusters: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return mean, intervals, standard deviation over seeds and counts of one quantity in one condition.

    Examples that some seed lacks are left out of all and counted.
    """
    array, items, seeds, lost = _array(rows)
    per_seed = array.mean(1)
    out: dict[str, Any] = {
        "mean": float(per_seed.mean()),
        "low": None,
        "high": None,
        "seeds_low": None,
        "seeds_high": None,
        "sd_seeds": sample_sd(per_seed) if len(seeds) > 1 else None,
        "per_seed": per_seed.tolist(),
        "seeds": seeds,
        "n_items": 0 if items == [""] else len(items),
        "n_lost": lost,
        "n_tokens": int(rows["n_tokens"].sum()),
    }
    if len(seeds) > 1:
        over_seeds = t_interval(per_seed)
        out |= {"seeds_low": over_seeds.low, "seeds_high": over_seeds.high}
    if items != [""] and (len(items) > 1 or len(seeds) > 1):
        groups = [(clusters or {}).get(i, i) for i in items]
        try:
            found = effect(array, np.zeros_like(array), groups, seeds=seeds)
        except RefusedError:  # one seed, one cluster
            return out
        out |= {"low": found.low, "high": found.high}
    return out


def histogram_finding(rows: pl.DataFrame, where: str, bins: int = BINS) -> Finding:
    """Return the distribution over examples of one quantity in every condition, on shared bins, with Gaussian fits.

    Seeds are pooled: `n` counts (seed, example) values. Values beyond the 0.5th and 99.5th percentile of all conditions
    are counted in `below` and `above`, so that a few of them do not squeeze the rest into one bin; fits use all values.
    """
    quantity = rows["quantity"][0]
    series = {c: part["value"].to_numpy() for (c,), part in rows.group_by("condition", maintain_order=True)}
    return _histogram(f"{where}/histogram/{quantity}", quantity, series, rows, bins)


def place_histogram(rows: pl.DataFrame, where: str, bins: int = BINS) -> list[Finding]:
    """Return, for a perplexity probe, the two distributions of Liu et al. 2025, figure 3: first and second part per condition."""
    chosen = rows.filter(pl.col("quantity").is_in([f"perplexity of the {p} part" for p in _PLACES[:2]]))
    if chosen.is_empty():
        return []
    keys = chosen.select("condition", "quantity", "part").unique(maintain_order=True).sort("condition", "quantity")
    series = {}
    for condition, quantity, part in keys.iter_rows():
        of = (pl.col("condition") == condition) & (pl.col("quantity") == quantity) & (pl.col("part") == part)
        place = quantity.removeprefix("perplexity of the ").removesuffix(" part")
        series[f"{condition}: {part} ({place})"] = chosen.filter(of)["value"].to_numpy()
    return [_histogram(f"{where}/histogram/parts", "conditional perplexity of the parts", series, chosen, bins)]


def _histogram(identity: str, title: str, series: Mapping[str, np.ndarray], rows: pl.DataFrame, bins: int) -> Finding:
    edges = shared_edges(list(series.values()), bins)
    return Finding(
        id=identity,
        kind="table",
        title=f"Distribution over examples: {title}",
        unit=rows["unit"][0],
        n_items=rows["example"].n_unique(),
        seeds=tuple(sorted(rows["seed"].unique().to_list())),
        runs=_runs(rows),
        data={"edges": edges.tolist(), "series": [{"name": n, **binned(v, edges)} for n, v in series.items()]},
    )


def shared_edges(series: Sequence[np.ndarray], bins: int = BINS) -> np.ndarray:
    """Return bin edges [bins + 1] from the 0.5th to the 99.5th percentile of all values together."""
    low, high = np.quantile(np.concatenate(series), [_TAIL, 1 - _TAIL])
    return np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)


def binned(values: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Return counts per bin (the last one closed), counts beyond both ends, and the Gaussian with the values' moments."""
    counts, _ = np.histogram(values, edges)
    return {
        "counts": counts.tolist(),
        "below": int((values < edges[0]).sum()),
        "above": int((values > edges[-1]).sum()),
        "n": len(values),
        "gaussian": {"mean": float(values.mean()), "sd": float(values.std())},
    }


# ---- comparing conditions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Taken:
    """One contrast of a quantity: the effect, or why there is none."""

    quantity: str
    unit: str
    names: tuple[str, str]
    effect: Effect | None
    problem: str
    runs: tuple[str, ...]
    notes: tuple[str, ...] = ()


def contrast_findings(
    rows: pl.DataFrame, pairs: Sequence[tuple[str, str]], where: str, clusters: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return treatment - control of every quantity that both conditions have, paired by seed and example, descriptive."""
    taken = [
        found
        for (quantity,), part in rows.group_by("quantity", maintain_order=True)
        for names in pairs
        if (found := _take(part, str(quantity), names, clusters)) is not None
    ]
    tested = [t for t in taken if t.effect is not None]
    adjusted = holm([t.effect.p for t in tested if t.effect is not None])
    by_taken = {id(t): p for t, p in zip(tested, adjusted, strict=True)}
    return [_contrast(t, by_taken.get(id(t)), where) for t in taken]


def _take(
    rows: pl.DataFrame, quantity: str, names: tuple[str, str], clusters: Mapping[str, str] | None
) -> _Taken | None:
    """Return one contrast; None when a condition lacks the quantity or cannot have it (attention to what comes later)."""
    sides = [rows.filter(pl.col("condition") == n) for n in names]
    if any(s.is_empty() or (s["kind"][0] == "attention" and (s["value"] == 0).all()) for s in sides):
        return None
    runs = tuple(sorted({r for s in sides for r in s["run"].unique().to_list()}))
    about = (quantity, rows["unit"][0], names)
    try:
        paired, notes = _paired(sides, names, quantity, clusters)
        return _Taken(*about, paired.effect(), "", runs, notes)
    except (RefusedError, DataError) as error:
        return _Taken(*about, None, str(error), runs)


def _paired(
    sides: Sequence[pl.DataFrame], names: tuple[str, str], quantity: str, clusters: Mapping[str, str] | None
) -> tuple[Paired, tuple[str, ...]]:
    """Pair two sides on the examples that every model of both was shown."""
    seen = [set(p["example"].to_list()) for s in sides for _, p in s.group_by("seed")]
    common = set.intersection(*seen)
    lost = len(set.union(*seen)) - len(common)
    if not common:
        raise DataError(f"{quantity}: no example was seen by every model of {names[0]} and {names[1]}")
    ready = [
        s.filter(pl.col("example").is_in(list(common))).select(
            "seed",
            pl.col("example").alias("item"),
            pl.col("example").replace(dict(clusters or {})).alias("cluster"),
            pl.col("value").alias("score"),
        )
        for s in sides
    ]
    paired = pair(ready[0], ready[1], names=names, where=quantity)
    notes = (f"{lost} examples that not every model was shown are left out",) if lost else ()
    return paired, notes


def _contrast(taken: _Taken, p_holm: float | None, where: str) -> Finding:
    treatment, control = taken.names
    about = {
        "id": f"{where}/{taken.quantity}/{treatment} vs {control}",
        "kind": "contrast",
        "title": f"{treatment} vs {control}: {taken.quantity}",
        "unit": taken.unit,
        "runs": taken.runs,
    }
    declared = {"treatment": treatment, "control": control, "quantity": taken.quantity, "descriptive": True, "primary": False}
    found = taken.effect
    if found is None:
        return Finding(
            **about, decision="refused", sentence=f"No answer: {taken.problem}", warnings=(taken.problem,), data=declared
        )
    sentence = (
        f"{taken.quantity}: {treatment} {found.mean_treatment:.3g}, {control} {found.mean_control:.3g}, difference "
        f"{found.estimate:+.3g} [{found.low:+.3g}, {found.high:+.3g}] over {len(found.seeds)} seeds and {found.n_items} examples."
    )
    kept = ("se", "df", "mean_treatment", "mean_control", "seed_differences", "sd_seeds", "sd_clusters", "sd_both")
    return Finding(
        **about,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        p=found.p,
        p_holm=p_holm,
        n_items=found.n_items,
        n_clusters=found.n_clusters,
        seeds=found.seeds,
        sentence=sentence,
        warnings=(*taken.notes, *found.notes),
        data=declared | {k: getattr(found, k) for k in kept},
    )


def ks_findings(rows: pl.DataFrame, pairs: Sequence[tuple[str, str]], where: str) -> list[Finding]:
    """Return the Kolmogorov-Smirnov distance between conditions of every quantity, and of first and second part within each.

    D is taken seed by seed (distributions over examples) and averaged, with a t interval over seeds. Both sides hold the same
    examples, so the usual p value, which wants independent ones, is not given.
    """
    out = []
    for (quantity,), part in rows.group_by("quantity", maintain_order=True):
        for a, b in pairs:
            sides = [part.filter(pl.col("condition") == c) for c in (a, b)]
            out += _ks(sides, f"{where}/ks/{quantity}/{a} vs {b}", f"{quantity}: {a} against {b}")
    for (condition,), part in rows.group_by("condition", maintain_order=True):
        sides = [part.filter(pl.col("quantity") == f"perplexity of the {p} part") for p in _PLACES[:2]]
        out += _ks(sides, f"{where}/ks/parts/{condition}", f"{condition}: perplexity of the first against the second part")
    return out


def _ks(sides: Sequence[pl.DataFrame], identity: str, title: str) -> list[Finding]:
    """Return one KS finding, none when a side is empty or no seed is on both."""
    by_seed = [{s: p["value"].to_numpy() for (s,), p in side.group_by("seed")} for side in sides]
    seeds = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not seeds:
        return []
    distances = [float(scipy_stats.ks_2samp(by_seed[0][s], by_seed[1][s]).statistic) for s in seeds]
    interval = t_interval(distances) if len(seeds) > 1 else None
    return [
        Finding(
            id=identity,
            kind="score",
            title=f"KS distance of {title}",
            estimate=float(np.mean(distances)),
            low=None if interval is None else max(0.0, interval.low),
            high=None if interval is None else min(1.0, interval.high),
            unit="largest difference of the cumulative shares",
            n_items=min(len(v) for side in by_seed for v in side.values()),
            seeds=tuple(seeds),
            runs=tuple(sorted({r for s in sides for r in s["run"].unique().to_list()})),
            data={"per_seed": distances},
        )
    ]


def grid_findings(grids: pl.DataFrame) -> list[Finding]:
    """Return the mean attention map over seeds of every probe, level, condition and layer: data {layer, cells: [[...]]}."""
    out = []
    keys = ["probe", "level", "condition", "layer"]
    for (probe, level, condition, layer), part in grids.sort(keys).group_by(keys, maintain_order=True):
        cells = part.group_by("row", "col").agg(pl.col("value").mean()).sort("row", "col")
        size = int(cells["row"].max() or 0) + 1  # type: ignore[operator]
        out.append(
            Finding(
                id=f"probe/{probe}{at_level(str(level))}/map/{condition}/layer={layer}",
                kind="table",
                title=f"Attention map of {condition}, layer {layer}{at_level(str(level))}",
                unit="share of attention",
                n_items=int(part["n"].min() or 0),
                seeds=tuple(sorted(part["seed"].unique().to_list())),
                runs=_runs(part),
                data={"layer": layer, "condition": condition, "cells": cells["value"].to_numpy().reshape(size, size).tolist()},
            )
        )
    return out


# ---- significance over seeds -------------------------------------------------------------------------------


def seed_tests(
    scores: Mapping[str, Mapping[int, float]], pairs: Sequence[tuple[str, str]], unit: str = "score"
) -> list[Finding]:
    """Return mean and standard deviation per condition, and Welch's and (for equal seeds) the paired t test per pair.

    The statistics of Liu et al. 2025, table 13: seeds alone are random, items are not. A study's own contrasts use effect.py.

    Args:
        scores: condition -> seed -> score.
        pairs: (treatment, control).
        unit: of the scores.

    Raises:
        DataError: a condition of a pair is absent or has fewer than two seeds.
    """
    out = []
    for name in dict.fromkeys(n for two in pairs for n in two):
        if name not in scores:
            raise DataError(f"significance over seeds: expected scores of {name!r}, found {sorted(scores)}")
    for name, by_seed in scores.items():
        values = [by_seed[s] for s in sorted(by_seed)]
        over = t_interval(values)
        data = {"sd": sample_sd(values), "per_seed": values, "condition": name}
        out.append(
            Finding(
                id=f"seeds/{name}", kind="score", title=f"{name} over seeds", estimate=over.estimate, low=over.low,
                high=over.high, unit=unit, seeds=tuple(sorted(by_seed)), data=data,
            )
        )
    for treatment, control in pairs:
        sides = [[scores[n][s] for s in sorted(scores[n])] for n in (treatment, control)]
        welch = welch_t(sides[0], sides[1])
        same = sorted(scores[treatment]) == sorted(scores[control])
        tests = {"welch": welch} | ({"paired": paired_t(sides[0], sides[1])} if same else {})
        out.append(
            Finding(
                id=f"seeds/{treatment} vs {control}",
                kind="table",
                title=f"{treatment} vs {control}: t tests over seeds",
                estimate=welch.estimate,
                low=welch.low,
                high=welch.high,
                unit=unit,
                p=welch.p,
                seeds=tuple(sorted({*scores[treatment], *scores[control]})),
                data={n: {"t": t.t, "df": t.df, "p": t.p, "low": t.low, "high": t.high} for n, t in tests.items()},
            )
        )
    return out


def _array(rows: pl.DataFrame) -> tuple[np.ndarray, list[str], list[int], int]:
    """Return values [seeds, examples] on the examples of every seed, the examples, the seeds, and how many were left out."""
    table = rows.group_by("seed", "example").agg(pl.col("value").mean())
    seeds = sorted(table["seed"].unique().to_list())
    counts = table.group_by("example").agg(pl.len().alias("n"))
    items = sorted(counts.filter(pl.col("n") == len(seeds))["example"].to_list())
    if not items:
        raise DataError(f"probe: no example was seen by all seeds {seeds} of {rows['condition'][0]}")
    wide = table.filter(pl.col("example").is_in(items)).sort("seed", "example")
    return wide["value"].to_numpy().reshape(len(seeds), len(items)), items, seeds, counts.height - len(items)


def _runs(rows: pl.DataFrame) -> tuple[str, ...]:
    return tuple(sorted(rows["run"].unique().to_list()))
