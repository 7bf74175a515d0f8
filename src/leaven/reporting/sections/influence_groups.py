"""Means of groups, slopes and shares -> who helps what: the influence matrix, difficulty, composition of the top.

Training domain x target is the matrix; within each training domain, influence by difficulty gives the four arrows of the
paper's figure 5; shares among the top say the same without a scale. Every mean stands in three forms, because long texts
accumulate influence: per text, per learned token, and with a linear trend in length taken out.
Paper: Kou et al. 2025, figures 2 to 5. Not covered: parts of texts (influence_parts.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from leaven.reporting.dots import Dots, draw_dots
from leaven.reporting.marks import Figure
from leaven.reporting.panels import Frame, Panel, Series, draw_panels
from leaven.reporting.sections.influence_inputs import Attributed, GroupMean, InfluenceEffect, InfluenceInputs, Share
from leaven.reporting.sections.influence_words import (
    FORMS,
    NATS,
    cell_words,
    cells,
    dot,
    influence_cell,
    method_words,
    of_cell,
    rests,
    share_words,
    targets_of,
)
from leaven.reporting.sections.section import Cell, Column, Section, Table, bracketed, measured_cell, measured_record
from leaven.reporting.wording import plural

KINDS = {"family": "type", "language": "language", "source": "source"}
MOST_SHOWN = 12


def domain_section(inputs: InfluenceInputs) -> Section | None:
    """Return the influence matrix and the composition of the top; None without training domains."""
    rows = [r for r in inputs.means if r.by == "domain"]
    if not rows:
        return None
    lead = cells(inputs)[0]
    main = [r for r in of_cell(rows, lead) if r.method == lead.main]
    tables = [_matrix(inputs, cell, number) for number, cell in enumerate(cells(inputs))]
    tables += [t for t in (_methods(inputs, lead), *_kinds(inputs, lead)) if t]
    shares = _composition(inputs, lead)
    figures = [_matrix_figure(main, lead)]
    if shares:
        figures.append(_share_figure(of_cell(inputs.shares, lead), lead))
        tables.append(shares)
    return Section(
        id="influence-domains",
        title="Which training data helps which target",
        short="Influence by domain",
        paragraphs=(
            f"Mean influence of the training texts of each domain on each target, by {method_words(lead.main)}: {NATS}. A mean over all "
            "texts of a domain is what removing one of them, drawn at random, would cost.",
        ),
        figures=tuple(f for f in figures if f),
        tables=tuple(tables),
        notes=(
            "Length control: \u201cper learned token\u201d divides every text's score by its learned tokens; \u201clength regressed "
            "out\u201d takes "
            "out a straight line in learned tokens, fitted per model and target over all texts. Where the forms disagree, length and "
            "group cannot be told apart.",
        ),
    )


def _matrix_figure(rows: Sequence[GroupMean], lead: Attributed) -> Figure | None:
    raw = [r for r in rows if r.length == "raw"]
    styles = {g: i for i, g in enumerate(dict.fromkeys(r.group for r in raw))}
    panels, said = [], []
    for target in targets_of(raw):
        dots = [dot(f"{r.group} \u2192 {target}", r.mean, styles[r.group]) for r in raw if r.target == target]
        panels.append(Dots(title=f"Target: {target}", rows=tuple(d for d in dots if d)))
        said += [f"{d.label} {d.words}" for d in dots if d]
    if not said:
        return None
    title = "Mean influence by training domain"
    return Figure(
        name="influence-matrix",
        title=title,
        description=f"{title}, nats per removed text: {'; '.join(said[:10])}.",
        caption=f"Nats per removed training text, {method_words(lead.main)}, 95 % intervals over texts and seeds.",
        table="influence-matrix",
        draw=lambda width: draw_dots(panels, width),
    )


def _matrix(inputs: InfluenceInputs, cell: Attributed, number: int) -> Table:
    """Return one cell's matrix in the three forms, with what own domain has over the others."""
    rows = [r for r in of_cell(inputs.means, cell) if r.by == "domain" and r.method == cell.main]
    effects = [e for e in of_cell(inputs.effects, cell) if e.measure == "own_domain"]
    targets = targets_of(rows)
    own = {(r.group, r.length, r.target): r for r in rows}
    lines = []
    for form, words in FORMS.items() if not number else [("raw", FORMS["raw"])]:
        for group in dict.fromkeys(r.group for r in rows):
            found = [own.get((group, form, t)) for t in targets]
            what = f"influence of {group} texts, {words}, {cell_words(cell, inputs)}, target "
            named = [influence_cell(r.mean, what=what + r.target if form == "raw" else "") if r else Cell() for r in found]
            lines.append((Cell(text=group, tags=(words,)), *named))
        if any(e.length == form for e in effects):
            found_effects = [next((e for e in effects if e.length == form and e.target == t), None) for t in targets]
            cells_of_row = [influence_cell(e.effect) if e else Cell() for e in found_effects]
            lines.append((Cell(text="own domain minus the others", tags=(words,)), *cells_of_row))
    return Table(
        id="influence-matrix" if not number else f"influence-matrix-{number + 1}",
        caption=f"Mean influence of training domain (rows) on target (columns), {method_words(cell.main)}, {cell_words(cell, inputs)}; "
        "95 % intervals over texts and seeds",
        columns=(Column(name="Training domain"), *(Column(name=f"on {t}", numeric=True) for t in targets)),
        rows=tuple(lines),
        records=tuple(group_record(r) for r in of_cell(inputs.means, cell) if r.by == "domain") + tuple(_effect_record(e) for e in effects),
        summary="Tables: influence by domain in other conditions",
        open=not number,
    )


