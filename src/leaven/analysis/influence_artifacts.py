"""The `attributions` part of the analysis step's spec and its inputs -> influence.json.

{"runs": [{name, condition, level, seed, input, tokens: {source: input}, tokenizer, node}], "labels": [{source, domain, input}],
"outcomes": [{name, condition, level, seed, input}], "validation": [{name, condition, level, input, node}], "domains": {query: domain},
"roles": {condition: role}, "paper", "model"}; an input that is absent is a step that failed and is left out.
Not covered: what is made of them (influence.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from leaven.analysis.influence import AttributionRun, Realised, Validation, influence_records, labels_of, weights_of, write_influence
from leaven.analysis.influence_inputs import OUTCOMES, WEIGHTS
from leaven.analysis.order_inputs import effects
from leaven.core.tables import EXAMPLES, ORDER, read_table
from leaven.core.tables import OUTCOMES as SAID
from leaven.core.types import Finding


def write_influence_of(
    spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, findings: Sequence[Finding], scores: pl.DataFrame
) -> None:
    """Write influence.json where the study has attributions that worked.

    Args:
        spec: of the analysis step.
        inputs: of the analysis step.
        out: its folder.
        findings: the contrasts among them.
        scores: SCORES of all conditions.
    """
    told = spec.get("attributions")
    if not told:
        return
    runs = [_run(r, inputs) for r in told["runs"] if r["input"] in inputs]
    frames = [_labels(e, inputs[e["input"]]) for e in told["labels"] if e["input"] in inputs]
    if not runs or not frames:
        return
    records = influence_records(
        runs,
        pl.concat(frames).unique(["source", "example"], maintain_order=True),
        domains=told["domains"],
        realised=_realised(spec, told, inputs),
        validation=[_validation(v, inputs) for v in told["validation"] if v["input"] in inputs],
        effects=effects(findings, told["roles"], spec.get("begins") or {}, scores),
        roles=told["roles"],
        paper=bool(told["paper"]),
        model=str(told["model"]),
    )
    write_influence(out / "influence.json", records)


def _labels(entry: Mapping[str, Any], folder: Path) -> pl.DataFrame:
    """Return the labels of a source; the domain that the study declares for it goes before the examples' own."""
    found = labels_of(read_table(folder / "examples.parquet", EXAMPLES), entry["source"])
    return found.with_columns(pl.lit(entry["domain"]).alias("domain")) if entry["domain"] else found


def _run(entry: Mapping[str, Any], inputs: Mapping[str, Path]) -> AttributionRun:
    return AttributionRun(
        name=entry["name"],
        condition=entry["condition"],
        level=entry["level"],
        seed=int(entry["seed"]),
        folder=inputs[entry["input"]],
        tokens={source: inputs[name] for source, name in entry["tokens"].items() if name in inputs},
        tokenizer=inputs.get(entry["tokenizer"]),
        node=entry["node"],
    )


def _validation(entry: Mapping[str, Any], inputs: Mapping[str, Path]) -> Validation:
    records = json.loads((inputs[entry["input"]] / "validation.json").read_text(encoding="utf-8"))
    cell = {k: entry[k] for k in ("name", "condition", "level", "node")}
    return Validation(**cell, records=records)


def _realised(spec: Mapping[str, Any], told: Mapping[str, Any], inputs: Mapping[str, Path]) -> Realised | None:
    """Return what every condition trained on and what its models say of the targets; None where no outcome was measured."""
    outcomes = [_outcomes(o, inputs[o["input"]]) for o in told["outcomes"] if o["input"] in inputs]
    if not outcomes:
        return None
    weights = [
        weights_of(read_table(inputs[o["input"]] / "order.parquet", ORDER), o["condition"], int(o["seed"]), _level(o["level"]))
        for o in spec.get("orders", ())
        if o["input"] in inputs
    ]
    keys = ["condition", "level", "seed"]
    last = pl.concat(weights).unique([*keys, "source", "example"], keep="last", maintain_order=True)
    said = pl.concat(outcomes).unique([*keys, "query", "item"], keep="first", maintain_order=True)
    return Realised(weights=last.select(list(WEIGHTS)), outcomes=said.select(list(OUTCOMES)))


def _outcomes(entry: Mapping[str, Any], folder: Path) -> pl.DataFrame:
    cell = {"condition": pl.lit(entry["condition"]), "level": pl.lit(_level(entry["level"])), "seed": pl.lit(int(entry["seed"]), pl.Int32)}
    return read_table(folder / "outcomes.parquet", SAID).with_columns(**cell)


def _level(level: Any) -> str:
    return level if isinstance(level, str) else json.dumps(level)
