"""What verbs bring back -> text for a terminal: results, plans, status, checks. Plain ASCII tables, no colour, 100 columns."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leaven.engine.progress import seconds_text

if TYPE_CHECKING:
    import polars as pl

    from leaven.api.attributing import Attribution
    from leaven.api.doctor import Check
    from leaven.api.executing import Executed
    from leaven.api.planning import PlanReport
    from leaven.api.running import RunResult
    from leaven.data.tokenise import Rendered
    from leaven.engine.collect import Garbage

MAX_SHOWN = 40


def columns(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return rows as aligned columns; numbers are right-aligned."""
    table = [list(head), *map(list, rows)] if head else [list(r) for r in rows]
    if not table:
        return ""
    widths = [max(len(r[i]) for r in table) for i in range(len(table[0]))]
    right = [all(_is_number(r[i]) for r in rows if r[i]) and any(r[i] for r in rows) for i in range(len(widths))]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in table
    ]
    if head:
        lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    """Return whether a cell is a number with an optional unit sign."""
    return text.strip("+-%. 0123456789e,[]") == ""


def big(number: float) -> str:
    """Return a count as people read it: 950, 12.3k, 4.56M, 7.8e12."""
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M"), (1e12, "G")):
        if abs(number) < limit:
            scaled = number / (limit / 1e3)
            return f"{number:.0f}" if not unit else f"{scaled:.3g}{unit}"
    return f"{number:.2e}"


def size(count: float) -> str:
    """Return bytes as MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def result_text(result: RunResult) -> str:
    """Return the answer in one sentence, the score table with intervals, and the report's path."""
    lines: list[str] = []
    if result.answer:
        lines += ["", result.answer, ""]
        scores = [f for f in result.findings if f["kind"] == "score" and not _is_slice(f)]
        rows = [
            [
                f["data"].get("condition", f["title"]),
                f["data"].get("benchmark", ""),
                f["data"].get("metric", ""),
                _number(f["estimate"]),
                f"[{_number(f['low'])}, {_number(f['high'])}]",
                str(f["n_items"]),
                str(len(f["seeds"])),
            ]
            for f in scores[:MAX_SHOWN]
        ]
        lines += [columns(rows, ("condition", "benchmark", "metric", "mean", "95 % interval", "items", "seeds")), ""]
    lines += result.notes
    if result.report:
        lines.append(f"report: {result.report}")
    for name, failure in result.failed.items():
        lines.append(f"FAILED {name}: {failure.reason}" + (f"\n       log: {failure.log}" if failure.log else ""))
    if result.outcome.skipped:
        lines.append(f"{len(result.outcome.skipped)} steps wait for the failed ones")
    if result.exit_code == 130:
        lines.append("interrupted; finished work is kept")
    if result.exit_code and (result.failed or result.exit_code == 130):
        resume = next((f.resume for f in result.failed.values() if f.resume), "the same command")
        lines.append(f"to go on: {resume}")
    return "\n".join(lines)


def _is_slice(finding: Mapping[str, Any]) -> bool:
    """Return whether a score finding covers only some items (a difficulty, seen items) or one seed."""
    data = finding["data"]
    return any(data.get(k) is not None for k in ("difficulty", "seen", "seed"))


def _number(value: float | None) -> str:
    """Return a score with three decimals, "" when absent."""
    return "" if value is None else f"{value:.3f}"


def plan_text(report: PlanReport) -> str:
    """Return a plan: differences, steps by kind, training costs, what is missing."""
    study = report.plan.loaded.study
    lines = [
        f"study {study.study}: {len(study.conditions)} conditions x {len(study.seeds)} seeds"
        + (f" x {len(report.plan.runs) // len(study.conditions) // len(study.seeds)} levels" if study.vary else ""),
        "",
        "What differs between conditions (computed):",
    ]
    lines += [
        columns(
            [[d["path"], *[json.dumps(v) for v in d["values"].values()]] for d in report.differences],
            ("", *study.conditions),
        )
        if report.differences
        else "  nothing: every condition is the same",
        "",
    ]
    counts: Counter[tuple[str, str]] = Counter((f.node.function.partition(":")[2], f.state) for f in report.forecasts)
    functions = list(dict.fromkeys(f.node.function.partition(":")[2] for f in report.forecasts))
    rows = [
        [
            name,
            str(sum(n for (k, _), n in counts.items() if k == name)),
            str(counts[name, "cached"]),
            _reasons(report, name),
        ]
        for name in functions
    ]
    lines += [columns(rows, ("step", "count", "cached", "why not")), ""]
    lines += [_costs_text(report)]
    lines += ["", *report.notes] if report.notes else []
    if report.plan.missing:
        lines += [
            "",
            "Files that are not here (token counts are upper bounds, nothing was built):",
            *[f"  {m}" for m in report.plan.missing],
        ]
    if report.outcome and report.outcome.failed:
        lines += ["", *[f"FAILED {name}: {failure.reason}" for name, failure in report.outcome.failed.items()]]
    for where, shown in report.previews:
        lines += ["", rendered_text(where, shown)]
    return "\n".join(lines)