def _methods(inputs: InfluenceInputs, lead: Attributed) -> Table | None:
    """Return the raw matrix of every method, folded: scales differ, signs and order may be compared."""
    rows = [r for r in of_cell(inputs.means, lead) if r.by == "domain" and r.length == "raw"]
    methods = list(dict.fromkeys(r.method for r in rows))
    if len(methods) < 2:
        return None
    targets = targets_of(rows)
    own = {(r.method, r.group, r.target): r for r in rows}
    heads = list(dict.fromkeys((r.method, r.group) for r in rows))
    lines = [(Cell(text=method_words(m), tags=(g,)), *(_plain(own.get((m, g, t))) for t in targets)) for m, g in heads]
    return Table(
        id="influence-matrix-methods",
        caption="Mean score of each training domain by every method. Scales differ between methods; signs and order may be compared",
        columns=(Column(name="Method"), *(Column(name=f"on {t}", numeric=True) for t in targets)),
        rows=tuple(lines),
        records=tuple(group_record(r) for r in rows),
        summary=f"Table: the matrix by every method ({plural(len(methods), 'method')})",
        open=False,
    )


def _plain(row: GroupMean | None) -> Cell:
    return influence_cell(row.mean, shared="the same texts") if row else Cell()


def _kinds(inputs: InfluenceInputs, lead: Attributed) -> list[Table]:
    """Return folded tables by type, language and source: raw and with length regressed out."""
    tables = []
    for by, words in KINDS.items():
        rows = [r for r in of_cell(inputs.means, lead) if r.by == by and r.method == lead.main]
        if not rows:
            continue
        targets = targets_of(rows)
        own = {(r.within, r.group, r.target, r.length): r for r in rows}
        heads = list(dict.fromkeys((r.within, r.group) for r in rows))
        columns = [(t, form) for t in targets for form in ("raw", "regressed")]
        lines = [
            (Cell(text=g, tags=(w,) if w else ()), *(_measured(own.get((w, g, t, form))) for t, form in columns))
            for w, g in heads[: MOST_SHOWN * 2]
        ]
        tables.append(
            Table(
                id=f"influence-{by}",
                caption=f"Mean influence by {words} of the training text, {method_words(lead.main)}, {cell_words(lead, inputs)}; 95 % "
                "intervals over texts and seeds",
                columns=(Column(name=words.capitalize()), *(Column(name=f"on {t}", numeric=True, tags=(FORMS[f],)) for t, f in columns)),
                rows=tuple(lines),
                records=tuple(group_record(r) for r in inputs.means if r.by == by),
                summary=f"Table: influence by {words} ({plural(len(heads), 'group')})",
                open=False,
            )
        )
    return tables


def _measured(row: GroupMean | None) -> Cell:
    return influence_cell(row.mean) if row else Cell()


# ---- composition -------------------------------------------------------------------------------------------------


