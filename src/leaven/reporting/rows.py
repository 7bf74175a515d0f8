"""Report facts -> the rows that the template prints: numbers worded, marks drawn, every estimate numbered for its
provenance.

The template has no arithmetic and no formatting; both are here.
Not covered: the sample browser (samples.py), the page around the rows (template.html), prose (methods.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from leaven.core.types import Finding
from leaven.reporting.facts import ReportData, Score
from leaven.reporting.figures import difficulty_unit, median_curve
from leaven.reporting.marks import (
    contrast_label,
    contrast_measure,
    drawn_mark,
    is_binary,
    score_measure,
    series_label,
)
from leaven.reporting.sections.inputs import Measured
from leaven.reporting.sections.section import Source
from leaven.reporting.wording import (
    MISSING,
    amount,
    interval,
    level_text,
    number,
    p_value,
    plural,
    seeds_counted,
    seeds_text,
    value_text,
)

DECISIONS = {
    "favours": ("favours", "\u25b2 favours"),
    "opposes": ("opposes", "\u25bc opposes"),
    "no_difference": ("open", "= no difference"),
    "inconclusive": ("open", "? inconclusive"),
    "refused": ("open", "\u00d7 refused"),
}


class Provenance:
    """Numbers the estimates in reading order and links each to the runs it was computed from.

    Runs of one condition, level and benchmark stand together, so that a number over all seeds names them as one range.
    """

    def __init__(self, data: ReportData) -> None:
        self.rows: list[dict[str, Any]] = []
        cells = list(dict.fromkeys((r.condition, r.level, r.benchmark) for r in data.runs))
        ordered = sorted(data.runs, key=lambda r: cells.index((r.condition, r.level, r.benchmark)))
        self.runs = [
            {
                "name": f"R{i + 1}",
                "target": f"r{i + 1}",
                "condition": r.condition,
                "seed": r.seed,
                "level": level_text(r.level),
                "benchmark": r.benchmark,
                "node": r.node,
                "key": r.key,
                "model": r.model,
                "machines": ", ".join(str(m + 1) for m in r.machines),
            }
            for i, r in enumerate(ordered)
        ]
        self._numbers: dict[str, list[int]] = {}
        for i, run in enumerate(ordered, 1):
            for name in dict.fromkeys((run.id, run.node, run.key)):
                if name:
                    self._numbers.setdefault(name, []).append(i)
        self._known: dict[tuple[Any, ...], int] = {}

    def add(self, what: str, row: Finding | Score) -> int:
        """Record one estimate and return its number."""
        signed = isinstance(row, Finding)
        percent = is_binary(row) if isinstance(row, Finding) else row.binary
        return self._record(what, row, signed, percent, amount(row.n_items), amount(row.n_clusters))

    def add_source(self, source: Source) -> int:
        """Record one number of a section and return its number."""
        m = source.measured
        return self._record(source.what, m, source.signed, source.percent, amount(m.n) if m.n else MISSING, MISSING)

    def add_sources(self, sources: Sequence[Source]) -> int:
        """Record the numbers of one row of a section's table, which rest on the same runs, as one; return its number."""
        first = sources[0]
        rows = [(s.measured, amount(s.measured.n) if s.measured.n else MISSING) for s in sources]
        return self.add_together(_joined([s.what for s in sources]), rows, percent=first.percent, signed=first.signed)

    def add_together(self, what: str, rows: Sequence[tuple[Score | Measured, str]], *, percent: bool, signed: bool = False) -> int:
        """Record several numbers that rest on the same runs as one row; return its number."""
        how = {"sign": signed, "percent": percent}
        told = [f"{number(r.estimate, **how)} {interval(r.low, r.high, **how)}" for r, _ in rows]
        items = list(dict.fromkeys(n for _, n in rows))
        runs = tuple(dict.fromkeys(run for r, _ in rows for run in r.runs))
        self.rows.append(
            {
                "number": len(self.rows) + 1,
                "what": what,
                "estimate": "; ".join(told),
                "interval": "",
                "seeds": seeds_counted(x for r, _ in rows for x in r.seeds),
                "n_items": ", ".join(items),
                "n_clusters": MISSING,
                "runs": self._links(runs),
            }
        )
        return len(self.rows)

    def _record(
        self, what: str, row: Finding | Score | Measured, signed: bool, percent: bool, n_items: str, n_clusters: str
    ) -> int:
        shown = {
            "what": what,
            "estimate": number(row.estimate, sign=signed, percent=percent),
            "interval": interval(row.low, row.high, sign=signed, percent=percent),
            "seeds": seeds_counted(row.seeds),
            "n_items": n_items,
            "n_clusters": n_clusters,
        }
        exact = (row.estimate, row.low, row.high)
        told = "" if row.low is not None and row.high is not None and row.low < row.high else what
        key = (told, exact, shown["seeds"], n_items, tuple(row.runs))
        if key not in self._known:  # one number that stands in several tables is one row
            self.rows.append({"number": len(self.rows) + 1, **shown, "runs": self._links(row.runs)})
            self._known[key] = len(self.rows)
        return self._known[key]

    def _links(self, runs: Sequence[str]) -> list[dict[str, str]]:
        """Return the ranges of runs, "R1-R5" with an en dash, linked to their first; what is no run of this page stands as it is."""
        numbers = sorted({n for run in runs for n in self._numbers.get(run, ())})
        spans: list[list[int]] = []
        for n in numbers:
            if spans and n == spans[-1][1] + 1:
                spans[-1][1] = n
            else:
                spans.append([n, n])
        found = [{"name": f"R{a}" if a == b else f"R{a}\u2013R{b}", "target": f"r{a}"} for a, b in spans]
        found += [{"name": name, "target": ""} for name in _over_seeds([run for run in runs if run not in self._numbers])]
        return found or [{"name": MISSING, "target": ""}]


