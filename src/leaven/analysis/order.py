"""What probes saw in every model -> findings: means, contrasts between conditions and between parts, significance over seeds.

Each quantity (probe_tables.py) gets a mean per condition and, for every pair of conditions, a contrast paired by seed and example
under the rule of effect.py: seeds and examples are both random. Probes describe mechanisms, so their contrasts are descriptive:
they decide nothing, and Holm spans the contrasts of one probe and level. `seed_tests` is the plain significance over seeds of
Liu et al. 2025, table 13 (A19).
Not covered: measuring (probes/), histograms and maps (distributions.py), drawing (reporting/), scores of benchmarks (findings.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from leaven.analysis.contrasts import Paired, pair
from leaven.analysis.distributions import grid_findings, histogram_finding, ks_findings, place_histogram
from leaven.analysis.effect import Effect, effect
from leaven.analysis.levels import at_level
from leaven.analysis.probe_tables import ALL_VALUES, CELL, absent, quantities, runs_of
from leaven.analysis.stats import holm, paired_t, sample_sd, t_interval, welch_t
from leaven.core.types import Finding
from leaven.errors import DataError, RefusedError

CONTENT = ("thought", "code", "answer", "text")
WITHIN: dict[str, tuple[str, str]] = {
    "gradients": ("gradient norm of the thought", "gradient norm of the code"),
    "similarity": ("similarity of prompt and code", "similarity of prompt and thought"),
    "loss": ("loss of the thought", "loss of the code"),
}
"""Quantities of one kind of probe that are compared with each other inside every condition (figures 6 and 11)."""


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
        rows = pl.concat([quantities(part), attention_to_code(part)])
        conditions = rows["condition"].unique(maintain_order=True).to_list()
        wanted = [p for p in pairs if set(p) <= set(conditions)] if pairs is not None else list(combinations(conditions, 2))
        out.append(mean_finding(part, where, clusters))
        out += [histogram_finding(r, where) for _, r in rows.group_by("quantity", maintain_order=True)]
        out += place_histogram(rows, where)
        out += contrast_findings(rows, wanted, where, clusters)
        out += within_findings(rows, where, clusters)
        out += ks_findings(rows, wanted, where)
    if grids is not None and not grids.is_empty():
        out += grid_findings(grids)
    return out


TO_CODE = "attention from the response to the code"


def attention_to_code(values: pl.DataFrame) -> pl.DataFrame:
    """Return, per model and example, the attention that tokens of the response give to code in the last layer (a mean over them).

    Rows have the columns of `quantities`; none for other kinds of probes. Parts are weighted by their tokens. A thought that
    stands before the code cannot look at it, so orders differ by construction too: this is what Liu et al. 2025, figure 5,
    compare. Levels of detail of a part (code.signature) count as the part.
    """
    about = [*CELL, "example"]
    rows = values.filter((pl.col("kind") == "attention") & (pl.col("name") == "mass") & (pl.col("example") != ""))
    rows = rows.filter((pl.col("layer") == pl.col("layer").max()) & pl.col("part").str.split(".").list.first().is_in(CONTENT))
    rows = rows.filter(pl.col("other").str.split(".").list.first() == "code")
    per_part = rows.group_by([*about, "part"], maintain_order=True).agg(pl.col("value").sum(), pl.col("n_tokens").first())
    weight = pl.col("n_tokens").cast(pl.Float64)
    found = per_part.group_by(about, maintain_order=True).agg(
        ((pl.col("value") * weight).sum() / weight.sum()).alias("value"), pl.col("n_tokens").sum()
    )
    fixed = {"part": "response", "other": "code", "name": "mass", "quantity": TO_CODE, "unit": "share of attention"}
    found = found.with_columns(pl.lit(-1, pl.Int32).alias("layer"), *(pl.lit(v).alias(k) for k, v in fixed.items()))
    return found.select([pl.col(c).cast(t) for c, t in ALL_VALUES.items()] + ["quantity", "unit"])


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
        runs=runs_of(values),
        data={"kind": values["kind"][0], "level": values["level"][0], "rows": table},
    )


def mean_of(rows: pl.DataFrame, clusters: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return mean, intervals, standard deviation over seeds and counts of one quantity in one condition.

    Examples that some seed lacks are left out of all and counted.
    """
    array, items, seeds, lost = _array(rows)
    if not items:
        return {"mean": None, "seeds": seeds, "n_items": 0, "n_lost": lost}
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
    taken = []
    for (quantity,), part in rows.group_by("quantity", maintain_order=True):
        for names in pairs:
            sides = [part.filter(pl.col("condition") == n) for n in names]
            taken += _take(sides, str(quantity), names, clusters)
    return _adjusted(taken, where)