def _composition(inputs: InfluenceInputs, lead: Attributed) -> Table | None:
    rows = of_cell(inputs.shares, lead)
    if not rows:
        return None
    percents = sorted({r.percent for r in rows})
    heads = list(dict.fromkeys((r.by, r.group, r.target) for r in rows))
    own = {(r.by, r.group, r.target, r.percent): r for r in rows}
    lines = []
    for by, group, target in heads:
        found = [own.get((by, group, target, p)) for p in percents]
        first = next(r for r in found if r)
        widest = own.get((by, group, target, percents[-1]))
        lines.append(
            (
                Cell(text=f"{group} \u2192 {target}", tags=(KINDS.get(by, by),)),
                Cell(text=share_words(first.base)),
                *(measured_cell(r.top, percent=True, shared="k") if r else Cell() for r in found),
                measured_cell(widest.bottom, percent=True, shared="k") if widest else Cell(),
            )
        )
    sizes = {r.percent: r.k for r in rows}
    return Table(
        id="influence-composition",
        caption=f"Share of each group among the most helpful texts, %, beside its share of all texts; ranked within each seed's model by "
        f"{method_words(lead.main)}, 95 % intervals over seeds (Wilson over texts where seeds agree)",
        columns=(
            Column(name="Group"),
            Column(name="Of all texts", numeric=True),
            *(Column(name=f"Top {p:g} %", numeric=True, tags=(f"k = {sizes[p]:,}",)) for p in percents),
            Column(name=f"Bottom {percents[-1]:g} %", numeric=True, tags=(f"k = {sizes[percents[-1]]:,}",)),
        ),
        rows=tuple(lines),
        records=tuple(_share_record(r) for r in inputs.shares),
        summary=f"Table: who stands at the top ({plural(len(lines), 'row')})",
        open=len(lines) <= 8,
    )


def _share_figure(rows: Sequence[Share], lead: Attributed) -> Figure | None:
    domains = [r for r in rows if r.by == "domain"] or list(rows)
    percent = min((p for p in {r.percent for r in domains} if p >= 5), default=max(r.percent for r in domains))
    chosen = [r for r in domains if r.percent == percent][:MOST_SHOWN]
    styles = {g: i for i, g in enumerate(dict.fromkeys(r.group for r in chosen))}
    panels, said = [], []
    for target in targets_of(chosen):
        dots = [dot(r.group, r.top, styles[r.group], r.base, percent=True) for r in chosen if r.target == target]
        panels.append(Dots(title=f"Most helpful for {target}", rows=tuple(d for d in dots if d), percent=True))
        said += [
            f"{r.group} {bracketed(r.top, percent=True)} % for {target}, {share_words(r.base)} of all" for r in chosen if r.target == target
        ]
    if not said:
        return None
    title = f"Who stands among the top {percent:g} %"
    return Figure(
        name="influence-top",
        title=title,
        description=f"{title}: {'; '.join(said[:8])}.",
        caption=f"Share of each training domain among the most helpful {percent:g} % of texts, %; the upright tick is its share of "
        f"all texts.",
        table="influence-composition",
        draw=lambda width: draw_dots(panels, width),
    )


# ---- difficulty --------------------------------------------------------------------------------------------------


def difficulty_section(inputs: InfluenceInputs) -> Section | None:
    """Return influence by difficulty, an arrow from each training domain to each target; None without difficulties."""
    lead = cells(inputs)[0]
    levels = [r for r in of_cell(inputs.means, lead) if r.by == "difficulty" and r.method == lead.main]
    slopes = [r for r in of_cell(inputs.slopes, lead) if r.by == "difficulty"]
    if not levels or len({r.group for r in levels}) < 2:
        return None
    tables = [t for number, cell in enumerate(cells(inputs)) if (t := _slope_table(inputs, cell, number))]
    tables.append(_level_table(inputs, lead, levels))
    told = [f"{_arrow(r)} {bracketed(r.mean, signed=True)}" for r in slopes if r.length == "raw" and r.mean.estimate is not None]
    figure = _difficulty_figure(levels, lead)
    return Section(
        id="influence-difficulty",
        title="Influence by difficulty",
        paragraphs=(f"Change of mean influence per level of difficulty, nats per text: {'; '.join(told)}.",) if told else (),
        figures=(figure,) if figure else (),
        tables=tuple(tables),
    )


def _arrow(r: GroupMean) -> str:
    return f"{r.within or 'all texts'} \u2192 {r.target}"