def _joined(names: Sequence[str]) -> str:
    """Return the names of several quantities in one line, what begins and ends all of them said once."""
    parts = [name.split(", ") for name in names]
    shortest = min(map(len, parts))
    first = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), shortest)
    last = next((i for i in range(shortest - first) if len({p[-1 - i] for p in parts}) > 1), shortest - first)
    middle = "; ".join(", ".join(p[first : len(p) - last]) for p in parts)
    return ", ".join([*parts[0][:first], middle, *parts[0][len(parts[0]) - last :]])


def _over_seeds(names: Sequence[str]) -> list[str]:
    """Return names that differ in their seed alone as one: "a/seed-{0-4}/probe" with an en dash."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for name in names:
        parts = re.split(r"(?<=seed-)(\d+)(?!\d)", name, maxsplit=1)
        groups.setdefault((parts[0], parts[-1]) if len(parts) == 3 else (name,), []).append(int(parts[1]) if len(parts) == 3 else 0)
    return [
        key[0] if len(key) == 1 else f"{key[0]}{seeds[0] if len(seeds) == 1 else '{' + seeds_text(seeds) + '}'}{key[1]}"
        for key, seeds in groups.items()
    ]


def contrast_row(contrast: Finding, data: ReportData, provenance: Provenance) -> dict[str, Any]:
    """Return one contrast in words: estimate, interval, adjusted p, what it rests on and its decision."""
    benchmark, metric = contrast_measure(contrast)
    kind, word = DECISIONS.get(contrast.decision, ("open", contrast.decision or MISSING))
    p = f"p = {p_value(contrast.p_holm)} (Holm)".replace("= <", "<") if contrast.p_holm is not None else ""
    percent = is_binary(contrast)
    measure = _measure(metric, benchmark, "points" if percent else "")
    return {
        "label": contrast_label(contrast),
        "name": str(contrast.data.get("name") or ""),
        "primary": data.is_primary(contrast),
        "difficulty": contrast.data.get("difficulty"),
        "measure": measure,
        "estimate": number(contrast.estimate, sign=True, percent=percent),
        "interval": interval(contrast.low, contrast.high, sign=True, percent=percent),
        "unit": "points" if percent else "",
        "p": p,
        "p_holm": p_value(contrast.p_holm),
        "mde": number(contrast.mde, percent=percent) if contrast.mde is not None else "",
        "seeds": seeds_counted(contrast.seeds),
        "n_items": amount(contrast.n_items),
        "decision_class": kind,
        "decision_word": word,
        "decision": f"By the declared rule: {word}." if contrast.decision else "",
        "number": provenance.add(f"{contrast_label(contrast)}, {measure}", contrast),
    }


def score_row(score: Score, data: ReportData, provenance: Provenance) -> dict[str, Any]:
    """Return one score in words: estimate, interval, each seed's mean and what it rests on."""
    benchmark, metric = score_measure(score)
    measure = _measure(metric, benchmark, "%" if score.binary else "")
    what = f"{series_label(score.condition, score.level)}, {measure}"
    what += "" if score.difficulty is None else f", difficulty {score.difficulty}"
    return {
        "condition": score.condition,
        "mark": drawn_mark(score.condition, data),
        "level": level_text(score.level),
        "measure": measure,
        "difficulty": score.difficulty,
        "seen": {True: "yes", False: "no", None: "some"}[score.seen],
        "estimate": number(score.estimate, percent=score.binary),
        "interval": interval(score.low, score.high, percent=score.binary),
        "seeds": seeds_counted(score.seeds),
        "per_seed": "  ".join(number(v, percent=score.binary) for v in score.per_seed) or MISSING,
        "n_items": amount(score.n_items),
        "n_missing": amount(score.n_missing),
        "number": provenance.add(what, score),
    }


