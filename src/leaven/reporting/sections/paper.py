"""Our effects and scores + the paper's claims and numbers -> agreed, opposed, mixed, undecided or not comparable, and why.

Directions are held against directions, never sizes: another model on other data. A claim is agreed with when the
declared rule (or, where a probe declares none, the 95 % interval) gives its direction; opposed when it gives the other
one, or no difference beyond a declared margin where one was claimed; undecided when ours allows both. A printed number
is comparable only on the same benchmark with the same model.
Paper: Liu et al. 2025. Not covered: the paper's own arithmetic (errata.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from leaven.analysis.stats import wilson
from leaven.reporting.references_liu2025 import CLAIM_MEASURES, CLAIMS, MODEL, TABLES, Claim, PaperColumn, PaperTable
from leaven.reporting.sections.inputs import Effect, Measured, OrderInputs, StrategyResult
from leaven.reporting.sections.printed import printed_effects, printed_summary, whole_count
from leaven.reporting.sections.section import Cell, Column, Section, Source, Table, basis_of, bracketed, listed, measured_record
from leaven.reporting.sections.strategies import strategy_words
from leaven.reporting.wording import MISSING, interval, number, plural

Verdict = Literal["agreed", "opposed", "mixed", "undecided", "not comparable"]
SHOWN: dict[Verdict, tuple[str, str]] = {
    "agreed": ("favours", "\u2713 agreed"),
    "opposed": ("opposes", "\u2717 opposed"),
    "mixed": ("open", "\u00b1 mixed"),
    "undecided": ("open", "? undecided"),
    "not comparable": ("open", "\u2013 not comparable"),
}
EXPECTS = {"higher": "higher", "lower": "lower", "no_difference": "no difference", "not_higher": "not higher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One claim beside what this study found: the verdict, why, and the effects it rests on (turned to the claim)."""

    claim: Claim
    verdict: Verdict
    why: str
    effects: tuple[Effect, ...] = ()


def direction(effect: Effect) -> int | None:
    """Return what an effect says: 1 higher, -1 lower, 0 no difference beyond the margin, None undecided."""
    e = effect.effect
    if e.estimate is None or effect.decision == "inconclusive":
        return None
    if effect.decision == "no_difference":
        return 0
    if effect.decision in ("favours", "opposes"):
        return 1 if e.estimate > 0 else -1
    if e.low is None or e.high is None:
        return None
    return 1 if e.low > 0 else -1 if e.high < 0 else None


def judge_effect(claim: Claim, effect: Effect) -> tuple[Verdict, str]:
    """Return the verdict of one effect on a claim, and why; the effect is treatment minus control of the claim."""
    if effect.unfit:
        return "not comparable", effect.unfit
    found = direction(effect)
    if found is None:
        return "undecided", "our interval allows either direction"
    word = {1: "higher", -1: "lower", 0: "no difference beyond our margin"}[found]
    right = {"higher": found == 1, "lower": found == -1, "no_difference": found == 0, "not_higher": found <= 0}[claim.expects]
    return ("agreed" if right else "opposed"), f"ours is {word}" if found else f"ours shows {word}"


def compare(claim: Claim, inputs: OrderInputs) -> Comparison:
    """Return the claim beside this study's results."""
    effects = _matching(claim, inputs.effects)
    if not effects:
        return Comparison(claim=claim, verdict="not comparable", why=_missing(claim, inputs))
    judged = [judge_effect(claim, e) for e in effects]
    if len(judged) == 1:
        return Comparison(claim=claim, verdict=judged[0][0], why=judged[0][1], effects=effects)
    counts = Counter(v for v, _ in judged)
    decided: Verdict = "undecided"
    if set(counts) == {"not comparable"}:
        decided = "not comparable"
    elif counts["opposed"] and (claim.each or not counts["agreed"]):
        decided = "opposed"
    elif counts["opposed"]:
        decided = "mixed"
    elif counts["agreed"] and (not claim.each or set(counts) <= {"agreed", "not comparable"}):
        decided = "agreed"
    told = listed([f"{n} {v}" for v, n in counts.most_common()])
    asked = ", and the claim is about each of them" if claim.each else ""
    return Comparison(claim=claim, verdict=decided, why=f"of {plural(len(judged), 'result')}: {told}{asked}", effects=effects)


