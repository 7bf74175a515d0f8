"""Our influences + the claims of Kou et al. 2025 -> agreed, opposed, mixed, undecided or not comparable; and its numbers recomputed.

Directions are held against directions. The raw form decides, as in the paper; where taking a trend in length out gives the
other direction, the verdict is mixed. Nothing here makes an influence an effect: whether scores predict retraining stands at
the top of the section on influence, and claims about accuracy are held against measured contrasts alone.
Paper: Kou et al. 2025, as far as it is known (references_kou2025.py). Not covered: Liu et al. 2025 (paper.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from leaven.analysis.stats import mcnemar, wilson
from leaven.reporting.references_kou2025 import (
    AIME_AFTER,
    AIME_BEFORE,
    AIME_ITEMS,
    CLAIMS,
    DATA_COUNTED,
    DATA_PARTS,
    LIVECODEBENCH_AFTER,
    LIVECODEBENCH_BEFORE,
    MATH500_DROP,
    MATH500_ITEMS,
    MODELS,
    ORIGINS,
    InfluenceClaim,
)
from leaven.reporting.sections.errata import Erratum, errata_table
from leaven.reporting.sections.influence_inputs import InfluenceEffect, InfluenceInputs
from leaven.reporting.sections.influence_words import FORMS, cell_words, method_words
from leaven.reporting.sections.inputs import Effect, Measured
from leaven.reporting.sections.paper import SHOWN, Verdict, direction, turned
from leaven.reporting.sections.printed import difference_of_shares
from leaven.reporting.sections.section import Cell, Column, Section, Table, basis_of, bracketed, listed, measured_record
from leaven.reporting.wording import MISSING, interval, number, plural

NOUNS = {"own_domain": "text", "mean": "text", "difficulty_slope": "text", "symbolic_slope": "text", "exploration": "segment"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One claim beside ours: the verdict, why, and the numbers it rests on."""

    claim: InfluenceClaim
    verdict: Verdict
    why: str
    effects: tuple[InfluenceEffect, ...] = ()
    accuracies: tuple[Effect, ...] = ()


def influence_paper_sections(inputs: InfluenceInputs) -> list[Section]:
    """Return the claims beside ours and the paper's numbers recomputed; nothing unless the study asks for it."""
    if not inputs.paper:
        return []
    found = [hold(claim, inputs) for claim in CLAIMS]
    counts = Counter(h.verdict for h in found)
    told = listed([f"{counts[v]} {v}" for v in SHOWN if counts[v]])
    checks = influence_errata()
    ours = f"this study trained {inputs.model}" if inputs.model else "this study trained another model"
    warning = "" if inputs.validation else " No retraining was done here, so agreement on a direction is agreement of two estimates."
    claims = Section(
        id="influence-paper",
        title="Beside Kou et al. 2025",
        short="Beside Kou et al.",
        paragraphs=(
            f"Of {plural(len(found), 'claim')} of Kou et al. 2025: {told}.{warning}",
            f"Held by direction, never by size: the paper scored the data of {listed(MODELS)}; {ours}. Its full text was not at "
            f"hand: every "
            "claim says what it is known from. Ours counts as a direction when the 95 % interval leaves out zero.",
        ),
        tables=tuple(_claim_tables(found, inputs)),
    )
    limits = Section(
        id="influence-errata",
        title="Kou et al. 2025, recomputed",
        short="Kou et al. recomputed",
        paragraphs=("What the paper's known numbers carry, computed when this page was written.",),
        tables=(errata_table("influence-recomputed", "The paper's numbers, recomputed", checks, "", True),),
        notes=LIMITS,
    )
    return [claims, limits]


LIMITS = (
    "Limits that cannot be recomputed: MLP layers only; fine-tuning that has not converged, where influence is a heuristic; a target over "
    "correctly answered items alone, which sees no gain on items that are still wrong; difficulty labels made by a model; no retraining "
    "on subsets is known of, so the scores' own error is unknown.",
    "The flip replaces examples by others of another source and length, and no random swap of the same size is known of: part of the gain "
    "may belong to source or tokens. Here `reweigh` can be matched by source and tokens, with a random swap beside it.",
)


def hold(claim: InfluenceClaim, inputs: InfluenceInputs) -> Held:
    """Return a claim beside this study's results."""
    if claim.measure.startswith("score:"):
        return _hold_score(claim, inputs)
    effects = tuple(e for e in inputs.effects if e.measure == claim.measure and e.target == claim.target)
    raw = [e for e in effects if e.length == "raw"]
    if not raw:
        return Held(claim=claim, verdict="not comparable", why=_missing(claim, inputs))
    verdicts = [_judge(claim, e.effect) for e in raw]
    verdict = _together(verdicts)
    why = {
        "agreed": "ours has the same direction",
        "opposed": "ours has the other direction",
        "undecided": "our interval allows either direction",
    }
    told = why.get(verdict, "our conditions differ")
    if len(raw) > 1:
        counts = Counter(verdicts)
        told = f"of {plural(len(raw), 'condition')}: " + listed([f"{counts[v]} {v}" for v in SHOWN if counts[v]])
    controlled = [_judge(claim, e.effect) for e in effects if e.length == "regressed"]
    after = _together(controlled) if controlled else verdict
    if {verdict, after} == {"agreed", "opposed"}:
        return Held(claim=claim, verdict="mixed", why=f"{told}; with length regressed out: {after}", effects=effects)
    if after != verdict:
        told += f"; with length regressed out: {after}"
    return Held(claim=claim, verdict=verdict, why=told, effects=effects)