def score_tables(data: ReportData, provenance: Provenance) -> list[dict[str, Any]]:
    """Return one table per measure, that of the primary contrast's items first; other parts of the items are folded."""
    leading = data.leading_scores()
    tables: dict[tuple[str, str], list[Score]] = {}
    for score in sorted((s for s in data.scores if s.difficulty is None), key=lambda s: s not in leading):
        tables.setdefault(score_measure(score), []).append(score)
    built: list[dict[str, Any]] = []
    for scores in tables.values():
        rows = [score_row(s, data, provenance) for s in scores]
        ident = f"scores-{len(built) + 1}" if built else "scores"
        built.append({"id": ident, "rows": rows, "measure": rows[0]["measure"], "open": scores[0] in leading})
    return built


def difficulty_tables(data: ReportData, provenance: Provenance) -> list[dict[str, Any]]:
    """Return one table per benchmark metric: a row per condition, a column per (difficulty, seen), cells with their
    intervals.
    """
    tables: dict[tuple[str, str], list[Score]] = {}
    for score in data.scores:
        if score.difficulty is not None:
            tables.setdefault((score.benchmark, score.metric), []).append(score)
    built = []
    for i, ((benchmark, metric), scores) in enumerate(tables.items()):
        columns = sorted({(s.difficulty or 0, s.seen is not False) for s in scores})
        items = {c: max(s.n_items for s in scores if (s.difficulty or 0, s.seen is not False) == c) for c in columns}
        rows = []
        for condition, level in dict.fromkeys((s.condition, s.level) for s in scores):
            own = {
                (s.difficulty or 0, s.seen is not False): s
                for s in scores
                if (s.condition, s.level) == (condition, level)
            }
            found = [own[c] for c in columns if c in own]
            binary = all(s.binary for s in found)
            what = f"{series_label(condition, level)}, {_measure(metric, benchmark, '%' if binary else '')}, by difficulty"
            cells = [
                {
                    "estimate": number(own[c].estimate, percent=own[c].binary),
                    "interval": interval(own[c].low, own[c].high, percent=own[c].binary),
                    "n_items": amount(own[c].n_items),
                    "fewer": own[c].n_items != items[c],
                }
                if c in own
                else None
                for c in columns
            ]
            rows.append(
                {
                    "number": provenance.add_together(what, [(s, amount(s.n_items)) for s in found], percent=binary),
                    "condition": condition,
                    "mark": drawn_mark(condition, data),
                    "level": level_text(level),
                    "cells": cells,
                    "seeds": seeds_counted(x for s in own.values() for x in s.seeds),
                }
            )
        unit = difficulty_unit(data, benchmark)
        built.append(
            {
                "id": "by-difficulty" if i == 0 else f"by-difficulty-{i + 1}",
                "rows": rows,
                "measure": _measure(metric, benchmark, "%" if all(s.binary for s in scores) else ""),
                "unit": f" ({unit})" if unit else "",
                "columns": [
                    {"difficulty": d, "seen": seen, "items": plural(items[(d, seen)], "item")} for d, seen in columns
                ],
            }
        )
    return built


