"""Predicted and measured changes after interventions -> a scatter with intervals, and the table behind it.

Predicted: the sum over examples of their change of weight times their influence, from the models of the reference condition;
measured: the paired contrast of the target's log-likelihood between the trained models. The dashed line is where both agree.
Not covered: accuracy after an intervention, which stands among the contrasts; subsets (influence_validation.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from leaven.reporting.marks import Figure
from leaven.reporting.scatter import Cloud, Point, draw_scatter
from leaven.reporting.sections.influence_inputs import Change, InfluenceInputs, Quality
from leaven.reporting.sections.influence_words import influence_cell, method_words, targets_of
from leaven.reporting.sections.inputs import Measured
from leaven.reporting.sections.section import Cell, Column, Section, Table, bracketed, listed, measured_record
from leaven.reporting.wording import level_text, plural


def change_section(inputs: InfluenceInputs) -> Section | None:
    """Return predicted beside realised changes; None without interventions."""
    if not inputs.changes:
        return None
    mains = {(m.name, m.condition, m.level): m.main for m in inputs.models}
    rows = [r for r in inputs.changes if mains.get((r.name, r.reference, r.level)) == r.method] or list(inputs.changes)
    drawn = [r for r in rows if r.realised is not None and r.realised.estimate is not None and r.predicted.estimate is not None]
    figure = _figure(drawn) if drawn else None
    tables = [_table(rows, inputs)]
    if inputs.quality:
        tables.append(_quality_table(inputs.quality))
    return Section(
        id="influence-changes",
        title="Predicted and realised change",
        paragraphs=(_summary(rows, inputs.quality),),
        figures=(figure,) if figure else (),
        tables=tuple(tables),
        notes=(
            "Predicted is first order, from models that were trained with the examples in place; the interval is over seeds. It does not "
            "know that a condition of equal length trains more often on what is left, except through the weights it is given, nor what "
            "examples do that are new.",
        ),
    )


def _summary(rows: Sequence[Change], quality: Sequence[Quality]) -> str:
    measured = sum(r.realised is not None for r in rows)
    text = f"{plural(len({r.condition for r in rows}), 'intervention')} on the data"
    if not measured:
        return text + "; none of them measured the targets' log-likelihood, so predictions stand alone."
    own = {(r.method, r.target) for r in rows}
    told = [
        f"{round((q.right_sign.estimate or 0.0) * q.right_sign.n)} of {q.right_sign.n} on {q.target}"
        for q in quality
        if (q.method, q.target) in own
    ]
    return text + f". Measured changes with the predicted sign: {listed(told)}." if told else text + "."


def _ends(m: Measured) -> tuple[float, float] | None:
    return None if m.low is None or m.high is None else (m.low, m.high)


def _figure(rows: Sequence[Change]) -> Figure:
    names = list(dict.fromkeys(_name(r) for r in rows))[:20]
    clouds, said = [], []
    for target in targets_of(rows):
        points = []
        for r in rows:
            if r.target != target or _name(r) not in names or r.realised is None:
                continue
            number = names.index(_name(r)) + 1
            x, y = r.predicted.estimate or 0.0, r.realised.estimate or 0.0
            points.append(Point(number=number, x=x, y=y, x_ends=_ends(r.predicted), y_ends=_ends(r.realised), style=number - 1))
            said.append(
                f"{_name(r)} on {target}: predicted {bracketed(r.predicted, signed=True)}, realised {bracketed(r.realised, signed=True)}"
            )
        clouds.append(Cloud(title=f"Target: {target}", points=tuple(points)))
    title = "Predicted and realised change of the target's log-likelihood"
    return Figure(
        name="influence-changes",
        title=title,
        description=f"{title}, nats: {'; '.join(said[:6])}.",
        caption=f"By {method_words(rows[0].method)}; 95 % intervals, over seeds (predicted) and over seeds and items (realised). On "
        f"the dashed line both are equal; axes differ in scale.",
        table="influence-change",
        draw=lambda width: draw_scatter(clouds, names, "predicted, nats", "realised, nats", width),
    )


def _name(r: Change) -> str:
    level = level_text(r.level)
    return r.condition + (f" ({level})" if level else "")


def _table(rows: Sequence[Change], inputs: InfluenceInputs) -> Table:
    lines = []
    for r in rows:
        changed = f"{plural(r.predicted.n, 'example')} changed" + (f", {r.n_new:,} new" if r.n_new else "")
        realised = influence_cell(r.realised, noun="item", what=f"change of log-likelihood, {_name(r)} against {r.reference}, {r.target}")
        lines.append(
            (
                Cell(text=_name(r), tags=(f"against {r.reference}", changed)),
                Cell(text=r.target),
                influence_cell(r.predicted, shared="n"),
                influence_cell(r.removed, shared="n"),
                realised,
                *_verdict(r),
            )
        )
    return Table(
        id="influence-change",
        caption=f"Change of the target's log-likelihood, nats: predicted by {method_words(rows[0].method)} and measured, 95 % intervals",
        columns=(
            Column(name="Intervention"),
            Column(name="Target"),
            Column(name="Predicted", numeric=True),
            Column(name="of this by lowered weights", numeric=True),
            Column(name="Realised", numeric=True),
            Column(name="Sign"),
        ),
        rows=tuple(lines),
        records=tuple(_record(r) for r in inputs.changes),
        summary=f"Table: predicted and realised changes ({plural(len(lines), 'row')})",
        open=len(lines) <= 12,
    )


def _verdict(r: Change) -> tuple[Cell]:
    """Return whether the measured change has the predicted sign, where both intervals leave out zero."""
    if r.realised is None or r.realised.estimate is None or r.predicted.estimate is None:
        return (Cell(text="not measured", kind="open"),)
    for m, word in ((r.predicted, "prediction"), (r.realised, "measurement")):
        if m.low is None or m.high is None or m.low <= 0 <= m.high:
            return (Cell(text="? undecided", kind="open", tags=(f"the {word} allows both",)),)
    same = (r.realised.estimate > 0) == (r.predicted.estimate > 0)
    return (Cell(text="\u2713 as predicted", kind="favours") if same else Cell(text="\u2717 opposite", kind="opposes"),)


def _quality_table(rows: Sequence[Quality]) -> Table:
    lines = []
    for q in rows:
        ends = (
            ""
            if q.right_sign.low is None or q.right_sign.high is None
            else f"[{100 * q.right_sign.low:.0f}, {100 * q.right_sign.high:.0f}] %"
        )
        right = f"{round((q.right_sign.estimate or 0.0) * q.right_sign.n)} of {q.right_sign.n}"
        rank = influence_cell(q.spearman, shared="n") if q.spearman else Cell(text="fewer than 4")
        lines.append((Cell(text=method_words(q.method)), Cell(text=q.target), Cell(text=right, tags=(ends,) if ends else ()), rank))
    return Table(
        id="influence-change-quality",
        caption="How every method's predictions fare over the interventions: measured changes with the predicted sign (Wilson's 95 % "
        "interval), and the rank correlation of predicted with measured changes. Interventions of one study are not independent",
        columns=(
            Column(name="Method"),
            Column(name="Target"),
            Column(name="Right sign", numeric=True),
            Column(name="Rank correlation", numeric=True),
        ),
        rows=tuple(lines),
        records=tuple(
            {
                "name": q.name,
                "reference": q.reference,
                "level": q.level,
                "method": q.method,
                "target": q.target,
                **measured_record(q.right_sign, "right_sign_"),
                **measured_record(q.spearman, "spearman_"),
            }
            for q in rows
        ),
        summary=f"Table: the predictions of every method ({plural(len(lines), 'row')})",
        open=False,
    )


def _record(r: Change) -> dict[str, object]:
    return {
        "name": r.name,
        "reference": r.reference,
        "condition": r.condition,
        "level": r.level,
        "method": r.method,
        "target": r.target,
        **measured_record(r.predicted, "predicted_"),
        **measured_record(r.removed, "removed_"),
        **measured_record(r.realised, "realised_"),
        "n_new": r.n_new,
    }