def _difficulty_figure(rows: Sequence[GroupMean], lead: Attributed) -> Figure | None:
    raw = [r for r in rows if r.length == "raw" and r.mean.estimate is not None]
    styles = {w: i for i, w in enumerate(dict.fromkeys(r.within for r in raw))}
    panels = []
    for target in targets_of(raw):
        series = []
        for within, style in styles.items():
            own = sorted((r for r in raw if r.target == target and r.within == within), key=lambda r: float(r.group))
            bars = tuple((float(r.group), r.mean.low, r.mean.high) for r in own if r.mean.low is not None and r.mean.high is not None)
            points = tuple((float(r.group), r.mean.estimate or 0.0) for r in own)
            if points:
                series.append(Series(label=f"from {within or 'all texts'}", style=style, points=points, bars=bars, dash=style))
        panels.append(Panel(title=f"Target: {target}", series=tuple(series)))
    if not panels:
        return None
    levels = tuple(sorted({float(r.group) for r in raw}))
    frame = Frame(
        x_name="difficulty", y_name="mean influence, nats per removed text", columns=2, x_ticks=levels if len(levels) <= 10 else ()
    )
    said = [f"{_arrow(r)} at {r.group}: {bracketed(r.mean, signed=True)}" for r in raw[:6]]
    title = "Mean influence by difficulty"
    return Figure(
        name="influence-difficulty",
        title=title,
        description=f"{title}: {'; '.join(said)}{'; and more' if len(raw) > 6 else ''}.",
        caption=f"One line for every training domain, {method_words(lead.main)}; bars are 95 % intervals over texts and seeds. The "
        f"arrows of figure 5 (left) in Kou et al. 2025.",
        table="influence-slopes",
        draw=lambda width: draw_panels(panels, frame, width),
    )


def _slope_table(inputs: InfluenceInputs, cell: Attributed, number: int) -> Table | None:
    rows = [r for r in of_cell(inputs.slopes, cell) if r.by == "difficulty"]
    if not rows:
        return None
    own = {(r.within, r.target, r.length): r for r in rows}
    heads = list(dict.fromkeys((r.within, r.target) for r in rows))
    lines = [(Cell(text=f"{w or 'all texts'} \u2192 {t}"), *(_measured(own.get((w, t, form))) for form in FORMS)) for w, t in heads]
    return Table(
        id="influence-slopes" if not number else f"influence-slopes-{number + 1}",
        caption=f"Slope: change of influence per level of difficulty, {method_words(cell.main)}, {cell_words(cell, inputs)}; 95 % "
        f"intervals "
        "over texts and seeds",
        columns=(
            Column(name="From training domain to target"),
            *(Column(name=words.capitalize(), numeric=True) for words in FORMS.values()),
        ),
        rows=tuple(lines),
        records=tuple(group_record(r) for r in of_cell(inputs.slopes, cell)),
        summary="Tables: slopes in other conditions",
        open=not number,
    )


def _level_table(inputs: InfluenceInputs, lead: Attributed, rows: Sequence[GroupMean]) -> Table:
    raw = [r for r in rows if r.length == "raw"]
    levels = sorted({r.group for r in raw}, key=float)
    own = {(r.within, r.target, r.group): r for r in raw}
    heads = list(dict.fromkeys((r.within, r.target) for r in raw))
    lines = [(Cell(text=f"{w or 'all texts'} \u2192 {t}"), *(_measured(own.get((w, t, v))) for v in levels)) for w, t in heads]
    return Table(
        id="influence-levels",
        caption=f"Mean influence at each difficulty, nats per text, {method_words(lead.main)}, {cell_words(lead, inputs)}; each "
        f"number rests "
        f"on {rests([r.mean for r in raw], 'text')}",
        columns=(Column(name="From training domain to target"), *(Column(name=f"Difficulty {v}", numeric=True) for v in levels)),
        rows=tuple(lines),
        records=tuple(group_record(r) for r in inputs.means if r.by == "difficulty"),
        summary=f"Table: influence at each difficulty ({plural(len(levels), 'level')})",
        open=False,
    )


# ---- records -----------------------------------------------------------------------------------------------------


def group_record(r: GroupMean) -> dict[str, object]:
    """Return a mean as plain columns."""
    return {
        "name": r.name,
        "condition": r.condition,
        "level": r.level,
        "method": r.method,
        "target": r.target,
        "decomposition": r.decomposition,
        "by": r.by,
        "within": r.within,
        "group": r.group,
        "length": r.length,
        **measured_record(r.mean),
        "n_clusters": r.n_clusters,
    }


def _effect_record(e: InfluenceEffect) -> dict[str, object]:
    about = {"name": e.name, "condition": e.condition, "level": e.level, "method": e.method, "target": e.target, "decomposition": ""}
    return about | {"by": "domain", "within": "", "group": "own - other", "length": e.length, **measured_record(e.effect), "n_clusters": 0}


def _share_record(r: Share) -> dict[str, object]:
    return {
        "name": r.name,
        "condition": r.condition,
        "level": r.level,
        "method": r.method,
        "target": r.target,
        "by": r.by,
        "group": r.group,
        "percent": r.percent,
        "k": r.k,
        "base": r.base,
        **measured_record(r.top, "top_"),
        **measured_record(r.bottom, "bottom_"),
    }
