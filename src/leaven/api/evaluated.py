"""What `leaven evaluate` brings back -> text for a terminal: scores, pass@k by temperature, difficulty, verdicts, what is missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from leaven.api.evaluating import Evaluation, Report
from leaven.api.shown import columns


@contextmanager
def notes(every_s: float = 10.0) -> Iterator[Report]:
    """Yield a progress callback that writes to stderr: one line rewritten in place on a terminal, else a line now and then."""
    terminal, last, shown = sys.stderr.isatty(), [0.0], [False]

    def note(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] < (0.2 if terminal else every_s) and done != total:
            return
        last[0], shown[0] = now, True
        text = f"{done} of {total} {what}" if total else f"{done} {what}"
        print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield note
    except KeyboardInterrupt:
        print("\ninterrupted: finished answers are kept, the same command goes on from there", file=sys.stderr)
        raise
    finally:
        if terminal and shown[0]:
            print(file=sys.stderr)


def evaluation_text(found: Evaluation) -> str:
    """Return the scores of an evaluation and where its rows are."""
    several = len({r["temperature"] for r in found.scores}) > 1
    head = (*(("temperature",) if several else ()), found.benchmark, "mean", "95 % interval", "items", "not measured")
    rows = [
        [
            *((f"{r['temperature']:g}",) if several else ()),
            r["metric"],
            _number(r["mean"]),
            _interval(r),
            str(r["n_items"]),
            str(r["not_measured"]),
        ]
        for r in found.scores
    ]
    parts = [columns(rows, head)]
    if len({r["k"] for r in found.table}) > 1 or several:
        parts.append(_grid(found.table))
    if found.by_difficulty:
        parts.append(_difficulties(found.by_difficulty, several))
    ended = ", ".join(f"{n} {status}" for status, n in sorted(found.by_status.items(), key=lambda pair: -pair[1]))
    parts.append("\n".join([f"verdicts: {ended}", *_remarks(found), f"rows: {found.out}"]))
    return "\n\n".join(parts)


def _remarks(found: Evaluation) -> list[str]:
    """Return lines on samples that are missing, unreadable or unmeasured."""
    lines = [f"not measured ({count}): {reason}" for reason, count in found.not_measured.items()]
    seen = {(r["temperature"], r["n"]): r for r in found.table}
    for row in seen.values():
        at = f" at temperature {row['temperature']:g}" if len(seen) > 1 else ""
        if row["missing"]:
            lines.append(f"missing{at}: {row['missing']} samples of {row['n']} per item, counted as failures")
        if row["no_answer"]:
            lines.append(f"no program or answer found{at}: {row['no_answer']:.1%} of samples, counted as failures")
        if row["tokens"]:
            lines.append(f"mean completion{at}: {row['tokens']:.1f} tokens")
    return lines


def _grid(table: Sequence[dict[str, Any]]) -> str:
    """Return pass@k with intervals, one row per temperature and number of samples, one column per k."""
    ks = sorted({r["k"] for r in table})
    cells = {(r["temperature"], r["n"], r["k"]): f"{_number(r['estimate'])} {_interval(r)}" for r in table}
    sets = list(dict.fromkeys((r["temperature"], r["n"]) for r in table))
    rows = [["" if t is None else f"{t:g}", str(n), *(cells.get((t, n, k), "") for k in ks)] for t, n in sets]
    return columns(rows, ("temperature", "n", *(f"pass@{k}" for k in ks)))


def _difficulties(rows: Sequence[dict[str, Any]], several: bool) -> str:
    """Return solved items by difficulty."""
    unit = rows[0]["unit"] or "difficulty"
    head = (*(("temperature",) if several else ()), unit, "solved", "items", "share")
    lines = [
        [
            *((f"{r['temperature']:g}",) if several else ()),
            str(r["difficulty"]),
            f"{r['solved']:g}" if r["solved"] == int(r["solved"]) else f"{r['solved']:.1f}",
            str(r["n_items"]),
            "" if r["share"] is None else f"{r['share']:.1%}",
        ]
        for r in rows
    ]
    return columns(lines, head)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3f}"


def _interval(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"[{_number(row['low'])}, {_number(row['high'])}]"