def _judge(claim: InfluenceClaim, measured: Measured) -> Verdict:
    if measured.estimate is None or measured.low is None or measured.high is None or measured.low <= 0 <= measured.high:
        return "undecided"
    return "agreed" if (measured.low > 0) == (claim.expects == "higher") else "opposed"


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of several results: mixed where they disagree, those that decide otherwise."""
    decided = {v for v in verdicts if v in ("agreed", "opposed")}
    return "mixed" if len(decided) > 1 else decided.pop() if decided else "undecided"


def _hold_score(claim: InfluenceClaim, inputs: InfluenceInputs) -> Held:
    """Return a claim about accuracy beside the measured contrasts of the conditions that play its roles."""
    role = claim.measure.partition(":")[2]
    found = []
    for e in inputs.accuracies:
        if {e.treatment, e.control} == {role, "original"} and inputs.domains.get(e.benchmark) == claim.target:
            found.append(e if e.treatment == role else turned(e))
    if not found:
        return Held(claim=claim, verdict="not comparable", why=_missing(claim, inputs))
    wanted = 1 if claim.expects == "higher" else -1
    verdicts: list[Verdict] = []
    for e in found:
        way = direction(e)
        verdicts.append("undecided" if way is None else "agreed" if way == wanted else "opposed")
    verdict = _together(verdicts)
    why = {"agreed": "measured, not estimated", "opposed": "measured: the other direction, or no difference beyond the margin"}
    return Held(claim=claim, verdict=verdict, why=why.get(verdict, "measured; our interval allows either"), accuracies=tuple(found))


def _missing(claim: InfluenceClaim, inputs: InfluenceInputs) -> str:
    """Return why this study has nothing to hold against a claim."""
    kind = claim.measure.partition(":")[0]
    targets = {e.target for e in inputs.effects}
    if kind == "score":
        role = claim.measure.partition(":")[2]
        return (
            f"no condition here plays \u201c{role}\u201d"
            if role not in inputs.roles.values()
            else "its accuracy was not contrasted with the original data"
        )
    if targets and claim.target not in targets:
        return f"no target of {claim.target} was asked about"
    reasons = {
        "difficulty_slope": "the training texts have no difficulty, or one alone",
        "symbolic_slope": "the training texts have no score of how symbolic they are",
        "exploration": "segments were not scored, or no thought has labelled behaviours",
        "connector_tokens": "tokens were not scored",
        "structure_tokens": "tokens were not scored",
    }
    return reasons.get(kind, "no training texts of this domain, or not every text has a score")


def _claim_tables(found: Sequence[Held], inputs: InfluenceInputs) -> list[Table]:
    order = list(SHOWN)
    ranked = sorted(found, key=lambda h: order.index(h.verdict))
    told, silent = [h for h in ranked if h.effects or h.accuracies], [h for h in ranked if not h.effects and not h.accuracies]
    tables = []
    if told:
        tables.append(_claim_table("influence-claims", "Claims of the paper beside this study", told, inputs, ""))
    if silent:
        tables.append(
            _claim_table("influence-claims-silent", "Claims that no result here speaks to", silent, inputs, "Claims not measured here")
        )
    return tables


def _claim_table(ident: str, caption: str, found: Sequence[Held], inputs: InfluenceInputs, summary: str) -> Table:
    rows, records = [], []
    for h in found:
        kind, word = SHOWN[h.verdict]
        lines = [_words(e, h.claim, inputs) for e in h.effects if e.length in ("raw", "regressed")]
        lines += [f"{e.benchmark}: {bracketed(e.effect, percent=e.binary, signed=True)}, {basis_of(e.effect)}" for e in h.accuracies]
        first, *others = lines or [MISSING]
        known = f"{h.claim.where}; known from {ORIGINS[h.claim.origin]}"
        rows.append(
            (
                Cell(text=h.claim.text, tags=(known, h.claim.printed) if h.claim.printed else (known,)),
                *((Cell(text=first, tags=tuple(others)),) if lines else ()),
                Cell(text=word, kind=kind, tags=(h.why,)),
            )
        )
        records += [_record(h, e.effect, e.condition, e.length) for e in h.effects] or [
            _record(h, e.effect, "", "accuracy") for e in h.accuracies
        ]
        if not h.effects and not h.accuracies:
            records.append(_record(h, None, "", ""))
    return Table(
        id=ident,
        caption=caption + (", nats" if not summary else ""),
        columns=tuple(Column(name=n) for n in (("Claim", "Ours", "Verdict") if not summary else ("Claim", "Verdict"))),
        rows=tuple(rows),
        records=tuple(records),
        summary=f"{summary} ({len(rows)})",
        open=not summary,
        text=True,
    )


def _words(e: InfluenceEffect, claim: InfluenceClaim, inputs: InfluenceInputs) -> str:
    several = len({(x.name, x.condition, x.level) for x in inputs.effects}) > 1
    noun = NOUNS.get(e.measure.partition(":")[0], "token")
    form = {"raw": f"per {noun}" if noun != "text" else FORMS["raw"], "regressed": "length regressed out"}[e.length]
    where = ", ".join(w for w in (cell_words(e, inputs) if several else "", form, method_words(e.method) if e.length == "raw" else "") if w)
    return f"{where}: {bracketed(e.effect, signed=True)}" + (f", {basis_of(e.effect, noun)}" if e.length == "raw" else "")


def _record(h: Held, measured: Measured | None, condition: str, length: str) -> dict[str, object]:
    claim = h.claim
    return {
        "claim": claim.id,
        "text": claim.text,
        "where": claim.where,
        "known_from": claim.origin,
        "measure": claim.measure,
        "target": claim.target,
        "expects": claim.expects,
        "verdict": h.verdict,
        "why": h.why,
        "condition": condition,
        "length": length,
        **measured_record(measured),
    }


# ---- the paper's numbers -----------------------------------------------------------------------------------------


def influence_errata() -> list[Erratum]:
    """Return what the paper's known numbers carry."""
    return [_aime(), _livecodebench(), _truncation(), _make_up()]