def within_findings(rows: pl.DataFrame, where: str, clusters: Mapping[str, str] | None = None) -> list[Finding]:
    """Return, inside every condition, the difference of the two quantities that WITHIN names for this kind of probe."""
    kind = rows["kind"][0] if rows.height else ""
    taken = []
    for (condition,), part in rows.group_by("condition", maintain_order=True):
        if kind in WITHIN:
            sides = [part.filter(pl.col("quantity") == q) for q in WITHIN[kind]]
            taken += _take(sides, str(condition), WITHIN[kind], clusters)
    return _adjusted(taken, where)


def _adjusted(taken: Sequence[_Taken], where: str) -> list[Finding]:
    """Return the findings of contrasts, adjusted for testing all of them."""
    tested = [t for t in taken if t.effect is not None]
    adjusted = holm([t.effect.p for t in tested if t.effect is not None])
    by_taken = {id(t): p for t, p in zip(tested, adjusted, strict=True)}
    return [_contrast(t, by_taken.get(id(t)), where) for t in taken]


def _take(sides: Sequence[pl.DataFrame], quantity: str, names: tuple[str, str], clusters: Mapping[str, str] | None) -> list[_Taken]:
    """Return one contrast; none when a side has nothing to compare."""
    if any(absent(s) for s in sides):
        return []
    runs = tuple(sorted({r for s in sides for r in s["run"].unique().to_list()}))
    about = (quantity, sides[0]["unit"][0], names)
    try:
        paired, notes = _paired(sides, names, quantity, clusters)
        return [_Taken(*about, paired.effect(), "", runs, notes)]
    except (RefusedError, DataError) as error:
        return [_Taken(*about, None, str(error), runs)]


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
    declared = {
        "treatment": treatment,
        "control": control,
        "quantity": taken.quantity,
        "descriptive": True,
        "primary": False,
    }
    found = taken.effect
    if found is None:
        return Finding(
            **about,
            decision="refused",
            sentence=f"No answer: {taken.problem}",
            warnings=(taken.problem,),
            data=declared,
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


def _array(rows: pl.DataFrame) -> tuple[np.ndarray, list[str], list[int], int]:
    """Return values [seeds, examples] on the examples of every seed, the examples, the seeds, and how many were left out."""
    table = rows.group_by("seed", "example").agg(pl.col("value").mean())
    seeds = sorted(table["seed"].unique().to_list())
    counts = table.group_by("example").agg(pl.len().alias("n"))
    items = sorted(counts.filter(pl.col("n") == len(seeds))["example"].to_list())
    wide = table.filter(pl.col("example").is_in(items)).sort("seed", "example")
    return wide["value"].to_numpy().reshape(len(seeds), len(items)), items, seeds, counts.height - len(items)


# ---- significance over seeds -------------------------------------------------------------------------------


def seed_tests(scores: Mapping[str, Mapping[int, float]], pairs: Sequence[tuple[str, str]], unit: str = "score") -> list[Finding]:
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
                id=f"seeds/{name}",
                kind="score",
                title=f"{name} over seeds",
                estimate=over.estimate,
                low=over.low,
                high=over.high,
                unit=unit,
                seeds=tuple(sorted(by_seed)),
                data=data,
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
