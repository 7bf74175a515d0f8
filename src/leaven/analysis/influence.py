"""Artifacts of `attribute` over seeds + labels + what interventions did -> influence.json, the records behind the report's
sections on influence.

For callers, in short:

    run = AttributionRun(name="main", condition="base", level="{}", seed=0, folder=..., tokens={...}, tokenizer=..., node=...)
    records = influence_records(runs, labels, domains=..., realised=Realised(...), validation=[...], effects=..., roles=...)
    write_influence(out / "influence.json", records)

- `runs`: one per (attribution name, condition, level, seed). `folder` holds influence.parquet and report.json. `tokens` are
  the tokenise artifacts of the training texts under the names of their sources and `tokenizer` the folder of the model's
  tokenizer; without them there are no token classes, behaviours, top tokens or strips. Runs of one (name, condition, level)
  are seeds of one cell: every number of the cell has an interval over seeds and examples, both random (influence_means.py).
- `labels`: LABELS rows (core/tables.py), or any frame with source and example and some of domain, family, difficulty,
  language, symbolic, cluster; `labels_of` makes it from examples. `cluster` joins examples that are not independent.
- `domains`: query name (and benchmark name) -> domain ("math", "code"); queries of one domain are averaged to one target.
  A query without a domain is its own target.
- `realised`: the two tables of `Realised`: example weights of every condition, and what its models say of the targets.
- `validation`: one `Validation` per (name, condition, level), its records as attribution/validate.py writes them.
- `effects`: measured contrasts of accuracy, as order_inputs.effects gives them, with `roles` (condition -> what it plays in
  the paper: original, flip, flip_math, flip_code, random_swap, truncated, random_deletion) as their treatment and control.

Tables that hold only each query's highest and lowest texts (`keep` above 0) give examples and strips and no means: a text
that is left out is not a text without influence.
Not covered: computing influence and retraining (attribution/), drawing (reporting/sections/influence*.py).
Papers: Kou et al. 2025, figures 2-11; validation as Ilyas et al. 2022 and Park et al. 2023 (linear datamodelling score).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from leaven.analysis.findings import plain_json
from leaven.analysis.influence_compare import (
    agreements,
    leading_method,
    length_confound,
    predicted_changes,
    prediction_quality,
    validation_rows,
)
from leaven.analysis.influence_groups import (
    LENGTHS,
    Labelled,
    compositions,
    difficulty_slopes,
    domain_difference,
    domain_sums,
    group_means,
    labelled,
    record_of,
)
from leaven.analysis.influence_inputs import OUTCOMES, WEIGHTS, AttributionRun, Realised, Validation, labels_of, weights_of
from leaven.analysis.influence_means import mean
from leaven.analysis.influence_tables import Cell, Scores, cells_of, scores_of
from leaven.analysis.influence_tokens import class_means, effect_record, segment_means, strips, top_tokens, with_texts

__all__ = [
    "OUTCOMES",
    "WEIGHTS",
    "AttributionRun",
    "Realised",
    "Validation",
    "influence_records",
    "labels_of",
    "weights_of",
    "write_influence",
]

Row = dict[str, Any]
TEXT_CELLS = 1
"""Cells (conditions or levels) whose texts are shown token by token; the numbers of all are kept, their texts in strips.html."""


def influence_records(
    runs: Sequence[AttributionRun],
    labels: pl.DataFrame,
    *,
    domains: Mapping[str, str] | None = None,
    realised: Realised | None = None,
    validation: Sequence[Validation] = (),
    effects: Sequence[Mapping[str, Any]] = (),
    roles: Mapping[str, str] | None = None,
    paper: bool = False,
    model: str = "",
) -> dict[str, Any]:
    """Return the records of reporting/sections/influence_inputs.py; {} when no run has a table.

    Args: see this module's docstring; `paper` asks for the comparison with Kou et al. 2025, `model` names what was trained.

    Raises:
        DataError: labels of other data, two runs of one seed, or a table that is none.
    """
    domains = dict(domains or {})
    cells = cells_of(runs)
    if not cells:
        return {}
    told = validation_rows(validation)
    found: dict[str, list[Row]] = {k: [] for k in ("models", "means", "slopes", "shares", "tokens", "strips", "changes")}
    found |= {k: [] for k in ("length", "agreement", "effects")}
    for number, cell in enumerate(cells):
        scores = scores_of(cell, "instance", domains)
        main = leading_method(cell, scores, told)
        found["models"].append(_model(cell, scores, main))
        if realised is not None:
            found["changes"] += predicted_changes(cell, scores, realised, domains)
        _of_texts(cell, scores, labels, main, found)
        _of_segments(cell, labels, domains, found)
        _of_tokens(cell, labels, domains, found, shown=number < TEXT_CELLS)
    return {
        **found,
        "validation": told,
        "quality": prediction_quality(found["changes"]),
        "accuracies": [dict(e) for e in effects],
        "roles": dict(roles or {}),
        "domains": domains,
        "paper": paper,
        "model": model,
    }


def write_influence(path: Path, records: Mapping[str, Any]) -> None:
    """Write the records as JSON with one final newline; nothing for no records."""
    if records:
        text = json.dumps(plain_json(records), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def _model(cell: Cell, scores: Sequence[Scores], main: str) -> Row:
    """Return what one cell's attribution is."""
    report = cell.reports[0]
    complete = [s.method for s in scores if s.complete]
    return {
        **cell.about(),
        "seeds": cell.seeds,
        "methods": list(dict.fromkeys(s.method for s in scores)),
        "main": main,
        "targets": {s.target: s.n_queries for s in scores},
        "n_texts": max((s.units.height for s in scores), default=0),
        "n_lost": max((s.n_lost for s in scores), default=0),
        "n_parameters": int(report.get("n_parameters") or 0),
        "n_modules": len(report.get("modules") or ()),
        "complete": bool(complete),
        "runs": cell.nodes,
    }