def _reasons(report: PlanReport, function: str) -> str:
    """Return the most frequent reason why steps of a function are not cached."""
    reasons = Counter(
        "reads a step that runs first" if f.state == "depends" else f.reason
        for f in report.forecasts
        if f.node.function.endswith(f":{function}") and f.state != "cached"
    )
    return "; ".join(r if len(r) < 90 else r[:87] + "..." for r, _ in reasons.most_common(2))


def _costs_text(report: PlanReport) -> str:
    """Return the training cost table with a total of what is still to be trained."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for cost in report.costs:
        name = "/".join(p for p in cost.node.split("/") if not p.startswith("seed-"))
        groups.setdefault((name,), []).append(cost)
    rows = []
    for (name,), costs in groups.items():
        c = costs[0]
        exact = "" if all(x.exact for x in costs) else "<= "
        rows.append(
            [
                name,
                str(len(costs)),
                str(sum(x.state == "cached" for x in costs)),
                big(c.parameters),
                exact + str(c.steps),
                exact + big(c.tokens),
                exact + big(c.learned_tokens),
                exact + big(c.flops),
                size(c.memory_bytes),
                size(c.disk_bytes),
                seconds_text(3600 * c.hours),
            ]
        )
    left = [c for c in report.costs if c.state != "cached"]
    total = (
        f"still to train: {len(left)} models, {big(sum(c.flops for c in left))} FLOPs, {size(sum(c.disk_bytes for c in left))} on disk, "
        f"{seconds_text(3600 * sum(c.hours for c in left))} of one worker"
    )
    head = (
        "training (per run)",
        "runs",
        "cached",
        "parameters",
        "steps",
        "tokens",
        "learned",
        "FLOPs",
        "memory",
        "disk",
        "time",
    )
    return columns(rows, head) + "\n" + total


def abridged(text: str, head: int = 900, tail: int = 300) -> str:
    """Return a text, or its beginning and end when it is long."""
    left_out = len(text) - head - tail
    return text if left_out <= 80 else f"{text[:head]} [... {left_out} characters ...] {text[-tail:]}"


def rendered_text(where: str, shown: Rendered) -> str:
    """Return one rendered example: learned text between << and >>, cut text between [[cut and ]]."""
    text = ""
    for piece in shown.pieces:
        part = f"<<{abridged(piece.text)}>>" if piece.learned else abridged(piece.text)
        text += f"[[cut {part}]]" if piece.cut else part
    head = f"--- {where} ({shown.format}): {shown.n_tokens} tokens, {shown.n_learned_tokens} learned (<<...>>)"
    return f"{head}\n{text.replace('>><<', '')}"


def plan_json(report: PlanReport) -> str:
    """Return a plan as JSON."""
    steps = [
        {"step": f.node.id, "function": f.node.function, "state": f.state, "key": f.key, "reason": f.reason}
        for f in report.forecasts
    ]
    return json.dumps(
        {
            "steps": steps,
            "training": [dataclasses.asdict(c) for c in report.costs],
            "differences": report.differences,
            "missing": report.plan.missing,
        },
        indent=1,
    )


def status_text(found: Mapping[str, Any]) -> str:
    """Return a run's state: counts, then every step that is not simply done."""
    nodes: Mapping[str, Mapping[str, Any]] = found["nodes"]
    counts = Counter(row["state"] for row in nodes.values())
    eta = f", about {seconds_text(found['eta_s'])} left" if found.get("eta_s") else ""
    lines = [f"{found['state']}: " + ", ".join(f"{n} {state}" for state, n in counts.most_common()) + eta]
    shown = [(name, row) for name, row in nodes.items() if row["state"] not in ("done", "cached")]
    order = {"failed": 0, "running": 1, "interrupted": 2, "blocked": 3, "waiting": 4}
    shown.sort(key=lambda pair: order.get(pair[1]["state"], 9))
    lines += [
        f"  {row['state']:<12}{name}" + (f": {row['reason']}" if row.get("reason") else "")
        for name, row in shown[:MAX_SHOWN]
    ]
    if len(shown) > MAX_SHOWN:
        lines.append(f"  and {len(shown) - MAX_SHOWN} more")
    if found["state"] not in ("done", "running") and found.get("resume"):
        lines.append(f"to go on: {found['resume']}")
    return "\n".join(lines)