def _aime() -> Erratum:
    before, after = round(AIME_BEFORE * AIME_ITEMS / 100), round(AIME_AFTER * AIME_ITEMS / 100)
    d, low, high = difference_of_shares(after, AIME_ITEMS, before, AIME_ITEMS)
    best = mcnemar(after - before, 0).p_exact
    ends = interval(low, high, sign=True, percent=True)
    return Erratum(
        id="aime",
        where="difficulty flip",
        printed=f"AIME24 accuracy doubles, {AIME_BEFORE:g} % to {AIME_AFTER:g} %",
        recomputed=f"{before} to {after} of {AIME_ITEMS} problems: {number(d, sign=True, percent=True)} points {ends}",
        how=f"Newcombe's interval for independent samples; paired, the smallest p possible is {best:.2f} (McNemar, nothing lost)",
        kind="reading",
        means="Three more problems, one training run: the data allow no difference, even if no solved problem was lost.",
    )


def _livecodebench() -> Erratum:
    p, q = LIVECODEBENCH_BEFORE / 100, LIVECODEBENCH_AFTER / 100
    needed = math.ceil(1.96**2 * (p * (1 - p) + q * (1 - q)) / (q - p) ** 2)
    return Erratum(
        id="livecodebench",
        where="difficulty flip",
        printed=f"LiveCodeBench {LIVECODEBENCH_BEFORE:g} % to {LIVECODEBENCH_AFTER:g} %",
        recomputed=f"{number(q - p, sign=True, percent=True)} points leave out zero from about {needed:,} problems on",
        how="normal interval of a difference of independent shares at the printed values; the window's size is not known",
        kind="reading",
        means="All releases of LiveCodeBench together hold about a thousand problems: unpaired, the gain is within chance.",
    )


def _truncation() -> Erratum:
    lost = round(MATH500_DROP * MATH500_ITEMS / 100)
    most = lost
    while mcnemar((most + lost) // 2, (most - lost) // 2).p_exact <= 0.05:
        most += 2
    half = 100 * 1.96 * math.sqrt(2 * 0.25 / MATH500_ITEMS)
    return Erratum(
        id="truncation",
        where="exploration cut off",
        printed=f"MATH500 falls by {MATH500_DROP:g} points",
        recomputed=f"{lost} problems of {MATH500_ITEMS}; significant only if at most {most - 2} answers changed at all",
        how=f"McNemar's exact test over the answers that changed; unpaired, the interval is at most \u00b1{half:.1f} points wide",
        kind="reading",
        means="Which answers changed is not printed. Deleting as many other segments, the control, is not known to have been run.",
    )


def _make_up() -> Erratum:
    said = sum(DATA_PARTS.values())
    counted = {k: v for k, v in DATA_PARTS.items() if k not in DATA_COUNTED} | DATA_COUNTED
    told = ", ".join(f"{k} {v:,}" for k, v in DATA_COUNTED.items())
    share = wilson(sum(v for k, v in counted.items() if k in ("APPS", "TACO")), sum(counted.values()))
    return Erratum(
        id="make-up",
        where="Bespoke-Stratos-17k",
        printed=f"{' + '.join(f'{k} {v:,}' for k, v in DATA_PARTS.items())} = {said:,} rows",
        recomputed=f"counted by a third party: {told}; code is then {number(share.estimate, percent=True)} % of the rows",
        how="sum of the rounded parts; the other part taken as stated",
        kind="holds",
        means="Two thirds of the rows are mathematics: mean influence, not its sum, is what compares the domains.",
    )
