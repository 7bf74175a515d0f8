"""What probes saw -> the records behind the report's pictures of mechanism: distributions, gaps, attention maps, gradient norms.

Keys are the fields of reporting/sections/inputs.py, which reads them. Effects are the descriptive contrasts that the paper's claims
speak of, between strategies.
Not covered: the estimates themselves (order.py), scores of benchmarks (order_inputs.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.analysis.distributions import binned, shared_edges
from leaven.analysis.order import mean_of
from leaven.analysis.probe_tables import runs_of
from leaven.core.hashing import canonical
from leaven.core.types import Finding

Row = dict[str, Any]
DRAWN = {
    ("perplexity", "nats"): ("log_perplexity", "nats per token"),
    ("divergence", "kl"): ("kl", "nats per token"),
    ("divergence", "kl_reverse"): ("reverse_kl", "nats per token"),
    ("loss", "loss"): ("validation_loss", "nats per token"),
    ("similarity", "cosine"): ("similarity", "cosine"),
}
"""(kind of probe, name of its value) -> measure of a distribution and its unit."""

SPOKEN = {
    "gap of perplexities, first - second": "perplexity_gap",
    "KL(model || base) of the response": "kl",
    "loss of the response": "validation_loss",
    "attention from the response to the code": "attention_to_code",
    "bleu of the thought written": "bleu",
    "codebleu of the code written": "codebleu",
}
"""Quantity -> measure of a claim."""


def probe_records(
    values: pl.DataFrame,
    grids: pl.DataFrame,
    regions: Mapping[str, Mapping[str, Sequence[float]]],
    findings: Sequence[Finding],
    strategies: Mapping[str, str],
    clusters: Mapping[str, str],
) -> dict[str, list[Row]]:
    """Return distributions, differences, attention, gradients and effects.

    Args:
        values: ALL_VALUES.
        grids: ALL_GRIDS.
        regions: Condition -> part -> (start, end) as shares of the text, means over examples.
        findings: What `probe_findings` made of the values.
        strategies: Condition -> strategy.
        clusters: Example -> cluster of examples that are not independent.
    """
    means = _means(values, clusters)
    return {
        "distributions": _distributions(values, clusters),
        "differences": _differences(values, findings, clusters),
        "attention": _attention(grids, means, regions),
        "gradients": _gradients(means),
        "effects": _effects(findings, strategies),
    }


def regions_of(entries: Sequence[Mapping[str, Any]], inputs: Mapping[str, Path]) -> dict[str, Mapping[str, Sequence[float]]]:
    """Return where the parts of the text lie in each condition's attention maps (report.json of its first probe)."""
    found: dict[str, Mapping[str, Sequence[float]]] = {}
    for entry in entries:
        name = str(entry["input"])
        if entry["kind"] == "attention" and name in inputs and entry["condition"] not in found:
            report = json.loads((inputs[name] / "report.json").read_text(encoding="utf-8"))
            found[str(entry["condition"])] = report.get("regions", {})
    return found


def _means(values: pl.DataFrame, clusters: Mapping[str, str]) -> list[Row]:
    """Return the mean of every part, layer and name that is drawn as a number: attention masses and gradient norms."""
    wanted = values.filter(
        ((pl.col("kind") == "attention") & (pl.col("name") == "mass"))
        | ((pl.col("kind") == "gradients") & pl.col("name").is_in(["q", "k", "v", "o"]))
    )
    keys = ["probe", "kind", "condition", "level", "part", "other", "layer", "name"]
    rows = []
    for key, part in wanted.group_by(keys, maintain_order=True):
        rows.append(dict(zip(keys, key, strict=True)) | {"measured": _measured(mean_of(part, clusters), runs_of(part))})
    return rows


def _measured(found: Mapping[str, Any], runs: Sequence[str]) -> Row:
    low, high = found.get("low"), found.get("high")
    return {
        "estimate": found["mean"],
        "low": found.get("seeds_low") if low is None else low,
        "high": found.get("seeds_high") if high is None else high,
        "n": found["n_items"],
        "seeds": list(found["seeds"]),
        "runs": list(runs),
    }


def _distributions(values: pl.DataFrame, clusters: Mapping[str, str]) -> list[Row]:
    """Return one histogram per probe, level, measure, part and condition, on bins that all of a measure share."""
    found = []
    for (kind, name), (measure, unit) in DRAWN.items():
        rows = values.filter((pl.col("kind") == kind) & (pl.col("name") == name) & (pl.col("example") != ""))
        for (_, level), here in rows.group_by("probe", "level", maintain_order=True):
            edges = shared_edges([here["value"].to_numpy()])
            for (condition, part, other), one in here.group_by("condition", "part", "other", maintain_order=True):
                drawn = binned(one["value"].to_numpy(), edges)
                found.append(
                    {
                        "measure": measure,
                        "condition": condition,
                        "edges": edges.tolist(),
                        "counts": drawn["counts"],
                        "mean": _measured(mean_of(one, clusters), runs_of(one)),
                        "sd": drawn["gaussian"]["sd"],
                        "part": part,
                        "given": str(other).replace("+", " and "),
                        "unit": unit,
                        "level": level,
                    }
                )
    return found


