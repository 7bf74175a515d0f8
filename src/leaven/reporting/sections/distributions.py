"""Histograms of a probe over examples -> one section per measure: a ridge plot with Gaussian fits, means, their gaps.

Covers conditional perplexity of the first and the second part (paper figure 3), KL to the base model and validation
loss (figure 4), similarity to the instruction (figure 11), and any other measured value under its own name.
Not covered: measuring (probes/), testing differences (analysis/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leaven.reporting.marks import Figure
from leaven.reporting.ridges import Group, Ridge, draw_ridges
from leaven.reporting.sections.inputs import MEASURES, Difference, Distribution, OrderInputs
from leaven.reporting.sections.section import (
    Cell,
    Column,
    Section,
    Styles,
    Table,
    bracketed,
    fine,
    measured_cell,
    measured_record,
    shared_basis,
    with_rest,
)
from leaven.reporting.svg import Canvas
from leaven.reporting.wording import amount, level_text, p_value

WHOLE = ("response", "all")
"""Names of a part that holds all learned tokens of an example."""
ABOUT = {
    "perplexity": "How hard each part is to predict: the part that comes first given the prompt alone, the second given the "
    "prompt and the first. The gap is the difference of the two means within a condition.",
    "log_perplexity": "How hard each part is to predict, in nats per token: the part that comes first given the prompt alone, "
    "the second given the prompt and the first. The gap is the difference of the two means within a condition.",
    "kl": "How far training moved the model's next-token distributions on held-out examples, per token of the response.",
    "reverse_kl": "The same distance taken the other way around, averaged under the base model.",
    "validation_loss": "The loss of each held-out example. Where conditions read them in formats of their own, the formats hold "
    "different tokens, and a lower loss is not a better model.",
    "similarity": "Cosine similarity between the instruction and one part of the response.",
}


def distribution_sections(inputs: OrderInputs) -> list[Section]:
    """Return one section for each measure that has histograms, in the order of MEASURES, then others by name."""
    found = list(dict.fromkeys(d.measure for d in inputs.distributions))
    known = [m for m in MEASURES if m in found]
    styles = Styles(inputs.strategies)
    return [_section(m, inputs, styles) for m in (*known, *sorted(set(found) - set(known)))]


def _section(measure: str, inputs: OrderInputs, styles: Styles) -> Section:
    rows = [d for d in inputs.distributions if d.measure == measure]
    order = styles.sorted(d.condition for d in rows)
    rows.sort(key=lambda d: order.index(d.condition))
    title = MEASURES.get(measure, measure.replace("_", " ").capitalize())
    ident = measure.replace("_", "-")
    gaps = [d for d in inputs.differences if d.measure == measure]
    tables = [_means(ident, title, rows, styles)]
    if gaps:
        tables.append(_gaps(ident, title, gaps, styles))
    return Section(
        id=f"dist-{ident}",
        title=title,
        short=title.split(",")[0].split(" from ")[0].split(" to the ")[0],
        paragraphs=(ABOUT[measure],) if measure in ABOUT else (),
        figures=(_figure(ident, title, _drawn(rows), gaps, styles),),
        tables=tuple(tables),
    )


def _drawn(rows: Sequence[Distribution]) -> list[Distribution]:
    """Return what the figure shows: the whole response where it was measured beside its parts, which the table keeps."""
    whole = [d for d in rows if d.part in WHOLE]
    return whole if {d.condition for d in whole} == {d.condition for d in rows} else list(rows)


def _label(d: Distribution) -> str:
    """Return what a histogram shows within its condition: "thought given prompt and code", "" when it is all there is."""
    return d.part + (f" given {d.given}" if d.given else "")


def _figure(
    ident: str, title: str, rows: Sequence[Distribution], gaps: Sequence[Difference], styles: Styles
) -> Figure:
    grouped: dict[tuple[str, str], list[Distribution]] = {}
    for d in rows:
        grouped.setdefault((d.condition, d.level), []).append(d)
    alone = all(len(g) == 1 for g in grouped.values())
    groups = [Group(heading="", rows=tuple(_ridge(d, styles, _name(d)) for d in rows))]
    if not alone:
        groups = [
            Group(heading=_name(own[0]), rows=tuple(_ridge(d, styles, _label(d) or d.condition) for d in own))
            for own in grouped.values()
        ]
    unit = next((d.unit for d in rows if d.unit), "")
    said = [f"{_name(d)}{' ' + _label(d) if _label(d) else ''} mean {fine(d.mean.estimate)}, sd {fine(d.sd)}" for d in rows]
    said += [f"{g.condition} {g.label}: {bracketed(g.effect, signed=True)}".strip() for g in gaps]
    return Figure(
        name=f"dist-{ident}",
        title=f"{title}, histograms over examples",
        description=f"{title}: {'; '.join(said[:12])}.",
        caption="Each histogram is drawn to its own height. Dashed: the normal curve with the same mean and standard deviation. "
        "Upright line: the mean; thick bar at the foot: its 95 % interval, cut where it leaves the axis.",
        table=f"dist-{ident}-means",
        draw=_drawing(groups, f"{title.split(',')[0].lower() if ident != 'kl' else 'KL divergence'}" + (f", {unit}" if unit else "")),
    )


def _name(d: Distribution) -> str:
    return d.condition + (f", {level_text(d.level)}" if level_text(d.level) else "")


def _ridge(d: Distribution, styles: Styles, label: str) -> Ridge:
    return Ridge(
        label=label,
        style=styles.of(d.condition),
        edges=d.edges,
        counts=d.counts,
        mean=d.mean.estimate,
        low=d.mean.low,
        high=d.mean.high,
        sd=d.sd,
        words=(bracketed(d.mean), f"sd {fine(d.sd)}, n {amount(d.mean.n)}"),
    )


def _drawing(groups: Sequence[Group], x_name: str) -> Callable[[float], Canvas]:
    return lambda width: draw_ridges(groups, x_name, width)


def _means(ident: str, title: str, rows: Sequence[Distribution], styles: Styles) -> Table:
    shared = shared_basis((d.mean for d in rows), "example")
    parts = any(_label(d) for d in rows)
    unit = next((d.unit for d in rows if d.unit), "")
    columns = [Column(name="Condition"), *([Column(name="Part")] if parts else [])]
    columns += [Column(name="Mean", numeric=True, tags=(unit,) if unit else ()), Column(name="Standard deviation", numeric=True)]
    cells = []
    for d in rows:
        what = f"{title}, {_name(d)}{', ' + _label(d) if _label(d) else ''}"
        line = [styles.cell(d.condition, level_text(d.level)), *([Cell(text=_label(d))] if parts else [])]
        line += [measured_cell(d.mean, noun="example", shared=shared, what=what, say=fine), Cell(text=fine(d.sd))]
        cells.append(tuple(line))
    records = [
        {
            "condition": d.condition,
            "level": d.level,
            "part": d.part,
            "given": d.given,
            "unit": d.unit,
            **measured_record(d.mean),
            "sd": d.sd,
            "bin_low": low,
            "bin_high": high,
            "count": count,
        }
        for d in rows
        for low, high, count in zip(d.edges, d.edges[1:], d.counts, strict=False)
    ]
    return Table(
        id=f"dist-{ident}-means",
        caption=with_rest(f"{title}: mean over examples with its 95 % interval", shared),
        columns=tuple(columns),
        rows=tuple(cells),
        records=tuple(records),
    )


def _gaps(ident: str, title: str, gaps: Sequence[Difference], styles: Styles) -> Table:
    shared = shared_basis((g.effect for g in gaps), "example")
    tested = any(g.p is not None for g in gaps)
    cells = []
    for g in gaps:
        head = styles.cell(g.condition) if g.condition else Cell(text="between conditions")
        gap = measured_cell(
            g.effect, signed=True, noun="example", shared=shared, what=f"{title}, {g.label}", say=lambda value: fine(value, sign=True)
        )
        line = [head, Cell(text=g.label), gap]
        line += [Cell(text=p_value(g.p), tags=(g.test,) if g.test else ())] if tested else []
        cells.append(tuple(line))
    columns = [Column(name="Condition"), Column(name="Difference of means"), Column(name="Estimate", numeric=True)]
    return Table(
        id=f"dist-{ident}-gaps",
        caption=with_rest(f"{title}: differences of means with their 95 % intervals", shared),
        columns=(*columns, *([Column(name="p", numeric=True)] if tested else [])),
        rows=tuple(cells),
        records=tuple(
            {"condition": g.condition, "difference": g.label, **measured_record(g.effect), "p": g.p, "test": g.test} for g in gaps
        ),
    )