def _of_texts(cell: Cell, scores: Sequence[Scores], labels: pl.DataFrame, main: str, found: dict[str, list[Row]]) -> None:
    """Add what whole texts show: means, slopes, composition, length, agreement, and the effects that claims speak of."""
    texts: dict[tuple[str, str], Labelled] = {}
    for s in scores:
        if not s.complete:
            continue
        of = texts.setdefault((s.method, s.target), labelled(s.units, labels))
        leads = s.method == main
        found["means"] += group_means(cell, s, of, leads)
        found["length"].append(length_confound(cell, s))
        if leads:
            slopes = difficulty_slopes(cell, s, of)
            found["slopes"] += slopes
            found["shares"] += compositions(cell, s, of)
            found["effects"] += [effect_record(r, f"{r['by']}_slope:{r['within']}") for r in slopes]
            found["effects"] += _domain_effects(cell, s, of)
    found["agreement"] += agreements(cell, scores)


def _domain_effects(cell: Cell, scores: Scores, texts: Labelled) -> list[Row]:
    """Return own domain minus the others, and every domain's mean, as effects."""
    found = []
    for length in LENGTHS:
        est = domain_difference(scores, texts, length)
        if est is not None:
            row = record_of(cell, scores, est, by="domain", within="", group="own - other", length=length)
            found.append(effect_record(row, "own_domain"))
        for domain, sums in domain_sums(scores, texts, length).items():
            row = record_of(cell, scores, mean(sums), by="domain", within="", group=domain, length=length)
            found.append(effect_record(row, f"mean:{domain}"))
    return found


def _of_segments(cell: Cell, labels: pl.DataFrame, domains: Mapping[str, str], found: dict[str, list[Row]]) -> None:
    """Add what segments show."""
    for s in scores_of(cell, "segment", domains):
        if s.complete:
            means, effects = segment_means(cell, s, labels)
            found["means"] += means
            if s.decomposition != "leave_out":
                names = {"exploratory": "exploration", "exploratory - other": "exploration_difference"}
                found["effects"] += [effect_record(r, names[r["group"]]) for r in effects]


def _of_tokens(cell: Cell, labels: pl.DataFrame, domains: Mapping[str, str], found: dict[str, list[Row]], *, shown: bool) -> None:
    """Add what tokens show; strips need no complete table."""
    every = scores_of(cell, "token", domains)
    first = every[0].decomposition if every else ""
    for s in every:
        known = with_texts(s, cell.runs[0])
        if known is None:
            continue
        if s.complete:
            means, effects = class_means(cell, *known, labels)
            found["means"] += means
            found["effects"] += [effect_record(r, r["group"].split(" ")[0] + "_tokens") for r in effects if s.decomposition == first]
        if s.decomposition == first:
            if s.complete:
                found["tokens"] += top_tokens(cell, *known, labels)
            if shown:
                found["strips"] += strips(cell, *known, labels)
