"""How well every method predicts retraining -> the section that the report on influence opens with.

Whichever method wins is named first; where no model was retrained, the section says that nothing shows how far the scores
can be trusted. The measure is the linear datamodelling score: the rank correlation, over retrained subsets, of the sum of
scores with the measured target (Ilyas et al. 2022; Park et al. 2023).
Not covered: retraining itself (attribution/validate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leaven.reporting.dots import Dots, draw_dots
from leaven.reporting.marks import Figure
from leaven.reporting.sections.influence_inputs import Attributed, InfluenceInputs, Validated
from leaven.reporting.sections.influence_words import cell_words, dot, method_words, of_cell
from leaven.reporting.sections.inputs import Measured
from leaven.reporting.sections.section import Cell, Column, Section, Table, listed, measured_cell, measured_record, sentence
from leaven.reporting.wording import MISSING, interval, number, plural

KINDS = {
    ("lds", "spearman"): "Random subsets left out, rank correlation (linear datamodelling score)",
    ("group", "spearman"): "Groups left out, rank correlation",
    ("group", "pearson"): "Groups left out, linear correlation",
    ("group", "sign"): "Groups left out, share of right signs",
}
UNIT = {"lds": "subset", "group": "group", "auc": "text", "top": "random removal"}
DRAWN = (("lds", "spearman"), ("group", "spearman"))
MOST_DRAWN = 14


def validation_section(inputs: InfluenceInputs) -> Section:
    """Return the section on how far the scores predict retraining, and what was attributed."""
    lead = inputs.models[0]
    rows = of_cell(inputs.validation, lead) or list(inputs.validation)
    figure = _figure(rows)
    measures = list(dict.fromkeys((r.kind, r.statistic) for r in inputs.validation))
    return Section(
        id="influence",
        title="Influence of training examples",
        short="Influence",
        paragraphs=(_verdict(rows, lead), _made(inputs, lead)),
        figures=(figure,) if figure else (),
        tables=tuple(_table(inputs, *m) for m in measures),
    )


def _words(kind: str, statistic: str) -> str:
    end, _, k = statistic.partition("-")
    if kind == "top":
        return f"The {k} {'most' if end == 'top' else 'least'} helpful texts left out, drop of the target in nats"
    if kind == "auc":
        return f"Planted truths, {statistic}: share of pairs in the right order (area under the curve)"
    return KINDS.get((kind, statistic), f"{kind}, {statistic}")


def _overall(rows: Sequence[Validated], kind: str, statistic: str) -> list[Validated]:
    """Return each method's number over all targets, with scores averaged over most models, the best first."""
    own = [r for r in rows if (r.kind, r.statistic) == (kind, statistic) and r.value.estimate is not None]
    own = [r for r in own if r.query == "all"] or own
    most = {r.method: max(x.models_averaged for x in own if x.method == r.method) for r in own}
    chosen = [r for r in own if r.models_averaged == most[r.method]]
    return sorted(chosen, key=lambda r: -(r.value.estimate or 0.0))


def _verdict(rows: Sequence[Validated], lead: Attributed) -> str:
    """Return the sentence that the report on influence opens with."""
    ranked = next((found for m in DRAWN if (found := _overall(rows, *m))), [])
    planted = _planted(rows)
    if not ranked:
        return (
            "No model was retrained on part of the data, so nothing here shows how far these scores predict what removing "
            f"examples does. Read every number below as a first-order estimate, not as an effect.{planted}"
        )
    best, *others = ranked
    where = {"lds": "random subsets of the data", "group": "groups of examples left out"}.get(best.kind, best.kind)
    told = f"{sentence(method_words(best.method))} predicts retraining best: rank correlation {_plain(best.value)} "
    told += f"with what happened to models retrained on {where} ({plural(best.value.n, UNIT.get(best.kind, 'subset'))}"
    told += f", {plural(best.n_seeds, 'seed')} each" if best.n_seeds else ""
    told += f"; scores averaged over {plural(best.models_averaged, 'model')})" if best.models_averaged > 1 else ")"
    told += f"; the noise of retraining leaves {number(best.ceiling)} possible" if best.ceiling is not None else ""
    ties = [r for r in others if _tied(best, r)]
    told += f". Not told apart from it: {listed([method_words(r.method) for r in ties])}" if ties else ""
    if best.value.low is not None and best.value.low <= 0:
        told += ". Its interval holds zero: these scores were not shown to predict anything"
    return told + f".{planted} Where one method is shown below, it is {method_words(lead.main)}."