def _differences(values: pl.DataFrame, findings: Sequence[Finding], clusters: Mapping[str, str]) -> list[Row]:
    """Return the gap of both parts in every condition, and the declared contrasts of distributions."""
    found = []
    gaps = values.filter((pl.col("kind") == "perplexity") & (pl.col("name") == "gap_nats"))
    for (condition, first, second), rows in gaps.group_by("condition", "part", "other", maintain_order=True):
        label = f"{first} minus {second}"
        gap = _measured(mean_of(rows, clusters), runs_of(rows))
        found.append({"measure": "log_perplexity", "label": label, "effect": gap, "condition": condition})
    quantities = {
        "gap in nats, first - second": "log_perplexity",
        "KL(model || base) of the response": "kl",
        "KL(base || model) of the response": "reverse_kl",
        "loss of the response": "validation_loss",
    }
    for finding in findings:
        measure = quantities.get(str(finding.data.get("quantity", "")))
        if measure and finding.estimate is not None and finding.kind == "contrast":
            label = f"{finding.data['treatment']} vs {finding.data['control']}"
            label += ", gap of the parts" if measure == "log_perplexity" else ", response"
            found.append({"measure": measure, "label": label, "effect": _of(finding), "p": finding.p, "test": "t"})
    return found


def _of(finding: Finding) -> Row:
    return {
        "estimate": finding.estimate,
        "low": finding.low,
        "high": finding.high,
        "n": finding.n_items,
        "seeds": list(finding.seeds),
        "runs": list(finding.runs),
    }


def _attention(
    grids: pl.DataFrame, means: Sequence[Row], regions: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[Row]:
    """Return the map of every condition's last layer, averaged over seeds, with the mass between its parts."""
    found = []
    keys = ["probe", "level", "condition"]
    for (probe, level, condition), part in grids.group_by(keys, maintain_order=True):
        last = part.filter(pl.col("layer") == pl.col("layer").max())
        layer = int(last["layer"][0])
        cells = last.group_by("row", "col").agg(pl.col("value").mean()).sort("row", "col")
        size = int(np.sqrt(cells.height))
        masses = [
            {"query": m["part"], "key": m["other"], "share": m["measured"]}
            for m in means
            if (m["probe"], m["level"], m["condition"], m["layer"]) == (probe, level, condition, layer)
            and m["kind"] == "attention"
        ]
        places = [
            {"name": name, "start": float(at[0]) * size, "end": float(at[1]) * size}
            for name, at in regions.get(str(condition), {}).items()
            if name != "template"
        ]
        found.append(
            {
                "condition": condition,
                "grid": cells["value"].to_numpy().reshape(size, size).tolist(),
                "regions": sorted(places, key=lambda r: r["start"]),
                "masses": masses,
                "layer": str(layer),
                "n": int(last["n"].min() or 0),
                "seeds": sorted(last["seed"].unique().to_list()),
                "level": level,
            }
        )
    return found


def _gradients(means: Sequence[Row]) -> list[Row]:
    """Return the norms; where several probes measured them (trained and initial weights), the level names the probe."""
    rows = [m for m in means if m["kind"] == "gradients" and m["part"] in ("thought", "code") and m["other"] == ""]
    several = len({m["probe"] for m in rows}) > 1

    def level(m: Row) -> str:
        return canonical({**json.loads(m["level"] or "{}"), "probe": m["probe"]}) if several else str(m["level"])

    return [
        {
            "condition": m["condition"],
            "part": m["part"],
            "projection": m["name"],
            "layer": m["layer"],
            "norm": m["measured"],
            "level": level(m),
        }
        for m in rows
    ]


def _effects(findings: Sequence[Finding], strategies: Mapping[str, str]) -> list[Row]:
    """Return the contrasts that a claim of the paper speaks of: between strategies, and of thought against code."""
    found = []
    for finding in findings:
        said = finding.data
        if finding.kind != "contrast" or finding.estimate is None:
            continue
        measure = SPOKEN.get(str(said.get("quantity", "")))
        treatment, control = strategies.get(str(said["treatment"]), ""), strategies.get(str(said["control"]), "")
        if measure and treatment and control and treatment != control:
            found.append({"treatment": treatment, "control": control, "measure": measure, "effect": _of(finding)})
        elif said["treatment"] == "gradient norm of the thought":
            found.append(
                {
                    "treatment": "part:code",
                    "control": "part:thought",
                    "measure": "gradient_norm",
                    "effect": _reversed(_of(finding)),
                    "scope": f"condition {said['quantity']}",
                }
            )
    return found


def _reversed(effect: Row) -> Row:
    """Return control minus treatment."""

    def negative(x: float | None) -> float | None:
        return None if x is None else -x

    flipped = {"estimate": negative(effect["estimate"]), "low": negative(effect["high"]), "high": negative(effect["low"])}
    return {**effect, **flipped}
