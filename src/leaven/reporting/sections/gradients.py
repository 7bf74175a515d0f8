"""Gradient norms by layer, projection and part -> small multiples: does one part pull harder at the weights?

Paper: Liu et al. 2025, figure 6, from the same initial weights for both parts.
Not covered: measuring (probes/).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from leaven.reporting.marks import Figure
from leaven.reporting.panels import Frame, Panel, Series, draw_panels
from leaven.reporting.sections.inputs import GradientNorm, OrderInputs
from leaven.reporting.sections.section import (
    Cell,
    Column,
    Section,
    Styles,
    Table,
    fine,
    measured_cell,
    measured_record,
    shared_basis,
    with_rest,
)
from leaven.reporting.wording import level_text, plural

PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}
MAX_DRAWN = 4
"""Conditions in the figure, each with a row of charts; the table has all of them."""
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


def _alike(rows: Sequence[GradientNorm]) -> dict[tuple[str, str], list[GradientNorm]]:
    """Return the norms of each condition and level, once for all that are the same number for number.

    A probe that looks at the weights before the conditions part sees the same in all of them.
    """
    members: dict[object, list[tuple[str, str]]] = {}
    norms: dict[object, list[GradientNorm]] = {}
    for cell in dict.fromkeys(map(_cell, rows)):
        own = [g for g in rows if _cell(g) == cell]
        same = tuple((g.part, g.projection, g.layer, g.norm.estimate, g.norm.low, g.norm.high) for g in own)
        members.setdefault(same, []).append(cell)
        norms[same] = own
    found = {}
    for same, cells in members.items():
        names, levels = list(dict.fromkeys(c for c, _ in cells)), {level for _, level in cells}
        name = "all conditions" if len(members) == 1 and len(cells) > 1 else ", ".join(names)
        found[(name, levels.pop() if len(levels) == 1 else "")] = norms[same]
    return found


def _figure(rows: Sequence[GradientNorm], projections: Sequence[str]) -> Figure:
    cells = _alike(rows)
    shown = dict(list(cells.items())[:MAX_DRAWN])
    parts = list(dict.fromkeys(g.part for g in rows))
    panels = []
    for cell, found in shown.items():
        for p in projections:
            own = [g for g in found if g.projection == p]
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
        positive=True,
    )
    rest = len(cells) - len(shown)
    more = f" {plural(rest, 'more condition')} in the table." if rest else ""
    alike = f" The same in {'all conditions' if len(cells) == 1 else 'conditions named together'}." if len(cells) < _count(rows) else ""
    return Figure(
        name="gradients",
        title="Gradient norm by layer and projection",
        description=f"Gradient norms, mean over layers. {_said(cells, parts)}.",
        caption="Every chart has its own vertical axis from zero. Shaded: 95 % intervals, cut where they more than double the axis."
        + alike
        + more,
        table="gradient-norms",
        draw=lambda width: draw_panels(panels, frame, width),
    )


def _count(rows: Sequence[GradientNorm]) -> int:
    return len({_cell(g) for g in rows})


def _series(part: str, index: int, own: Sequence[GradientNorm]) -> Series | None:
    found = sorted((g for g in own if g.part == part and g.norm.estimate is not None), key=lambda g: g.layer)
    if not found:
        return None
    ends = tuple((float(g.layer), g.norm.low, g.norm.high) for g in found if g.norm.low is not None and g.norm.high is not None)
    return Series(
        label=f"loss on {part} tokens",
        style=PART_STYLES.get(part, 4 + index),
        points=tuple((float(g.layer), g.norm.estimate or 0.0) for g in found),
        band=ends if len(found) > 1 else (),
        bars=ends if len(found) == 1 else (),
        dash=index,
    )


def _mean(own: Sequence[GradientNorm]) -> float | None:
    found = [g.norm.estimate for g in own if g.norm.estimate is not None]
    return fmean(found) if found else None


def _said(cells: Mapping[tuple[str, str], Sequence[GradientNorm]], parts: Sequence[str]) -> str:
    told = []
    for cell, own in list(cells.items())[:6]:
        means = ((part, _mean([g for g in own if g.part == part])) for part in parts)
        told.append(f"{_name(cell)}: " + ", ".join(f"{part} {fine(mean)}" for part, mean in means))
    return "; ".join(told)


def _table(rows: Sequence[GradientNorm], projections: Sequence[str], styles: Styles) -> Table:
    """Return means over layers on the page; every layer stands in the records."""
    shared = shared_basis((g.norm for g in rows), "example")
    lines = []
    for cell, found in _alike(rows).items():
        head = styles.cell(cell[0], level_text(cell[1])) if cell in set(map(_cell, rows)) else Cell(text=cell[0])
        for part in dict.fromkeys(g.part for g in found):
            line = [head, Cell(text=part)]
            for p in projections:
                own = [g for g in found if (g.part, g.projection) == (part, p)]
                norms = [g.norm.estimate for g in own if g.norm.estimate is not None]
                ends = (f"{fine(min(norms))} to {fine(max(norms))}",) if len(norms) > 1 else ()
                several = Cell(text=fine(_mean(own)), tags=ends)
                line.append(measured_cell(own[0].norm, noun="example", shared=shared, say=fine) if len(own) == 1 else several)
            lines.append(tuple(line))
    return Table(
        id="gradient-norms",
        caption=with_rest(
            "Gradient norm with its 95 % interval"
            if len({g.layer for g in rows}) == 1
            else "Gradient norm, mean over layers, smallest and largest layer below it; every layer with its interval is in the table "
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
