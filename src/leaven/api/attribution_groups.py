"""The columns of training and target rows + a table of influence -> mean influence by group, for `leaven attribute`.

Columns called domain, family, language, difficulty and group are labels; `by` names others ("family=subject"). Segments are
grouped by kind and behaviour, tokens by class, where the table goes so deep. All figures are those of a study's report
(analysis/influence.py); they lie in influence.json. Rows of one `group` are one unit of the interval.
Not covered: labels that must be worked out first (data/labels), seeds (a study has them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from leaven.analysis.influence import AttributionRun, influence_records, write_influence
from leaven.core.tables import EXAMPLES, read_table
from leaven.data.labels.scales import SCALES
from leaven.data.sources.rows import read_rows
from leaven.errors import DataError, StudyError, did_you_mean

LABELS = ("domain", "family", "language", "difficulty", "group")


def label_columns(by: Sequence[str]) -> dict[str, str]:
    """Return label -> column from "domain" and "family=subject".

    Raises:
        StudyError: no such label.
    """
    found = {}
    for text in by:
        label, _, column = text.partition("=")
        if label not in LABELS or (not column and "=" in text):
            known = f"{', '.join(LABELS)}, found {label!r}.{did_you_mean(label, LABELS)}"
            raise StudyError(f"--by {text}: expected LABEL or LABEL=COLUMN with a label of {known}")
        found[label] = column or label
    return found


def group_means(folder: Path, labels: pl.DataFrame, domains: Mapping[str, str], tokens: Path, model: Path) -> pl.DataFrame:
    """Write influence.json; return method, target, split, by, within, group, n, mean, low, high (nats per removed text, segment or
    token) and the same per learned token.

    Args:
        folder: holds influence.parquet and report.json.
        labels: of the training rows, from `row_labels`.
        domains: query -> domain; queries of one domain are one target.
        tokens: tokenised training rows.
        model: folder of the model, with its tokenizer.
    """
    source = str(labels["source"][0])
    run = AttributionRun(name="attribute", condition="", seed=0, folder=folder, tokens={source: tokens}, tokenizer=model)
    records = influence_records([run], labels, domains=domains)
    write_influence(folder / "influence.json", records)
    main = records["models"][0]["main"] if records else ""
    means = _table([r for r in records.get("means", ()) if r["method"] == main])
    return means.select(pl.lit(main).alias("method"), pl.all())


def row_labels(file: Path, rows: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    """Return source, example and labels of the examples of one file; columns that carry a label's name count unless another is named.

    Args:
        file: of rows.
        rows: folder of the examples made of them.
        columns: label -> column, of `label_columns`.

    Raises:
        DataError: a named column is in no row, or holds difficulties on no known scale.
    """
    examples = read_table(rows / "examples.parquet", EXAMPLES)["id"].to_list()
    wanted, kept, seen = {**{name: name for name in LABELS}, **columns}, set(examples), set()
    values: dict[str, dict[str, Any]] = {}
    for row in read_rows(file):
        example = f"{row.number:07d}"
        if example in kept:
            seen |= set(row.value)
            values[example] = {label: row.value.get(column) for label, column in wanted.items()}
    missing = [c for c in columns.values() if c not in seen]
    if missing:
        known = sorted(map(str, seen))
        raise DataError(f"--by: expected a column {missing[0]!r} in {file}, found {known}.{did_you_mean(missing[0], known)}")
    found = {label: [_text(values[e][label]) for e in examples] for label in LABELS if label != "difficulty"}
    levels = pl.Series("difficulty", [_level(values[e]["difficulty"]) for e in examples], pl.Float64)
    if "difficulty" in columns and not levels.count():
        known = "; ".join(f"{s.name} {s.described()}" for s in SCALES.values())
        shown = next((v["difficulty"] for v in values.values() if v["difficulty"] is not None), None)
        raise DataError(f"--by difficulty: expected levels of a known scale ({known}) in {file}, found {shown!r}; use family for words")
    whole = levels.cast(pl.Int32, strict=False) if (levels.drop_nulls() % 1 == 0).all() else levels
    frame = pl.DataFrame({"source": [file.stem] * len(examples), "example": examples, **found, "difficulty": whole})
    return frame.rename({"group": "cluster"})


def _text(value: Any) -> str:
    """Return a cell as a label."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _level(value: Any) -> float | None:
    """Return a cell as a difficulty on the first scale that knows it."""
    return next((n for n, _ in (s.read(value) for s in SCALES.values()) if n is not None), None)


def _table(means: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return one row per group: raw and per learned token beside each other."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in means:
        if record["length"] not in ("raw", "per_token"):
            continue
        key = tuple(str(record[k]) for k in ("target", "decomposition", "by", "within", "group"))
        per = "" if record["length"] == "raw" else " per token"
        row = rows.setdefault(key, {"target": key[0], "split": key[1], "by": key[2], "within": key[3], "group": key[4]})
        found = record["mean"]
        row |= {"n": found["n"]} if not per else {}
        row |= {f"mean{per}": found["estimate"], f"low{per}": found["low"], f"high{per}": found["high"]}
    figures = [f"{what}{per}" for per in ("", " per token") for what in ("mean", "low", "high")]
    schema = {c: pl.String for c in ("target", "split", "by", "within", "group")} | {"n": pl.Int64} | dict.fromkeys(figures, pl.Float64)
    return pl.DataFrame([{c: r.get(c) for c in schema} for r in rows.values()], schema=schema, orient="row")
