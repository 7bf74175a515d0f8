"""Gradient norms by layer, projection and part -> small multiples: does one part pull harder at the weights?

Paper: Liu et al. 2025, figure 6, from the same initial weights for both parts.
Not covered: measuring (probes/).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from leaven.reporting.marks import Figure
from leaven.reporting.panels import Frame, Panel, Series, draw_panels
from leaven.reporting.sections.inputs import GradientNorm, OrderInputs
from leaven.reporting.sections.section import Cell, Column, Section, Styles, Table, measured_record, shared_basis, with_rest
from leaven.reporting.wording import level_text, number

PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}
PART_STYLES = {"thought": 3, "code": 5}
"""Parts have looks of their own, so that no part is taken for a condition."""


def gradient_section(inputs: OrderInputs) -> Section | None:
    """Return the section of the gradient norms, or None without one."""
    if not any(g.norm.estimate is not None for g in inputs.gradients):
        return None
    styles = Styles(inputs.strategies)
    order = styles.sorted(g.condition for g in inputs.gradients)
    rows = sorted(inputs.gradients, key=lambda g: order.index(g.condition))
    projections = sorted({g.projection for g in rows}, key=lambda p: ([*PROJECTIONS, p].index(p), p))
    return Section(
        id="gradients",
        title="Gradient norms by layer",
        short="Gradients",
        paragraphs=(
            "The L2 norm of the gradient of the loss on one part's tokens alone, for each attention projection and layer; both parts "
            "start from the same weights.",
        ),
        figures=(_figure(rows, projections),),
        tables=(_table(rows, projections, styles),),
    )


def _cell(g: GradientNorm) -> tuple[str, str]:
    return g.condition, g.level


def _name(cell: tuple[str, str]) -> str:
    return cell[0] + (f", {level_text(cell[1])}" if level_text(cell[1]) else "")


def _figure(rows: Sequence[GradientNorm], projections: Sequence[str]) -> Figure:
    cells = list(dict.fromkeys(map(_cell, rows)))
    parts = list(dict.fromkeys(g.part for g in rows))
    panels = []
    for cell in cells:
        for p in projections:
            own = [g for g in rows if _cell(g) == cell and g.projection == p]
            name = PROJECTIONS.get(p, p)
            panels.append(
                Panel(
                    title=name if len(cells) == 1 else f"{_name(cell)}: {name}",
                    series=tuple(s for i, part in enumerate(parts) if (s := _series(part, i, own))),
                )
            )
    panels = [p for p in panels if p.series]
    layers = sorted({g.layer for g in rows})
    frame = Frame(
        x_name="layer",
        y_name="L2 norm of the gradient",
        columns=min(len(projections), 4) if len(projections) > 1 else 3,
        x_ticks=tuple(float(v) for v in layers) if len(layers) < 8 else (),
    )
    return Figure(
        name="gradients",
        title="Gradient norm by layer and projection",
        description=f"Gradient norms, mean over layers. {_said(rows, cells, parts)}.",
        caption="Every chart has its own vertical axis from zero. Shaded: 95 % intervals.",
        table="gradient-norms",
        draw=lambda width: draw_panels(panels, frame, width),
    )


def _series(part: str, index: int, own: Sequence[GradientNorm]) -> Series | None:
    found = sorted((g for g in own if g.part == part and g.norm.estimate is not None), key=lambda g: g.layer)
    if not found:
        return None
    return Series(
        label=f"loss on {part} tokens",
        style=PART_STYLES.get(part, 4 + index),
        points=tuple((float(g.layer), g.norm.estimate or 0.0) for g in found),
        band=tuple((float(g.layer), g.norm.low, g.norm.high) for g in found if g.norm.low is not None and g.norm.high is not None),
        dash=index,
    )


def _mean(own: Sequence[GradientNorm]) -> float | None:
    found = [g.norm.estimate for g in own if g.norm.estimate is not None]
    return fmean(found) if found else None


def _said(rows: Sequence[GradientNorm], cells: Sequence[tuple[str, str]], parts: Sequence[str]) -> str:
    told = []
    for cell in cells[:6]:
        means = ((part, _mean([g for g in rows if _cell(g) == cell and g.part == part])) for part in parts)
        told.append(f"{_name(cell)}: " + ", ".join(f"{part} {number(mean)}" for part, mean in means))
    return "; ".join(told)


def _table(rows: Sequence[GradientNorm], projections: Sequence[str], styles: Styles) -> Table:
    """Return means over layers on the page; every layer stands in the records."""
    shared = shared_basis((g.norm for g in rows), "example")
    lines = []
    for cell in dict.fromkeys(map(_cell, rows)):
        for part in dict.fromkeys(g.part for g in rows if _cell(g) == cell):
            line = [styles.cell(cell[0], level_text(cell[1])), Cell(text=part)]
            for p in projections:
                own = [g for g in rows if (*_cell(g), g.part, g.projection) == (*cell, part, p)]
                norms = [g.norm.estimate for g in own if g.norm.estimate is not None]
                ends = (f"{number(min(norms))} to {number(max(norms))}",) if norms else ()
                line.append(Cell(text=number(_mean(own)), tags=ends))
            lines.append(tuple(line))
    return Table(
        id="gradient-norms",
        caption=with_rest(
            "Gradient norm, mean over layers, smallest and largest layer below it; every layer with its interval is in the table "
            "beside the page",
            shared,
        ),
        columns=(
            Column(name="Condition"),
            Column(name="Loss on"),
            *(Column(name=PROJECTIONS.get(p, p), numeric=True) for p in projections),
        ),
        rows=tuple(lines),
        records=tuple(
            {
                "condition": g.condition,
                "level": g.level,
                "part": g.part,
                "projection": g.projection,
                "layer": g.layer,
                **measured_record(g.norm),
            }
            for g in rows
        ),
    )