def _planted(rows: Sequence[Validated]) -> str:
    """Return how well the best method tells planted texts apart, one sentence per kind of planted truth."""
    said = []
    for statistic in dict.fromkeys(r.statistic for r in rows if r.kind == "auc"):
        best = next(iter(_overall(rows, "auc", statistic)), None)
        if best:
            share = f"{_plain(best.value)} of pairs ({plural(best.value.n, 'text')})"
            said.append(
                f" Planted truths, {statistic}: {method_words(best.method)} orders {share} rightly, the best of all methods; chance is 0.5."
            )
    return "".join(said)


def _plain(m: Measured) -> str:
    return f"{number(m.estimate)} {interval(m.low, m.high)}".removesuffix(f" {MISSING}")


def _tied(best: Validated, other: Validated) -> bool:
    """Return whether two methods are not told apart: their paired difference holds zero, or else their intervals overlap."""
    for a, b in ((best, other), (other, best)):
        d = b.minus_reference
        if a.method == b.reference and d is not None and d.low is not None and d.high is not None:
            return d.low <= 0 <= d.high
    low, high = best.value.low, other.value.high
    return low is not None and high is not None and high >= low


def _made(inputs: InfluenceInputs, lead: Attributed) -> str:
    """Return what was attributed, in words."""
    targets = listed([f"{t} ({plural(n, 'query', 'queries')})" for t, n in lead.targets.items()])
    text = f"Scored: {plural(lead.n_texts, 'training text')} of {cell_words(lead, inputs)} for {targets or 'no target'}, "
    text += f"by {listed([method_words(m) for m in lead.methods])}, on {plural(len(lead.seeds), 'model')} (one per seed). "
    if lead.n_modules:
        text += f"Gradients of {plural(lead.n_modules, 'layer')}, {plural(lead.n_parameters, 'parameter')}. "
    if lead.n_lost:
        text += f"{plural(lead.n_lost, 'text')} that not every seed's model was asked about are left out. "
    if not lead.complete:
        text += (
            "Only the highest and lowest texts of each query were kept, so there are no means: a text left out is not one "
            "without influence. "
        )
    text += (
        "A score is in nats: by how much the target's mean log-likelihood falls, to first order, when one training text is removed; "
        "positive helps. Intervals treat seeds and texts as random, both at once; they do not cover the error of the method itself."
    )
    more = [cell_words(m, inputs) for m in inputs.models[1:]]
    return text + (f" Also scored, in the folded tables: {listed(more)}." if more else "")


def _figure(rows: Sequence[Validated]) -> Figure | None:
    panels, said = [], []
    order = {m: i for i, m in enumerate(dict.fromkeys(r.method for r in rows))}
    planted = dict.fromkeys((r.kind, r.statistic) for r in rows if r.kind == "auc")
    drawn = [m for m in (*DRAWN, *planted) if _overall(rows, *m)]
    for kind, statistic in drawn:
        ranked = _overall(rows, kind, statistic)[:MOST_DRAWN]
        named = len({r.query for r in ranked}) > 1
        dots = [
            dot(method_words(r.method) + (f", {r.query}" if named else ""), r.value, order[r.method], r.ceiling, plain=True) for r in ranked
        ]
        panels.append(Dots(title=_words(kind, statistic), rows=tuple(d for d in dots if d), zero=kind != "auc"))
        said += [f"{d.label} {d.words}" for d in dots[:5] if d]
    if not panels:
        return None
    title = "How well each method predicts retraining"
    return Figure(
        name="influence-validation",
        title=title,
        description=f"{title}: {'; '.join(said)}.",
        caption="95 % intervals over subsets and targets; 0 is chance (0.5 for an area under the curve). The upright tick is what "
        "the noise "
        "of retraining leaves possible.",
        table=_ident(*drawn[0]),
        draw=lambda width: draw_dots(panels, width),
    )