def _matching(claim: Claim, effects: Iterable[Effect]) -> tuple[Effect, ...]:
    """Return the effects that speak of a claim, turned so that they are its treatment minus its control.

    A claim about all items is held against the single levels of a study whose every result is one of a level.
    """
    said = [e for e in effects if e.measure == claim.measure and {e.treatment, e.control} == {claim.treatment, claim.control}]
    of_scope = [e for e in said if e.scope.split(" ")[0] == claim.scope]
    found: list[Effect] = []
    for e in of_scope or ([e for e in said if e.scope.startswith("level ")] if not claim.scope else []):
        if (e.treatment, e.control) == (claim.treatment, claim.control):
            found.append(e)
        else:
            found.append(turned(e))
    return tuple(_once(found))


def _once(effects: Sequence[Effect]) -> list[Effect]:
    """Return effects without repetitions: conditions that were looked at before they parted share one number."""
    kept: dict[object, Effect] = {}
    for e in effects:
        key = (e.benchmark, e.effect.estimate, e.effect.low, e.effect.high, e.scope if e.scope.split(" ")[0] != "condition" else "")
        told = kept.get(key)
        kept[key] = replace(told, scope=f"{told.scope}, {e.scope.partition(' ')[2]}") if told else e
    return list(kept.values())


def turned(effect: Effect) -> Effect:
    """Return an effect as control minus treatment."""
    m = effect.effect
    ends = [None if v is None else -v for v in (m.estimate, m.high, m.low)]
    swapped = {"favours": "opposes", "opposes": "favours"}.get(effect.decision, effect.decision)
    measured = replace(m, estimate=ends[0], low=ends[1], high=ends[2])
    return replace(effect, treatment=effect.control, control=effect.treatment, effect=measured, decision=swapped)


def _missing(claim: Claim, inputs: OrderInputs) -> str:
    """Return why this study has nothing to hold against a claim."""
    played = set(inputs.strategies.values())
    lacking = [strategy_words(s) for s in (claim.treatment, claim.control) if not s.startswith("part:") and s not in played]
    if lacking:
        return f"no condition here is \u201c{listed(lacking)}\u201d"
    where = f" for another {claim.scope}" if claim.scope else ""
    where = {"difficulty": " at single difficulties", "level": " at several settings", "condition": ""}.get(claim.scope, where)
    return f"this study did not measure {CLAIM_MEASURES[claim.measure]}{where}"


def paper_section(inputs: OrderInputs) -> Section | None:
    """Return the section that puts the paper's claims and numbers beside ours; None unless the study asks for it."""
    if not inputs.paper:
        return None
    found = [compare(claim, inputs) for claim in CLAIMS]
    counts = Counter(c.verdict for c in found)
    told = listed([f"{counts[v]} {v}" for v in SHOWN if counts[v]])
    ours = f"this study trained {inputs.model}" if inputs.model else "this study trained another model"
    tables = (*_claim_tables(found), *_number_tables(inputs))
    return Section(
        id="paper",
        title="Beside the paper",
        short="Beside the paper",
        paragraphs=(
            f"Of {plural(len(found), 'claim')} of Liu et al. 2025: {told}.",
            "A claim is held against our result by its direction, never by its size: the paper fine-tuned DeepSeek-Coder-6.7B on "
            f"51,200 examples, {ours}. Ours counts as a direction when the declared rule says so, or, where a probe has no rule, when "
            "the 95 % interval leaves out zero. Intervals of the paper are computed from its printed counts, as if both strategies had "
            "met different items, since which items passed is not printed.",
        ),
        tables=tables,
    )


def _claim_tables(found: Sequence[Comparison]) -> tuple[Table, ...]:
    """Return the claims that a result of ours speaks to, and folded those that none does."""
    order = list(SHOWN)
    ranked = sorted(found, key=lambda c: order.index(c.verdict))
    told, silent = [c for c in ranked if c.effects], [c for c in ranked if not c.effects]
    return (
        *([_claim_table("claims", "Claims of the paper beside this study", told, "")] if told else []),
        *(
            [_claim_table("claims-silent", "Claims of the paper that no result here speaks to", silent, "Claims not measured here")]
            if silent
            else []
        ),
    )