def table_text(frame: pl.DataFrame) -> str:
    """Return a data frame as aligned text: all rows, three significant decimals, lists as their length, empty columns left out."""
    kept = [
        c
        for c in frame.columns
        if frame[c].null_count() < frame.height and not (c == "level" and set(frame[c]) == {"{}"})
    ]
    return columns([[_cell(v) for v in row] for row in frame.select(kept).iter_rows()], kept)


def _cell(value: Any) -> str:
    """Return one value of a table as text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"
    if isinstance(value, list):
        return str(len(value))
    return " ".join(str(value).split())


def attribution_text(found: Attribution, n: int) -> str:
    """Return the `n` most helpful rows of every target, mean influence by group, and where all of it is."""
    parts = [f"most helpful rows (nats of the target lost without them)\n{table_text(found.top(n))}"]
    if found.groups is not None and found.groups.height:
        targets = found.groups["target"].n_unique() > 1
        rows = [
            [
                *((r["target"],) if targets else ()),
                f"{r['by']} of {r['within']}" if r["within"] else r["by"],
                r["group"] + (f" ({r['split']})" if r["split"] else ""),
                str(r["n"]),
                *(_mean_text(r, per) for per in ("", " per token")),
            ]
            for r in found.groups.iter_rows(named=True)
        ]
        head = (*(("target",) if targets else ()), "by", "group", "n", "mean influence", "per learned token")
        more = f"\nand {len(rows) - MAX_SHOWN} more" if len(rows) > MAX_SHOWN else ""
        method = found.groups["method"][0]
        title = f"mean influence of groups by {method}, 95 % interval over rows (this one model)"
        parts.append(f"{title}\n{columns(rows[:MAX_SHOWN], head)}{more}")
    places = [f"table: {found.table}"] + ([f"groups: {found.folder / 'influence.json'}"] if found.groups is not None else [])
    return "\n\n".join([*parts, "\n".join([*places, *([f"strips: {found.page}"] if found.page else [])])])


def _mean_text(row: Mapping[str, Any], per: str) -> str:
    """Return a mean with its interval, "" where there is none."""
    mean, low, high = (row[f"{what}{per}"] for what in ("mean", "low", "high"))
    if mean is None:
        return ""
    return f"{mean:+.3g}" if low is None else f"{mean:+.3g} [{low:+.3g}, {high:+.3g}]"


def executed_text(found: Executed) -> str:
    """Return how programs ended and where their verdicts are."""
    rows = [[name, str(count)] for name, count in found.by_verdict.items()]
    return f"{columns(rows, ('verdict', 'programs'))}\n{found.judged} judged now, {found.found} known before\nverdicts: {found.out}"


def checks_text(checks: Sequence[Check]) -> str:
    """Return the doctor's list."""
    return columns(
        [["ok" if c.ok else "--", c.name, c.found, c.enables] for c in checks], ("", "what", "found", "enables")
    )


def checks_json(checks: Sequence[Check]) -> str:
    """Return the doctor's list as JSON."""
    return json.dumps([dataclasses.asdict(c) for c in checks], indent=1)


def garbage_text(found: Garbage, deleted: bool) -> str:
    """Return what a collection freed or would free."""
    verb = "freed" if deleted else "would free"
    return (
        f"{verb} {len(found.artifacts)} artifacts and {len(found.work)} abandoned work folders, {size(found.size_bytes)}"
        + ("" if deleted else " (--delete does it)")
    )
