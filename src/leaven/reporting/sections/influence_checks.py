"""Length and agreement -> two tables of checks: what scores follow besides content, and whether methods and seeds agree.

Not covered: prediction of retraining (influence_validation.py), the length-controlled means (influence_groups.py).
"""

from __future__ import annotations

from leaven.reporting.sections.influence_inputs import Agreement, Attributed, InfluenceInputs, LengthConfound
from leaven.reporting.sections.influence_words import cell_words, cells, method_words, of_cell, rests, share_words, targets_of
from leaven.reporting.sections.section import Cell, Column, Section, Table, measured_cell, measured_record
from leaven.reporting.wording import interval, plural

MOST_METHODS = 6
"""Methods in the table of agreement: the one that leads and the first others; the file beside the page has all."""


def check_section(inputs: InfluenceInputs) -> Section | None:
    """Return the length confound and the agreement of methods; None without complete scores."""
    lead = cells(inputs)[0]
    tables = [t for t in (_length_table(inputs, lead), *_agreement_tables(inputs, lead)) if t]
    if not tables:
        return None
    return Section(
        id="influence-checks",
        title="What else the scores follow",
        short="Checks of influence",
        paragraphs=(
            "A score that follows a text's length says little about its content, and methods that rank texts alike share their errors. "
            "Rank correlations are taken within each seed's model and averaged.",
        ),
        tables=tuple(tables),
    )


def _length_table(inputs: InfluenceInputs, lead: Attributed) -> Table | None:
    rows: list[LengthConfound] = of_cell(inputs.length, lead)
    if not rows:
        return None
    targets = targets_of(rows)
    own = {(r.method, r.target): r for r in rows}
    columns = [(t, part) for t in targets for part in ("score", "size")]
    lines = []
    for method in dict.fromkeys(r.method for r in rows):
        found = []
        for target, part in columns:
            r = own.get((method, target))
            found.append(measured_cell(r.spearman if part == "score" else r.of_size, signed=True, shared="texts") if r else Cell())
        lines.append((Cell(text=method_words(method)), *found))
    return Table(
        id="influence-length",
        caption=f"Rank correlation of each text's score, and of its size without sign, with the text's learned tokens, "
        f"{cell_words(lead, inputs)}; "
        f"95 % intervals over seeds (over texts for one seed); each rests on {rests([r.spearman for r in rows], 'text')}",
        columns=(Column(name="Method"), *(Column(name=f"on {t}", numeric=True, tags=(part,)) for t, part in columns)),
        rows=tuple(lines),
        records=tuple(
            {
                "name": r.name,
                "condition": r.condition,
                "level": r.level,
                "method": r.method,
                "target": r.target,
                **measured_record(r.spearman),
                **measured_record(r.of_size, "of_size_"),
            }
            for r in inputs.length
        ),
    )


def _agreement_tables(inputs: InfluenceInputs, lead: Attributed) -> list[Table]:
    rows: list[Agreement] = of_cell(inputs.agreement, lead)
    tables = []
    for number, target in enumerate(targets_of(rows), 1):
        own = {frozenset((r.a, r.b)): r for r in rows if r.target == target}
        names = list(dict.fromkeys(n for r in rows if r.target == target for n in (r.a, r.b) if n != "another seed"))
        first = next(r for r in rows if r.target == target)
        shown = sorted(names, key=lambda n: n != lead.main)[:MOST_METHODS]
        lines = [
            (Cell(text=method_words(a)), *(_agreement_cell(own, a, b) if k >= i else Cell(text="") for k, b in enumerate(shown)))
            for i, a in enumerate(shown)
        ]
        caption = f"Agreement of methods on {target}: rank correlation over {plural(first.spearman.n, 'text')} with its 95 % interval over "
        caption += (
            f"seeds, and the overlap of their top {first.k:,} (by chance {share_words(first.chance)}). On the diagonal: two seeds of "
        )
        caption += "one method"
        caption += f". The other {len(names) - MOST_METHODS} methods stand in the file" if len(names) > MOST_METHODS else ""
        tables.append(
            Table(
                id=f"influence-agreement-{number}",
                caption=caption,
                columns=(Column(name="Method"), *(Column(name=method_words(n), numeric=True) for n in shown)),
                rows=tuple(lines),
                records=tuple(_record(r) for r in inputs.agreement if r.target == target),
                summary="Tables: agreement of methods and of seeds",
                open=False,
            )
        )
    return tables


def _agreement_cell(own: dict[frozenset[str], Agreement], a: str, b: str) -> Cell:
    r = own.get(frozenset((a, "another seed")) if a == b else frozenset((a, b)))
    if r is None:
        return Cell()
    cell = measured_cell(r.spearman, shared="texts")
    ends = interval(r.overlap.low, r.overlap.high, percent=True)
    return Cell(
        text=cell.text, tags=(*cell.tags, f"top {share_words(r.overlap.estimate)}" + (f" {ends}" if r.overlap.low is not None else ""))
    )


def _record(r: Agreement) -> dict[str, object]:
    return {
        "name": r.name,
        "condition": r.condition,
        "level": r.level,
        "target": r.target,
        "a": r.a,
        "b": r.b,
        **measured_record(r.spearman),
        "k": r.k,
        "chance": r.chance,
        **measured_record(r.overlap, "overlap_"),
    }