def _claim_table(ident: str, caption: str, found: Sequence[Comparison], summary: str) -> Table:
    rows, records = [], []
    for c in found:
        kind, word = SHOWN[c.verdict]
        first, *others = [_ours(c.claim, e) for e in c.effects] or [MISSING]
        source = _source(c) if len(c.effects) == 1 else None
        paper = Cell(text=EXPECTS[c.claim.expects], tags=tuple(printed_summary(c.claim)) or ("a figure; no number is printed",))
        rows.append(
            (
                Cell(text=c.claim.text, tags=(c.claim.where,)),
                paper,
                *([Cell(text=first, tags=tuple(others), source=source)] if c.effects else []),
                Cell(text=word, kind=kind, tags=(c.why,)),
            )
        )
        records += [_claim_record(c, e, printed_effects(c.claim)) for e in c.effects or (None,)]
    ours = ["Ours"] if any(c.effects for c in found) else []
    return Table(
        id=ident,
        caption=caption,
        columns=tuple(Column(name=n) for n in ("Claim", "The paper", *ours, "Verdict")),
        rows=tuple(rows),
        records=tuple(records),
        summary=f"{summary} ({len(rows)})",
        open=not summary,
        text=True,
    )


def _ours(claim: Claim, e: Effect) -> str:
    """Return one of our effects in words: where, how large, what it rests on."""
    where = ", ".join(w for w in (e.benchmark, e.scope) if w)
    rest = basis_of(e.effect, {"pass_rate": "item", "pass_at_k": "item"}.get(e.measure, "example"))
    unit = " points" if e.binary else ""
    many = f" ({judge_effect(claim, e)[0]})" if claim.each else ""
    told = bracketed(e.effect, percent=e.binary, signed=True).replace(" [", f"{unit} [", 1) if unit else bracketed(e.effect, signed=True)
    return (f"{where}: " if where else "") + told + (f", {rest}" if rest else "") + many


def _source(c: Comparison) -> Source | None:
    e = c.effects[0]
    what = f"{strategy_words(e.treatment)} against {strategy_words(e.control)}, {CLAIM_MEASURES[e.measure]}"
    return Source(what=what, measured=e.effect, percent=e.binary, signed=True) if e.effect.runs else None


def _claim_record(c: Comparison, e: Effect | None, printed: Sequence[str]) -> dict[str, object]:
    return {
        "claim": c.claim.id,
        "text": c.claim.text,
        "where": c.claim.where,
        "treatment": c.claim.treatment,
        "control": c.claim.control,
        "measure": c.claim.measure,
        "expects": c.claim.expects,
        "paper": "; ".join(printed),
        "verdict": c.verdict,
        "why": c.why,
        "benchmark": e.benchmark if e else "",
        "scope": e.scope if e else c.claim.scope,
        **measured_record(e.effect if e else None),
        "decision": e.decision if e else "",
    }


# ---- printed numbers -----------------------------------------------------------------------------


def same_model(model: str) -> bool:
    """Return whether a study trained the paper's main model, by the last part of its name."""
    return model.rstrip("/").rsplit("/", 1)[-1].lower() == MODEL


def beside(printed: float, column: PaperColumn, table: int, ours: Measured, model: str) -> tuple[Verdict, str]:
    """Return whether our score (a share of 1) agrees with a printed one: the interval of the difference holds zero."""
    if not same_model(model):
        return "not comparable", "another model"
    if column.n is None or ours.estimate is None or ours.low is None or ours.high is None:
        return "not comparable", "no interval on one side"
    p = wilson(whole_count(printed, column.n, table), column.n)
    d = ours.estimate - p.estimate
    low = d - math.hypot(ours.estimate - ours.low, p.high - p.estimate)
    high = d + math.hypot(ours.high - ours.estimate, p.estimate - p.low)
    verdict: Verdict = "agreed" if low <= 0 <= high else "opposed"
    return verdict, f"ours minus the paper's {number(d, sign=True, percent=True)} {interval(low, high, sign=True, percent=True)}"