def _ident(kind: str, statistic: str) -> str:
    return "influence-validation-" + "".join(c if c.isalnum() else "-" for c in f"{kind}-{statistic}".lower())


def _table(inputs: InfluenceInputs, kind: str, statistic: str) -> Table:
    """Return one measure of all methods; only the leading one has a column for each target, the file has all of them."""
    rows = [r for r in inputs.validation if (r.kind, r.statistic) == (kind, statistic)]
    leads = (kind, statistic) == DRAWN[0] or kind == "auc"
    queries = list(dict.fromkeys(r.query for r in rows))
    queries = queries[:7] if leads else [q for q in queries if q == "all"] or queries[:1]
    several = len({(r.name, r.condition, r.level) for r in rows}) > 1
    unit = UNIT.get(kind, "subset")
    heads = list(dict.fromkeys((r.name, r.condition, r.level, r.method) for r in rows))
    lines = []
    for head in heads:
        own = [r for r in rows if (r.name, r.condition, r.level, r.method) == head]
        most = max(r.models_averaged for r in own)
        found = [next((r for r in own if r.query == q and r.models_averaged == most), None) for q in queries]
        first = next((r for r in found if r), own[0])
        alone = next((r for r in own if r.models_averaged == 1 < most and r.query == queries[0]), None)
        cells = [_value(r, unit, f"{method_words(r.method)}, {_words(kind, statistic)}, {r.query}") if r else Cell() for r in found]
        if alone is not None:
            cells[0] = replace(cells[0], tags=(*cells[0].tags, f"one model: {_plain(alone.value)}"))
        versus = first.minus_reference
        last = Cell(text="reference" if first.reference == first.method else MISSING)
        if versus:
            last = measured_cell(versus, signed=True, shared=unit)
        lines.append((Cell(text=method_words(first.method), tags=(cell_words(first, inputs),) if several else ()), *cells, last))
    references = listed([method_words(r) for r in dict.fromkeys(r.reference for r in rows) if r])
    ceilings = sorted({r.ceiling for r in rows if r.ceiling is not None})
    averaged = max(r.models_averaged for r in rows)
    caption = f"{_words(kind, statistic)}; 95 % intervals; {plural(rows[0].value.n, unit)}"
    caption += f", {plural(rows[0].n_seeds, 'seed')} each" if rows[0].n_seeds else ""
    caption += f"; scores averaged over {averaged} models, below it those of one model" if averaged > 1 else ""
    caption += f"; ceiling {' to '.join(number(c) for c in dict.fromkeys((ceilings[0], ceilings[-1])))}" if ceilings else ""
    return Table(
        id=_ident(kind, statistic),
        caption=caption,
        columns=(
            Column(name="Method"),
            *(Column(name="all targets" if q == "all" else q, numeric=True) for q in queries),
            Column(name=f"Minus {references or 'the reference'}", numeric=True, tags=("paired, all targets",)),
        ),
        rows=tuple(lines),
        records=tuple(_record(r) for r in rows),
        summary=f"Table: {_words(kind, statistic)} ({plural(len(lines), 'row')})",
        open=leads and len(lines) <= 16,
    )


def _value(r: Validated, unit: str, what: str) -> Cell:
    return measured_cell(r.value, shared=unit, what=what)


def _record(r: Validated) -> dict[str, object]:
    return {
        "name": r.name,
        "condition": r.condition,
        "level": r.level,
        "kind": r.kind,
        "statistic": r.statistic,
        "method": r.method,
        "query": r.query,
        "step": r.step,
        **measured_record(r.value),
        "n_seeds": r.n_seeds,
        "models_averaged": r.models_averaged,
        "reference": r.reference,
        **measured_record(r.minus_reference, "minus_reference_"),
        "ceiling": r.ceiling,
    }