def shared_measure(rows: list[dict[str, Any]]) -> str:
    """Return the measure that all rows have in common, so that it can stand in the caption; "" when they differ."""
    measures = {row["measure"] for row in rows}
    return measures.pop() if len(measures) == 1 else ""


def _measure(metric: str, benchmark: str, unit: str) -> str:
    words = metric.replace("_", " ") + (f" on {benchmark}" if benchmark else "")
    return f"{words}, {unit}" if unit and unit != metric else words


def no_primary(data: ReportData) -> str:
    """Return why the page opens without a primary number."""
    primary = data.primary_contrast()
    if primary is not None:
        return f"{contrast_label(primary)} could not be taken. {primary.sentence}".strip()
    if data.primary:
        return f"The primary contrast {data.primary} is not among the findings."
    return "This study declares no primary contrast."


def basis(data: ReportData) -> dict[str, str]:
    """Return how many seeds, items and clusters the result rests on, of the primary contrast where there is one."""
    primary = data.primary_contrast()
    primary = primary if primary is not None and primary.estimate is not None else None
    overall = [s for s in data.scores if s.difficulty is None and not s.scope]
    seeds = primary.seeds if primary else tuple(sorted({x for s in overall for x in s.seeds})) or data.seeds
    items = primary.n_items if primary else max((s.n_items for s in overall), default=0)
    clusters = primary.n_clusters if primary else max((s.n_clusters for s in overall), default=0)
    detail = f"Seeds {seeds_text(seeds)}" if seeds else "No seed has finished"
    detail += (
        f"; {plural(clusters, 'cluster')} of items"
        if clusters and clusters != items
        else "; items are distinct"
        if items
        else ""
    )
    return {"main": f"{plural(len(seeds), 'seed')} \u00d7 {plural(items, 'item')}", "detail": detail}


def compared(data: ReportData) -> list[dict[str, str]]:
    """Return what the primary contrast's two conditions are: the study's description, else the settings that differ."""
    primary = next((c for c in data.contrasts if data.is_primary(c)), None)
    described = {c.name: c.description for c in data.conditions}
    rows = []
    for name in (primary.data.get("treatment"), primary.data.get("control")) if primary else ():
        settings = [f"{path} = {value_text(values[name])}" for path, values in data.differences if name in values]
        more = f" and {plural(len(settings) - 2, 'more setting')}" if len(settings) > 2 else ""
        means = described.get(name) or ", ".join(settings[:2]) + more
        rows.append({"name": str(name), "means": means})
    return [row for row in rows if row["means"]]


def warning_list(data: ReportData) -> list[str]:
    """Return the study's warnings, then those of findings with the findings they concern, then machines that differ
    in a contrast.
    """
    where: dict[str, list[str]] = {}
    for finding in (*data.contrasts, *data.notes):
        for warning in finding.warnings:
            where.setdefault(warning, []).append("" if finding.kind == "note" else contrast_label(finding))
    for contrast in data.contrasts:
        machines = {m for r in data.runs if {r.node, r.id, r.key} & set(contrast.runs) for m in r.machines}
        if len(machines) > 1 and contrast.data.get("difficulty") is None:
            found = f"mixed fingerprints: computed on {len(machines)} different machines or package versions"
            where.setdefault(f"{found}, listed at the end", []).append(contrast_label(contrast))
    return list(dict.fromkeys((*data.warnings, *(_said_of(w, names) for w, names in where.items()))))


def _said_of(warning: str, names: list[str]) -> str:
    """Return a warning with up to two of the findings that carry it."""
    names = list(dict.fromkeys(n for n in names if n))
    if not names:
        return warning[:1].upper() + warning[1:]
    more = f" and {plural(len(names) - 2, 'more')}".removesuffix("s") if len(names) > 2 else ""
    return f"{', '.join(names[:2])}{more}: {warning}"