def _number_tables(inputs: OrderInputs) -> list[Table]:
    """Return the paper's tables in one fold that says how many of their numbers agree with ours."""
    made = [_number_table(t, inputs) for t in TABLES.values() if t.number != 10]
    counts = Counter(str(row["verdict"]) for t in made for row in t.records)
    told = listed([f"{counts[v]} {v}" for v in SHOWN if counts[v]])
    summary = f"Numbers that the paper prints, beside ours ({len(made)} tables; {told})"
    return [replace(t, summary=summary) for t in made]


def _number_table(table: PaperTable, inputs: OrderInputs) -> Table:
    """Return one table of the paper with ours under its numbers where the benchmark is the same."""
    rows, records, verdicts = [], [], Counter()
    for name, values in table.rows.items():
        line = [Cell(text=strategy_words(name) if table.number not in (8, 10) else name)]
        for column, value in zip(table.columns, values, strict=True):
            ours = _our_score(name, column, inputs) if table.number not in (7, 8) else None
            tags, verdict, why = _wilson_tag(value, column, table.number), "not comparable", "not measured here"
            if ours is not None:
                verdict, why = beside(value, column, table.number, ours.score, inputs.model)
                tags = (*tags, f"ours {bracketed(ours.score, percent=True)}", SHOWN[verdict][1] + f": {why}")
            verdicts[verdict] += 1
            line.append(Cell(text=f"{value:,.10g}" if value >= 1000 else f"{value:g}", tags=tags))
            records.append(
                {
                    "table": table.number,
                    "row": name,
                    "column": column.key,
                    "printed": value,
                    "n_items": column.n,
                    **measured_record(ours.score if ours else None, "ours_"),
                    "verdict": verdict,
                    "why": why,
                }
            )
        rows.append(tuple(line))
    told = listed([f"{n} {v}" for v, n in verdicts.items()])
    none = set(verdicts) == {"not comparable"}
    why = _why_not(table, inputs) if none else told
    return Table(
        id=f"paper-table-{table.number}",
        caption=f"The paper's table {table.number}: {table.title}. {'Not comparable' if none else 'Beside ours'}: {why}. Brackets: 95 % "
        "Wilson intervals over items, where their number is known",
        columns=(Column(name="Row"), *(Column(name=c.name, numeric=True, tags=(f"n = {c.n:,}",) if c.n else ()) for c in table.columns)),
        rows=tuple(rows),
        records=tuple(records),
        open=False,
    )


def _wilson_tag(value: float, column: PaperColumn, table: int) -> tuple[str, ...]:
    if column.n is None:
        return ()
    found = wilson(whole_count(value, column.n, table), column.n)
    scale = column.n if table == 7 else 100
    return (f"[{scale * found.low:.1f}, {scale * found.high:.1f}]",)


def _our_score(strategy: str, column: PaperColumn, inputs: OrderInputs) -> StrategyResult | None:
    """Return our score on the benchmark of a column by the condition that plays `strategy`; None without one."""
    if not column.kind:
        return None
    for r in inputs.results:
        plain = r.difficulty is None and not r.prompted and r.binary
        kind = inputs.benchmark_kinds.get(r.benchmark, r.benchmark)
        if plain and kind == column.kind and inputs.strategies.get(r.condition) == strategy:
            return r
    return None


def _why_not(table: PaperTable, inputs: OrderInputs) -> str:
    """Return why nothing of ours can be put beside a table of the paper."""
    kinds = {inputs.benchmark_kinds.get(r.benchmark, r.benchmark) for r in inputs.results}
    wanted = {c.kind for c in table.columns if c.kind}
    if wanted & kinds and not same_model(inputs.model):
        return f"another model ({inputs.model or 'not named'}; the paper's is DeepSeek-Coder-6.7B-Base)"
    if not wanted:
        return "its measure was not taken here under the same conditions"
    return "this study did not run " + listed([c.name for c in table.columns if c.kind])
