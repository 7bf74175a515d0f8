"""Means of segments and tokens -> influence of behaviours, kinds and token classes, and the tokens at both ends.

Only learned tokens count. Behaviours are stretches of thoughts (verification, backtracking, ...); the per-token form is the one
to compare, since long stretches accumulate influence.
Paper: Kou et al. 2025, figures 6 to 11. Not covered: whole texts (influence_groups.py), texts token by token
(influence_examples.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from leaven.reporting.dots import Dots, draw_dots
from leaven.reporting.marks import Figure
from leaven.reporting.sections.influence_groups import group_record
from leaven.reporting.sections.influence_inputs import Attributed, GroupMean, InfluenceInputs, ListedToken
from leaven.reporting.sections.influence_words import FORMS, cell_words, dot, influence_cell, method_words, of_cell, targets_of
from leaven.reporting.sections.section import Cell, Column, Section, Table, measured_record
from leaven.reporting.wording import plural

HEADS = {"kind": "kind of segment", "behaviour": "behaviour", "token_class": "token class"}
MOST_RANKS = 8
"""Ranks of tokens on the page; the file beside it has all."""
SPLITS = {"position": "", "loss": "by loss", "leave_out": "segment left out"}


def part_section(inputs: InfluenceInputs) -> Section | None:
    """Return influence by parts of texts; None without segments and tokens."""
    rows = [r for r in inputs.means if r.by in HEADS]
    if not rows:
        return None
    whole = [m for m in inputs.models if of_cell(rows, m)]
    lead = whole[0]
    figures, tables = [], []
    for by in HEADS:
        own = [r for r in of_cell(rows, lead) if r.by == by]
        if own:
            figures += [figure] if by != "kind" and (figure := _figure(by, own)) else []
            tables += [
                _table(by, inputs, cell, number) for number, cell in enumerate(whole) if any(r.by == by for r in of_cell(rows, cell))
            ]
    listed = of_cell(inputs.tokens, lead)
    if listed:
        tables.append(_token_table(inputs, listed))
    method = method_words(rows[0].method)
    return Section(
        id="influence-parts",
        title="Influence of parts of texts",
        short="Influence of parts",
        paragraphs=(
            f"A text's score is split over its tokens so that they add up to it ({method}); a segment's score is the sum over its tokens. "
            "Only learned tokens and segments with one count. The split says what the computation at a token contributes, later tokens' "
            "losses included; it is not what deleting the token would do, except where it says \u201csegment left out\u201d.",
        ),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _form(by: str) -> str:
    return "raw" if by == "token_class" else "per_token"


def _split(rows: Sequence[GroupMean]) -> str:
    """Return the decomposition that a figure shows: the first one."""
    return rows[0].decomposition


def _figure(by: str, rows: Sequence[GroupMean]) -> Figure | None:
    own = [r for r in rows if r.length == _form(by) and r.decomposition == _split(rows)]
    styles = {t: i for i, t in enumerate(targets_of(own))}
    panels, said = [], []
    for target, style in styles.items():
        ranked = sorted((r for r in own if r.target == target), key=lambda r: -(r.mean.estimate or 0.0))[:16]
        dots = [dot(r.group.replace("_", " "), r.mean, style) for r in ranked]
        panels.append(Dots(title=f"Target: {target}", rows=tuple(d for d in dots if d)))
        said += [f"{d.label} {d.words} on {target}" for d in dots[:4] if d]
    if not said:
        return None
    unit = "nats per token" if by == "token_class" else "nats per learned token"
    title = f"Mean influence by {HEADS[by]}"
    return Figure(
        name=f"influence-{by.replace('_', '-')}",
        title=title,
        description=f"{title}, {unit}: {'; '.join(said)}.",
        caption=f"In {unit}, 95 % intervals over texts and seeds; the highest stands first.",
        table=f"influence-{by.replace('_', '-')}",
        draw=lambda width: draw_dots(panels, width),
    )


def _table(by: str, inputs: InfluenceInputs, cell: Attributed, number: int) -> Table:
    rows = [r for r in of_cell(inputs.means, cell) if r.by == by]
    targets = targets_of(rows)
    forms = (_form(by),) if number or by == "token_class" else ("raw", "per_token")
    own = {(r.group, r.decomposition, r.target, r.length): r for r in rows}
    heads = list(dict.fromkeys((r.group, r.decomposition) for r in rows))
    columns = [(t, f) for t in targets for f in forms]
    noun = "token" if by == "token_class" else "segment"
    words = {"raw": f"per {noun}", "per_token": FORMS["per_token"]}
    lines = []
    for group, split in heads:
        found = [own.get((group, split, t, f)) for t, f in columns]
        head = Cell(text=group.replace("_", " "), tags=tuple(w for w in (SPLITS.get(split, split),) if w))
        lines.append((head, *(influence_cell(r.mean, noun=noun) if r else Cell() for r in found)))
    ident = f"influence-{by.replace('_', '-')}"
    return Table(
        id=ident if not number else f"{ident}-{number + 1}",
        caption=f"Mean influence by {HEADS[by]}, nats, {cell_words(cell, inputs)}; 95 % intervals over texts and seeds",
        columns=(Column(name=HEADS[by].capitalize()), *(Column(name=f"on {t}", numeric=True, tags=(words[f],)) for t, f in columns)),
        rows=tuple(lines),
        records=tuple(group_record(r) for r in rows),
        summary=f"Tables: influence by {HEADS[by]}" + (" in other conditions" if number else f" ({plural(len(lines), 'group')})"),
        open=by == "kind" and not number and len(lines) <= 6,
    )


def _token_table(inputs: InfluenceInputs, rows: Sequence[ListedToken]) -> Table:
    """Return the tokens at both ends of every target."""
    targets = targets_of(rows)
    sides = [(t, side) for t in targets for side in ("top", "bottom")]
    lists = {key: [r for r in rows if (r.target, r.side) == key] for key in sides}
    depth = min(max(len(v) for v in lists.values()), MOST_RANKS)
    lines = []
    for i in range(depth):
        cells = []
        for key in sides:
            r = lists[key][i] if i < len(lists[key]) else None
            cell = influence_cell(r.mean, noun="token") if r else Cell()
            cells.append(Cell(text=r.token, tags=(r.token_class, f"{cell.text} {' '.join(cell.tags)}")) if r else Cell())
        lines.append((Cell(text=str(i + 1)), *cells))
    return Table(
        id="influence-tokens",
        caption=f"Tokens of highest and lowest mean influence, nats per token, among the {rows[0].n_frequent:,} that occur at least 20 "
        "times where they are learned. The ends of a ranking are chosen by what is shown, so they are further out than the truth",
        columns=(Column(name="Rank"), *(Column(name=f"{'Helps' if s == 'top' else 'Hurts'} {t}") for t, s in sides)),
        rows=tuple(lines),
        records=tuple(_token_record(r) for r in inputs.tokens),
        summary=f"Table: tokens at both ends ({plural(depth, 'rank')})",
        open=False,
    )


def _token_record(r: ListedToken) -> dict[str, object]:
    return {
        "name": r.name,
        "condition": r.condition,
        "level": r.level,
        "method": r.method,
        "target": r.target,
        "decomposition": r.decomposition,
        "side": r.side,
        "token": r.token,
        "token_class": r.token_class,
        **measured_record(r.mean),
        "n_clusters": r.n_clusters,
        "n_frequent": r.n_frequent,
    }