def has_levels(data: ReportData) -> bool:
    """Return whether the study varies something, so that tables need a column for it."""
    return any(level_text(row.level) for rows in (data.scores, data.curves, data.mixtures, data.runs) for row in rows)


def loss_rows(data: ReportData) -> list[dict[str, Any]]:
    """Return the training loss in nats per learned token: one row per stage, level and condition, over its seeds."""
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for curve in data.curves:
        if curve.points:
            groups.setdefault((curve.stage, curve.level, curve.condition), []).append(curve)
    rows = []
    for (stage, level, condition), curves in groups.items():
        points = median_curve(curves) or curves[0].points
        last = [c.points[-1][1] for c in curves]
        rows.append(
            {
                "condition": condition,
                "mark": drawn_mark(condition, data),
                "level": level_text(level),
                "stage": stage or MISSING,
                "steps": amount(points[-1][0]),
                "first": number(points[0][1]),
                "half": number(points[len(points) // 2][1]),
                "last": number(points[-1][1]),
                "range": f"{number(min(last))} to {number(max(last))}",
                "seeds": seeds_counted(c.seed for c in curves),
            }
        )
    return rows


def mixture_table(data: ReportData) -> dict[str, Any]:
    """Return the mixture table: a row per (stage, condition, level), a column per source."""
    sources = list(dict.fromkeys(m.source for m in data.mixtures))
    cells: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for m in data.mixtures:
        cells.setdefault((m.stage, m.condition, m.level, m.unit), {})[m.source] = m
    rows = []
    for (stage, condition, level, unit), own in cells.items():
        total = sum(m.realised for m in own.values()) or 1.0
        rows.append(
            {
                "condition": condition,
                "mark": drawn_mark(condition, data),
                "level": level_text(level),
                "stage": stage,
                "unit": unit.replace("_", " "),
                "worst": amount(max(m.worst_block for m in own.values())),
                "seeds": seeds_counted(x for m in own.values() for x in m.seeds),
                "cells": [
                    {
                        "realised": amount(own[s].realised),
                        "planned": amount(own[s].planned),
                        "share": f"{100 * own[s].realised / total:.1f} %",
                    }
                    if s in own
                    else None
                    for s in sources
                ],
            }
        )
    units = {row["unit"] for row in rows}
    return {"sources": sources, "rows": rows, "unit": units.pop() if len(units) == 1 else ""}


def amounts_table(data: ReportData) -> list[dict[str, Any]]:
    """Return how much each condition trained: a row per (stage, condition, level), in the order of the conditions."""
    note = next((f for f in data.notes if f.id == "note/amounts"), None)
    names = [c.name for c in data.conditions]
    rows = sorted(
        note.data.get("rows", ()) if note else (),
        key=lambda r: names.index(r["condition"]) if r["condition"] in names else 99,
    )
    return [
        {
            "condition": row["condition"],
            "mark": drawn_mark(row["condition"], data),
            "level": level_text(row["level"]),
            "stage": row["stage"],
            "amounts": [f"{row[unit]:,}" for unit in ("steps", "examples", "tokens", "learned_tokens")],
            "seeds": seeds_counted(row["seeds"]),
        }
        for row in rows
    ]


def fact_text(value: Any) -> str:
    """Return a fact of a machine; a mapping as "name value" pairs."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {value_text(v)}" for k, v in sorted(value.items()) if v not in (None, ""))
    return value_text(value)


def licence_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a source's licence, origin and rows; en dashes where it was not read from a file (a world has no rows)."""
    count, read, kept = row.get("n_examples"), row.get("rows_read"), row.get("rows_kept")
    return {
        "source": str(row.get("source", "")),
        "licence": str(row.get("licence") or "not stated"),
        "n_examples": amount(count) if isinstance(count, (int, float)) else MISSING,
        "rows_read": amount(read),
        "rows_kept": amount(kept),
        "rows_refused": amount(None if read is None or kept is None else read - kept),
        "origin": str(row.get("origin") or MISSING),
    }
