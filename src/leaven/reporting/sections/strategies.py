"""Scores and costs of each strategy -> the strategy table: conditions x benchmarks, what they cost, by difficulty.

The first table has the shape of the paper's (a row per strategy, a column per benchmark). The second says what the
same conditions cost: tokens trained, tokens written per answer, and answers from which nothing could be extracted,
which are failures that are not wrong programs.
Not covered: contrasts between conditions, which stand in the result; the comparison with the paper (paper.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from leaven.reporting.marks import Figure, measure_words
from leaven.reporting.panels import Frame, Panel, Series, draw_panels
from leaven.reporting.sections.inputs import OrderInputs, StrategyResult
from leaven.reporting.sections.section import (
    Cell,
    Column,
    Section,
    Styles,
    Table,
    measured_cell,
    measured_record,
    shared_basis,
    tokens,
    with_rest,
)
from leaven.reporting.svg import Canvas
from leaven.reporting.wording import level_text, number, plural

STRATEGY_WORDS = {
    "seed": "original response",
    "code_only": "code alone",
    "thought_code": "thought then code",
    "code_thought": "code then thought",
    "mixed": "both orders",
    "filler_code": "filler then code",
}
CHANGES = {
    "no_signature": "signatures removed",
    "no_comments": "comments removed",
    "no_docstrings": "docstrings removed",
    "renamed": "identifiers renamed",
    "inconsistent": "code that fails its tests",
    "noise": "noise added",
}

Row = tuple[str, str, str]
"""A row of the tables: (condition, level, order it was prompted in)."""


def strategy_words(strategy: str) -> str:
    """Return a strategy in words: "code_thought+renamed" -> "code then thought; identifiers renamed"."""
    base, *changes = strategy.split("+")
    if not base:
        return ""
    return "; ".join((STRATEGY_WORDS.get(base, base), *(CHANGES.get(c, c) for c in changes)))


def strategy_section(inputs: OrderInputs) -> Section | None:
    """Return the strategy section, or None unless conditions that play at least two strategies have results."""
    played = {inputs.strategies.get(r.condition, "") for r in inputs.results} - {""}
    if len(played) < 2:
        return None
    styles = Styles(inputs.strategies)
    overall = [r for r in inputs.results if r.difficulty is None]
    rows = _rows(overall or inputs.results, styles)
    tables = [t for t in (_scores(overall, rows, inputs, styles), _costs(overall, rows, inputs, styles)) if t]
    tables += _difficulties(inputs, styles)
    figure = _cost_figure(overall, styles)
    return Section(
        id="strategies",
        title="Strategies",
        short="Strategies",
        paragraphs=(
            "What each condition trains on, how it scores and what it costs. An interval describes one condition; whether two "
            "differ is said by the contrasts above.",
        ),
        figures=(figure,) if figure else (),
        tables=tuple(tables),
    )


def _split(results: Sequence[StrategyResult]) -> bool:
    """Return whether some benchmark was answered in several orders, so that rows and not columns tell them apart."""
    orders: dict[str, set[str]] = {}
    for r in results:
        orders.setdefault(r.benchmark, set()).add(r.prompted)
    return any(len(found) > 1 for found in orders.values())


def _row(r: StrategyResult, split: bool) -> Row:
    return r.condition, r.level, r.prompted if split else ""


def _rows(results: Sequence[StrategyResult], styles: Styles) -> list[Row]:
    split = _split(results)
    found = dict.fromkeys(_row(r, split) for r in results)
    order = styles.sorted(c for c, _, _ in found)
    return sorted(found, key=lambda row: order.index(row[0]))


def _head(row: Row, inputs: OrderInputs, styles: Styles) -> Cell:
    condition, level, prompted = row
    words = strategy_words(inputs.strategies.get(condition, ""))
    return styles.cell(condition, words, level_text(level), _prompted(prompted))


def _prompted(order: str) -> str:
    return f"answers begin with {order}" if order else ""


def _measure(result: StrategyResult) -> tuple[str, str]:
    return result.benchmark, result.metric


def _scores(results: Sequence[StrategyResult], rows: list[Row], inputs: OrderInputs, styles: Styles) -> Table | None:
    if not results:
        return None
    split = _split(results)
    measures = list(dict.fromkeys(map(_measure, results)))
    own = {(*_row(r, split), *_measure(r)): r for r in results}
    shared = {m: shared_basis(r.score for r in results if _measure(r) == m) for m in measures}
    same = shared[measures[0]] if len(set(shared.values())) == 1 else ""
    columns = [Column(name="Condition")]
    for m in measures:
        rows_of = [r for r in results if _measure(r) == m]
        unit = m[1].replace("_", " ") + (", %" if all(r.binary for r in rows_of) else "")
        order = "" if split else _prompted(rows_of[0].prompted)
        columns.append(Column(name=m[0], numeric=True, tags=tuple(t for t in (unit, order, "" if same else shared[m]) if t)))
    cells = []
    for row in rows:
        line = [_head(row, inputs, styles)]
        for m in measures:
            r = own.get((*row, *m))
            what = f"{row[0]}, {measure_words(m[1], m[0])}" + (", %" if r and r.binary else "")
            line.append(measured_cell(r.score, percent=r.binary, shared=shared[m], what=what) if r else Cell())
        cells.append(tuple(line))
    return Table(
        id="strategy-scores",
        caption=with_rest("Score of each strategy with its 95 % interval", same),
        columns=tuple(columns),
        rows=tuple(cells),
        records=tuple(_record(r, inputs) for r in inputs.results),
    )


def _record(r: StrategyResult, inputs: OrderInputs) -> dict[str, object]:
    return {
        "condition": r.condition,
        "strategy": inputs.strategies.get(r.condition, ""),
        "prompted": r.prompted,
        "level": r.level,
        "benchmark": r.benchmark,
        "metric": r.metric,
        "difficulty": r.difficulty,
        **measured_record(r.score),
        "trained_tokens": r.trained_tokens,
        "learned_tokens": r.learned_tokens,
        **measured_record(r.generated_tokens, "generated_tokens_"),
        **measured_record(r.parse_failures, "parse_failures_"),
    }


def _costs(results: Sequence[StrategyResult], rows: list[Row], inputs: OrderInputs, styles: Styles) -> Table | None:
    if not any(r.trained_tokens is not None or r.generated_tokens or r.parse_failures for r in results):
        return None
    split = _split(results)
    costly = [r for r in results if r.generated_tokens or r.parse_failures]
    benchmarks = list(dict.fromkeys(r.benchmark for r in costly))
    own = {(*_row(r, split), r.benchmark): r for r in reversed(costly)}
    measured = {b: [m for r in costly if r.benchmark == b for m in (r.generated_tokens, r.parse_failures) if m] for b in benchmarks}
    shared = {b: shared_basis(measured[b], "answer") for b in benchmarks}
    columns = [Column(name="Condition"), Column(name="Tokens trained", numeric=True), Column(name="Tokens learned", numeric=True)]
    for b in benchmarks:
        columns.append(Column(name="Tokens written", numeric=True, tags=tuple(t for t in (f"per answer, {b}", shared[b]) if t)))
    cells = []
    for row in rows:
        first = next(r for r in results if _row(r, split) == row)
        head = styles.cell(row[0], level_text(row[1]), _prompted(row[2]))
        line = [head, Cell(text=tokens(first.trained_tokens)), Cell(text=tokens(first.learned_tokens))]
        line += [_cost_cell(own.get((*row, b)), shared[b]) for b in benchmarks]
        cells.append(tuple(line))
    return Table(
        id="strategy-costs",
        caption="What each strategy costs: tokens trained, mean over seeds; tokens written per answer with 95 % interval, and below "
        "it the share of answers that could not be read: nothing could be extracted from them",
        columns=tuple(columns),
        rows=tuple(cells),
        records=tuple(_record(r, inputs) for r in results),
    )


def _cost_cell(r: StrategyResult | None, shared: str) -> Cell:
    """Return tokens written per answer, and the share of answers from which nothing could be extracted."""
    cell = measured_cell(r.generated_tokens if r else None, noun="answer", shared=shared, say=tokens)
    if r is None or r.parse_failures is None:
        return cell
    lost = measured_cell(r.parse_failures, percent=True, noun="answer", shared=shared)
    return replace(cell, tags=(*cell.tags, f"{lost.text} % unread", *lost.tags))


def _difficulties(inputs: OrderInputs, styles: Styles) -> list[Table]:
    """Return one folded table per measure: a row per condition, a column per difficulty."""
    groups: dict[tuple[str, str], list[StrategyResult]] = {}
    for r in inputs.results:
        if r.difficulty is not None:
            groups.setdefault(_measure(r), []).append(r)
    tables = []
    for n, ((benchmark, metric), results) in enumerate(groups.items(), 1):
        levels = sorted({r.difficulty for r in results if r.difficulty is not None})
        split = _split(results)
        own = {(*_row(r, split), r.difficulty): r for r in results}
        shared = {d: shared_basis(r.score for r in results if r.difficulty == d) for d in levels}
        percent = all(r.binary for r in results)
        rows = []
        for row in _rows(results, styles):
            found = [own.get((*row, d)) for d in levels]
            rows.append(
                (
                    _head(row, inputs, styles),
                    *(measured_cell(r.score if r else None, percent=percent, shared=shared[d]) for r, d in zip(found, levels, strict=True)),
                )
            )
        name = measure_words(metric, benchmark) + (", %" if percent else "")
        tables.append(
            Table(
                id=f"strategy-difficulty-{n}",
                caption=f"Score of each strategy by difficulty: {name}, with 95 % intervals",
                columns=(
                    Column(name="Condition"),
                    *(Column(name=f"Difficulty {d}", numeric=True, tags=(shared[d],) if shared[d] else ()) for d in levels),
                ),
                rows=tuple(rows),
                records=tuple(_record(r, inputs) for r in results),
                summary=f"Table: {name} by strategy and difficulty",
                open=False,
            )
        )
    return tables


def _cost_figure(results: Sequence[StrategyResult], styles: Styles) -> Figure | None:
    """Return score against tokens written per answer, a panel per benchmark; None where costs do not differ."""
    split, panels, said = _split(results), [], []
    for benchmark, metric in dict.fromkeys(map(_measure, results)):
        series = []
        for r in results:
            cost = r.generated_tokens.estimate if r.generated_tokens else None
            if _measure(r) != (benchmark, metric) or cost is None or r.score.estimate is None:
                continue
            label = r.condition + (f", {level_text(r.level)}" if level_text(r.level) else "")
            label += f", {_prompted(r.prompted)}" if split and r.prompted else ""
            bars = ((cost, r.score.low, r.score.high),) if r.score.low is not None and r.score.high is not None else ()
            series.append(Series(label=label, style=styles.of(r.condition), points=((cost, r.score.estimate),), bars=bars))
            said.append(f"{label} {number(r.score.estimate, percent=r.binary)} at {tokens(cost)} tokens on {benchmark}")
        if len({x for one in series for x, _ in one.points}) > 1:
            panels.append(Panel(title=benchmark, series=tuple(series)))
    if not panels:
        return None
    percent = all(r.binary for r in results)
    frame = Frame(
        x_name="tokens written per answer",
        y_name="score, %" if percent else "score",
        columns=min(3, max(2, len(panels))),
        shared_y=percent,
        percent=percent,
    )
    title = "Score against the cost of inference"
    return Figure(
        name="strategy-cost",
        title=title,
        description=f"{title}: {'; '.join(said[:8])}{_more(said)}.",
        caption="Up is better, left is cheaper. Bars are 95 % intervals of the score.",
        table="strategy-scores",
        draw=_drawing(panels, frame),
    )


def _more(said: Sequence[str]) -> str:
    return f"; and {plural(len(said) - 8, 'more')}".removesuffix("s") if len(said) > 8 else ""


def _drawing(panels: Sequence[Panel], frame: Frame) -> Callable[[float], Canvas]:
    return lambda width: draw_panels(panels, frame, width)
