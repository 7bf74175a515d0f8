"""Attention maps -> heat maps with region borders, and how much of each region's attention goes where.

Paper: Liu et al. 2025, figure 5, which shows the maps; the shares between regions are ours, since a map alone is read
by eye.
Not covered: measuring and resizing (probes/), drawing (heatmap.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leaven.reporting.heatmap import Map, Matrix, draw_maps, draw_matrices
from leaven.reporting.marks import Figure
from leaven.reporting.sections.inputs import AttentionMap, Measured, OrderInputs
from leaven.reporting.sections.section import (
    Cell,
    Column,
    Section,
    Styles,
    Table,
    listed,
    measured_cell,
    measured_record,
    shared_basis,
    with_rest,
)
from leaven.reporting.svg import Canvas
from leaven.reporting.wording import level_text, number, plural, seeds_text


def attention_section(inputs: OrderInputs) -> Section | None:
    """Return the section of the attention maps, or None without one."""
    if not inputs.attention:
        return None
    styles = Styles(inputs.strategies)
    order = styles.sorted(a.condition for a in inputs.attention)
    maps = sorted(inputs.attention, key=lambda a: order.index(a.condition))
    layers = listed([f"layer {name}" if name.isdigit() else f"the {name} layer" for name in dict.fromkeys(a.layer for a in maps)])
    figures = [_maps_figure(maps, styles, layers)]
    tables = []
    if any(a.masses for a in maps):
        figures.append(_mass_figure([a for a in maps if a.masses], styles))
        tables.append(_mass_table([a for a in maps if a.masses], styles))
    else:
        tables.append(_grid_table(maps, styles))
    return Section(
        id="attention",
        title="Attention between the parts",
        short="Attention",
        paragraphs=(
            f"Attention weights of {layers}, averaged over heads, examples and seeds and resized to one grid. Rows attend, "
            "columns are attended to, both from the first token to the last.",
        ),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _name(a: AttentionMap) -> str:
    return a.condition + (f", {level_text(a.level)}" if level_text(a.level) else "")


def _maps_figure(maps: Sequence[AttentionMap], styles: Styles, layers: str) -> Figure:
    drawn = [
        Map(
            title=_name(a),
            style=styles.of(a.condition),
            grid=a.grid,
            regions=tuple((r.name, r.start, r.end) for r in a.regions),
        )
        for a in maps
    ]
    said = [f"{_name(a)}: {_summary(a)}" for a in maps[:6]]
    rests = {(a.n, a.seeds) for a in maps}
    rest = ""
    if len(rests) == 1 and maps[0].n:
        rest = f" {plural(maps[0].n, 'example')}, {plural(len(maps[0].seeds), 'seed')} ({seeds_text(maps[0].seeds)})."
    return Figure(
        name="attention",
        title=f"Attention weights of {layers}",
        description=f"Attention maps. {'; '.join(said)}.",
        caption="Each step of the scale is half of the next one; the numbers below it are weights. Lines part the regions." + rest,
        table="attention-mass" if any(a.masses for a in maps) else "attention-grid",
        draw=_drawing(drawn),
    )


def _summary(a: AttentionMap) -> str:
    """Return where each region's attention goes most, for readers who do not see the map."""
    told = []
    for query in dict.fromkeys(m.query for m in a.masses):
        own = [m for m in a.masses if m.query == query and m.share.estimate is not None]
        if own:
            best = max(own, key=lambda m: m.share.estimate or 0.0)
            told.append(f"{query} attends most to {best.key}, {number(best.share.estimate, percent=True)} %")
    size = len(a.grid)
    return ", ".join(told) or f"a grid of {size} by {size} weights, largest {number(max(v for row in a.grid for v in row))}"


def _drawing(maps: Sequence[Map]) -> Callable[[float], Canvas]:
    return lambda width: draw_maps(maps, width)


def _regions(a: AttentionMap) -> tuple[str, ...]:
    named = [r.name for r in a.regions]
    return tuple(dict.fromkeys((*named, *(m.query for m in a.masses), *(m.key for m in a.masses))))


def _share(a: AttentionMap, query: str, key: str) -> Measured | None:
    return next((m.share for m in a.masses if (m.query, m.key) == (query, key)), None)


def _mass_figure(maps: Sequence[AttentionMap], styles: Styles) -> Figure:
    matrices = []
    for a in maps:
        names = _regions(a)
        shares = tuple(tuple(_estimate(_share(a, q, k)) for k in names) for q in names)
        words = tuple(tuple(number(s, percent=True) if s is not None else "" for s in row) for row in shares)
        matrices.append(Matrix(title=_name(a), style=styles.of(a.condition), names=names, shares=shares, words=words))
    return Figure(
        name="attention-mass",
        title="Where each region's attention goes, %",
        description="Shares of attention between regions. " + "; ".join(f"{_name(a)}: {_summary(a)}" for a in maps[:6]) + ".",
        caption="A row is the region that attends, a column the one attended to; the area of a square is the share, and a row sums "
        "to 100 %.",
        table="attention-mass",
        draw=lambda width: draw_matrices(matrices, width),
    )


def _estimate(share: Measured | None) -> float | None:
    return share.estimate if share else None


def _mass_table(maps: Sequence[AttentionMap], styles: Styles) -> Table:
    keys = list(dict.fromkeys(k for a in maps for k in _regions(a)))
    shared = shared_basis((m.share for a in maps for m in a.masses), "example")
    rows = []
    for a in maps:
        for query in dict.fromkeys(m.query for m in a.masses):
            cells = [
                measured_cell(
                    _share(a, query, key),
                    percent=True,
                    noun="example",
                    shared=shared,
                    what=f"attention of {query} to {key}, {_name(a)}, %",
                )
                for key in keys
            ]
            rows.append((styles.cell(a.condition, level_text(a.level)), Cell(text=query), *cells))
    return Table(
        id="attention-mass",
        caption=with_rest("Share of the attention of one region that goes to another, % with 95 % interval", shared),
        columns=(
            Column(name="Condition"),
            Column(name="Region that attends"),
            *(Column(name=f"to {key}", numeric=True) for key in keys),
        ),
        rows=tuple(rows),
        summary=f"Table: shares of attention between regions ({plural(len(rows), 'row')})",
        open=len(rows) <= 9,
        records=tuple(
            {"condition": a.condition, "level": a.level, "layer": a.layer, "query": m.query, "key": m.key, **measured_record(m.share)}
            for a in maps
            for m in a.masses
        ),
    )


def _grid_table(maps: Sequence[AttentionMap], styles: Styles) -> Table:
    """Return what stands in for the shares between regions where none were measured; the grids are in its file."""
    rows = []
    for a in maps:
        largest = max(v for row in a.grid for v in row)
        seeds = plural(len(a.seeds), "seed") if a.seeds else ""
        rows.append(
            (
                styles.cell(a.condition, level_text(a.level)),
                Cell(text=f"{len(a.grid)} \u00d7 {len(a.grid)}"),
                Cell(text=number(largest)),
                Cell(text=f"{a.n:,}", tags=(seeds,) if seeds else ()),
            )
        )
    return Table(
        id="attention-grid",
        caption="Attention grids; the weights are in the table beside the page",
        columns=(
            Column(name="Condition"),
            Column(name="Grid"),
            Column(name="Largest weight", numeric=True),
            Column(name="Examples", numeric=True),
        ),
        rows=tuple(rows),
        records=tuple(
            {"condition": a.condition, "level": a.level, "layer": a.layer, "row": r, "col": c, "value": v, "n": a.n}
            for a in maps
            for r, row in enumerate(a.grid)
            for c, v in enumerate(row)
        ),
    )
