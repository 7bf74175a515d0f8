"""The paper's printed numbers -> what its own counts give: misprints, readings that the counts do not carry, confirmations.

Every entry is recomputed here, by code, from references_liu2025.py; nothing is copied from a list of errors. "Differs"
is arithmetic; "reading" is a sentence that the printed counts do not support, or support less than it sounds; and what
was checked and holds is listed too, since a reader cannot know otherwise that it was.
Paper: Liu et al. 2025. Not covered: what this study found (paper.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from leaven.analysis.stats import mcnemar, paired_t, sample_sd, welch_t
from leaven.reporting.references_liu2025 import (
    EXAMPLES,
    HEADLINE_RELATIVE_PERCENT,
    PRINTED_MBPP_TASKS,
    TABLE10_MISPRINT,
    TABLE13_PRINTED,
    TABLES,
    TRAIN_EXAMPLES,
    VALIDATION_EXAMPLES,
)
from leaven.reporting.sections.inputs import OrderInputs
from leaven.reporting.sections.printed import count_of, difference_of_shares
from leaven.reporting.sections.section import Cell, Column, Section, Table
from leaven.reporting.sections.strategies import strategy_words
from leaven.reporting.wording import interval, number, plural

Kind = Literal["differs", "reading", "holds"]
WORDS: dict[Kind, tuple[str, str]] = {
    "differs": ("opposes", "\u2717 differs"),
    "reading": ("open", "\u00b1 reading"),
    "holds": ("favours", "\u2713 holds"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Erratum:
    """One check: where, what is printed or said, what the printed counts give, how it was computed, what follows."""

    id: str
    where: str
    printed: str
    recomputed: str
    how: str
    kind: Kind
    means: str = ""


def errata() -> list[Erratum]:
    """Return every check of the paper's arithmetic, those that differ first."""
    found = [e for check in CHECKS for e in check()]
    return sorted(found, key=lambda e: list(WORDS).index(e.kind))


def errata_section(inputs: OrderInputs) -> Section | None:
    """Return the errata of the paper with their recomputation; None unless the study asks for the comparison."""
    if not inputs.paper:
        return None
    found = errata()
    counts = Counter(e.kind for e in found)
    open_rows = [e for e in found if e.kind != "holds"]
    told = [
        f"{plural(counts[kind], noun)} {verb if counts[kind] == 1 else many}"
        for kind, noun, verb, many in (
            ("differs", "printed number", "differs", "differ"),
            ("reading", "statement", "needs a second reading", "need a second reading"),
            ("holds", "check", "holds", "hold"),
        )
    ]
    return Section(
        id="errata",
        title="Errata of the paper",
        short="Errata of the paper",
        paragraphs=(
            f"The paper's printed counts, recomputed when this page was written: {', '.join(told)}.",
        ),
        tables=(
            errata_table("errata", "What differs, or reads differently once counted", open_rows, "", True),
            errata_table(
                "errata-holds", "What was checked and holds", [e for e in found if e.kind == "holds"], "Checked and found right", False
            ),
        ),
    )


def errata_table(ident: str, caption: str, rows: list[Erratum], summary: str, shown: bool) -> Table:
    """Return checks as a table of what is printed, what was computed and what follows."""
    return Table(
        id=ident,
        caption=caption,
        columns=tuple(Column(name=n) for n in ("Where", "Printed", "Recomputed", "What follows", "Check")),
        rows=tuple(
            (
                Cell(text=e.where),
                Cell(text=e.printed),
                Cell(text=e.recomputed, tags=(e.how,)),
                Cell(text=e.means or "\u2013"),
                Cell(text=WORDS[e.kind][1], kind=WORDS[e.kind][0]),
            )
            for e in rows
        ),
        records=tuple(
            {"id": e.id, "kind": e.kind, "where": e.where, "printed": e.printed, "recomputed": e.recomputed, "how": e.how, "means": e.means}
            for e in rows
        ),
        summary=f"{summary} ({len(rows)})",
        open=shown,
        text=True,
    )


# ---- the checks ----------------------------------------------------------------------------------


def _funnel() -> Iterator[Erratum]:
    """Check table 10: ratios from counts, the sum, the split, the misplaced comma."""
    table = TABLES[10]
    right = []
    for source, (total, _, consistent, printed) in table.rows.items():
        ratio = 100 * consistent / total
        how = f"{consistent:,.0f} / {total:,.0f}"
        if abs(ratio - printed) <= 0.005 + 1e-9:
            right.append(source)
            continue
        cut = 0 <= ratio - printed < 0.01
        yield Erratum(
            id=f"table-10-ratio-{source.lower().replace(' ', '-')}",
            where=f"table 10, {source}",
            printed=f"{printed:.2f} %",
            recomputed=f"{ratio:.2f} %",
            how=how,
            kind="differs",
            means="The last digit was cut off, not rounded." if cut else "The counts sum to the stated total, so the ratio is misprinted.",
        )
    yield Erratum(
        id="table-10-ratios",
        where="table 10, ratios",
        printed=", ".join(f"{table.value(s, 'ratio'):.2f} %" for s in right),
        recomputed="the same",
        how="self-consistent / total",
        kind="holds",
    )
    source, misprint, meant = TABLE10_MISPRINT
    total, filtered, consistent, _ = table.rows[source]
    yield Erratum(
        id="table-10-comma",
        where=f"table 10, {source}, filtered",
        printed=misprint,
        recomputed=f"{int(misprint.replace(',', '')):,}",
        how=f"the only grouping between {consistent:,.0f} and {total:,.0f}",
        kind="differs" if int(misprint.replace(",", "")) == meant == filtered else "reading",
        means="A misplaced comma.",
    )
    rows = int(sum(r[2] for r in table.rows.values()))
    yield Erratum(
        id="table-10-sum",
        where="appendix C, samples and split",
        printed=f"{EXAMPLES:,}, of which {TRAIN_EXAMPLES:,} to train",
        recomputed=f"{rows:,} = {TRAIN_EXAMPLES:,} + {VALIDATION_EXAMPLES:,}",
        how="sum of the self-consistent rows",
        kind="holds" if rows == EXAMPLES == TRAIN_EXAMPLES + VALIDATION_EXAMPLES else "differs",
    )


def _judge() -> Iterator[Erratum]:
    """Check table 8: percentages from counts, and what the preferences can carry."""
    table = TABLES[8]
    right = 0
    for part, values in table.rows.items():
        counts, percents = values[:3], values[3:]
        total = sum(counts)
        for column, count, percent in zip(table.columns[:3], counts, percents, strict=True):
            if abs(100 * count / total - percent) <= 0.05 + 1e-9:
                right += 1
                continue
            yield Erratum(
                id=f"table-8-{part}-{column.key}",
                where=f"table 8, {part}, {column.name}",
                printed=f"{percent:.1f} % ({count:.0f})",
                recomputed=f"{100 * count / total:.1f} %",
                how=f"{count:.0f} / {total:,.0f}; the printed row sums to {sum(percents):.1f} %",
                kind="differs",
            )
    sums = {int(sum(v[:3])) for v in table.rows.values()}
    yield Erratum(
        id="table-8-sums",
        where="table 8, rows",
        printed=f"{right} of 9 percentages",
        recomputed=f"each row has {', '.join(f'{s:,}' for s in sorted(sums))} judgements",
        how="sum of wins and ties: the validation set",
        kind="holds" if sums == {VALIDATION_EXAMPLES} else "differs",
    )
    tests = {part: mcnemar(int(v[0]), int(v[2])).p_exact for part, v in table.rows.items()}
    weak = [part for part, p in tests.items() if p > 0.05]
    yield Erratum(
        id="table-8-significance",
        where="section 6.4, table 8",
        printed="code first \u201caligns more closely with real-world preference on all three parts\u201d",
        recomputed=", ".join(f"{part} p = {p:.2g}" for part, p in tests.items()),
        how="sign test on the judgements that are not ties",
        kind="reading" if weak else "holds",
        means=f"Only the code part is told apart from chance; {' and '.join(weak)} are not." if weak else "",
    )


def _mbpp() -> Iterator[Erratum]:
    """Check which number of MBPP tasks the printed percentages are shares of."""
    values = [v for t in (1, 4, 5, 6) for row in TABLES[t].rows.values() for v in row[2:4]]
    fits = {n: sum(count_of(v, n) is not None for v in values) for n in (378, PRINTED_MBPP_TASKS)}
    example = next((v for v in values if count_of(v, PRINTED_MBPP_TASKS) is None), values[0])
    k = count_of(example, 378)
    yield Erratum(
        id="mbpp-tasks",
        where="appendix D, MBPP",
        printed=f"{PRINTED_MBPP_TASKS} tasks",
        recomputed=f"{378} tasks: {fits[378]} of {len(values)} printed percentages are whole shares of 378, "
        f"{fits[PRINTED_MBPP_TASKS]} of {PRINTED_MBPP_TASKS}",
        how=f"{example} % = {k.k if k else 0} / 378; of {PRINTED_MBPP_TASKS} it would be {example * PRINTED_MBPP_TASKS / 100:.2f} tasks",
        kind="differs" if fits[378] == len(values) > fits[PRINTED_MBPP_TASKS] else "reading",
        means="Scores are on the 378 tasks of EvalPlus, so their intervals are "
        f"{math.sqrt(PRINTED_MBPP_TASKS / 378):.1f} times as wide as {PRINTED_MBPP_TASKS} tasks would give.",
    )


def _rounding() -> Iterator[Erratum]:
    """Check every percentage of known items against whole counts."""
    cut, right, wrong = [], 0, []
    for t in (1, 3, 4, 5, 6, 12):
        for row in TABLES[t].rows.values():
            for column, value in zip(TABLES[t].columns, row, strict=True):
                if column.n is None:
                    continue
                found = count_of(value, column.n)
                if found is None:
                    wrong.append(f"table {t}: {value} % of {column.n}")
                elif found.how == "cut":
                    cut.append(f"{value} for {100 * found.k / column.n:.2f}")
                else:
                    right += 1
    if wrong:
        yield Erratum(
            id="no-whole-count",
            where="tables 1, 3-6 and 12",
            printed="; ".join(wrong),
            recomputed="no whole number of items",
            how="share of the benchmark's items",
            kind="differs",
        )
    yield Erratum(
        id="cut-digits",
        where="tables 1, 3-6 and 12",
        printed=", ".join(dict.fromkeys(c.split(" for ")[0] for c in cut)),
        recomputed=", ".join(dict.fromkeys(c.split(" for ")[1] for c in cut)),
        how=f"whole counts of items; {right} other percentages are rounded rightly",
        kind="differs" if cut else "holds",
        means="Last digits were cut off in some cells and rounded in others: at most 0.01 points.",
    )


def _averages() -> Iterator[Erratum]:
    """Check that each printed average is the mean of its row."""
    worst, checked = 0.0, 0
    for t in (1, 4, 5, 6, 12):
        for row in TABLES[t].rows.values():
            worst, checked = max(worst, abs(fmean(row[:-1]) - row[-1])), checked + 1
    yield Erratum(
        id="averages",
        where="tables 1, 4-6 and 12, averages",
        printed=f"{checked} averages",
        recomputed=f"the mean of the four columns, within {worst:.3f} points",
        how="HumanEval, HumanEval+, MBPP and MBPP+ weigh alike; for table 12, four languages",
        kind="holds" if worst <= 0.0051 else "differs",
    )
    best, follow = TABLES[1].value("code_thought", "average"), TABLES[1].value("thought_code", "average")
    relative = 100 * (best - follow) / follow
    yield Erratum(
        id="headline",
        where="section 5.1",
        printed=f"{HEADLINE_RELATIVE_PERCENT} % relative improvement",
        recomputed=f"{relative:.2f} % of {follow}, which is {best - follow:.2f} points",
        how=f"({best} - {follow}) / {follow}",
        kind="reading" if abs(relative - HEADLINE_RELATIVE_PERCENT) < 0.005 else "differs",
        means="Right, but it is taken against the worst strategy; against code alone it is "
        f"{best - TABLES[1].value('code_only', 'average'):.2f} points.",
    )
    sums = all(sum(v[:3]) == v[3] for v in TABLES[7].rows.values())
    yield Erratum(
        id="table-7-sums",
        where="table 7, overall",
        printed=", ".join(f"{v[3]:.0f}" for v in TABLES[7].rows.values()) + " of 180",
        recomputed="the same" if sums else "other sums",
        how="easy + medium + hard",
        kind="holds" if sums else "differs",
    )


def _small_numbers() -> Iterator[Erratum]:
    """Check what differences of few items can carry."""
    hard = {name: int(row[2]) for name, row in TABLES[7].rows.items()}
    contradicted = hard["code_thought"] < hard["seed"]
    yield Erratum(
        id="leetcode-hard",
        where="section 6.3, table 7",
        printed="explanations \u201cconsistently\u201d improve performance, \u201cparticularly for tasks requiring higher "
        "logical complexity\u201d",
        recomputed=f"on hard problems code first solves {hard['code_thought']}, the original responses {hard['seed']} of 44",
        how=", ".join(f"{strategy_words(s)} {k}" for s, k in hard.items()),
        kind="reading" if contradicted else "holds",
        means="Against the original responses it fails on hard problems; against code alone the gain is "
        + ", ".join(f"{a - b:.0f}" for a, b in zip(TABLES[7].rows["code_thought"][:3], TABLES[7].rows["code_only"][:3], strict=True))
        + " problems (easy, medium, hard).",
    )
    for ident, table, column, better, base in (
        ("bigcodebench-hard", 3, "hard", "code_thought", "code_only"),
        ("humaneval", 1, "humaneval", "code_thought", "code_only"),
        ("leetcode-all", 7, "all", "code_thought", "seed"),
    ):
        n = TABLES[table].column(column).n or 1
        a, b = TABLES[table].value(better, column), TABLES[table].value(base, column)
        ka, kb = (int(v) if table == 7 else (count_of(v, n) or count_of(0, n)).k for v in (a, b))  # type: ignore[union-attr]
        d, low, high = difference_of_shares(ka, n, kb, n)
        name = TABLES[table].title.split(",")[0] + " " + TABLES[table].column(column).name.split(" of ")[0].lower()
        yield Erratum(
            id=f"count-{ident}",
            where=f"table {table}, {'HumanEval' if ident == 'humaneval' else name}",
            printed=f"{b:g} \u2192 {a:g}",
            recomputed=f"{kb} \u2192 {ka} of {n}: {number(d, sign=True, percent=True)} points "
            f"{interval(low, high, sign=True, percent=True)}",
            how=f"{strategy_words(better)} against {strategy_words(base)}; 95 % interval for independent shares",
            kind="reading",
            means=f"The difference is {plural(ka - kb, 'item')}; its interval {'holds' if low <= 0 <= high else 'leaves out'} zero.",
        )


def _seeds() -> Iterator[Erratum]:
    """Check table 13: means and standard deviations, tests, and where the headline run lies among the seeds."""
    rows = TABLES[13].rows
    for name, (mean, sd) in TABLE13_PRINTED.items():
        ours, our_sd = fmean(rows[name]), sample_sd(rows[name])
        same = abs(ours - mean) <= 0.005 + 1e-9 and abs(our_sd - sd) <= 0.005 + 1e-9
        yield Erratum(
            id=f"table-13-{name.replace('_', '-')}",
            where=f"table 13, {strategy_words(name)}",
            printed=f"{mean} \u00b1 {sd}",
            recomputed=f"{ours:.2f} \u00b1 {our_sd:.2f}",
            how="mean and standard deviation (n - 1) of five seeds",
            kind="holds" if same else "differs",
            means="" if same else "Within what rounding of the seeds allows." if abs(ours - mean) <= 0.011 else "",
        )
    for control in ("thought_code", "code_only"):
        welch, paired = welch_t(rows["code_thought"], rows[control]), paired_t(rows["code_thought"], rows[control])
        yield Erratum(
            id=f"table-13-test-{control.replace('_', '-')}",
            where=f"appendix G, code first against {strategy_words(control)}",
            printed="\u201ca significant performance improvement\u201d" if control == "thought_code" else "not tested",
            recomputed=f"Welch t = {welch.t:.2f}, df {welch.df:.1f}, p = {welch.p:.2g}; paired t = {paired.t:.2f}, p = {paired.p:.2g}",
            how=f"{number(welch.estimate, sign=True)} points {interval(welch.low, welch.high, sign=True)}, five seeds a side",
            kind="holds" if control == "thought_code" else "reading",
            means=""
            if control == "thought_code"
            else f"Most of the headline is that thought first hurts; explanation adds {welch.estimate:.1f} points over code alone.",
        )
    above = {n: TABLES[1].value(n, "average") for n in rows if TABLES[1].value(n, "average") > max(rows[n])}
    yield Erratum(
        id="headline-run",
        where="tables 1 and 13",
        printed=", ".join(f"{strategy_words(n)} {v}" for n, v in above.items()),
        recomputed=", ".join(f"best of five seeds {max(rows[n])}" for n in above),
        how="averages of table 1 against every seed of table 13",
        kind="reading" if above else "holds",
        means="The run of table 1 lies above all five seeds, in the strategies named; the mean over seeds is the better estimate.",
    )


def _readings() -> Iterator[Erratum]:
    """Check sentences against the tables they point at."""
    lcb = TABLES[2]
    ahead = [c.name for c in lcb.columns if lcb.value("thought_code", c.key) > lcb.value("code_only", c.key)]
    yield Erratum(
        id="thought-first-livecodebench",
        where="section 5.1, table 2",
        printed="thought before code \u201cdoes not benefit downstream tasks\u201d",
        recomputed=f"on LiveCodeBench it is ahead of code alone in {len(ahead)} of {len(lcb.columns)} windows ({', '.join(ahead)})",
        how=", ".join(f"{lcb.value('thought_code', c.key)} against {lcb.value('code_only', c.key)}" for c in lcb.columns)
        + "; the number of problems is not printed",
        kind="reading" if ahead else "holds",
        means="The harm shows on EvalPlus, not on every suite.",
    )
    perf = TABLES[11]
    best = max(perf.rows, key=lambda r: perf.value(r, "pass_at_1"))
    yield Erratum(
        id="evalperf-pass",
        where="table 11, pass@1",
        printed="not discussed",
        recomputed=f"the highest pass@1 is that of {strategy_words(best)}: {perf.value(best, 'pass_at_1')} %",
        how=", ".join(f"{strategy_words(r)} {perf.value(r, 'pass_at_1')}" for r in perf.rows),
        kind="reading" if best != "code_thought" else "holds",
        means="At temperature 1 with 100 samples the order of the strategies is not that of table 1.",
    )
    lengths = {n: TABLES[9].value(n, "thought_tokens") + TABLES[9].value(n, "code_tokens") for n in TABLES[9].rows}
    saved = lengths["thought_code"] - lengths["code_thought"]
    yield Erratum(
        id="inference-cost",
        where="section 6.4, table 9",
        printed="\u201cbetter results with less inference cost\u201d",
        recomputed=f"{saved:.2f} tokens of {lengths['thought_code']:.2f} less, {100 * saved / lengths['thought_code']:.1f} %",
        how="thought + code tokens",
        kind="reading",
        means="A thought after the code need not be written at all; that saving of "
        f"{TABLES[9].value('code_thought', 'thought_tokens')} tokens is not counted.",
    )
    yield Erratum(
        id="teacher-table",
        where="section 5.3",
        printed="\u201cdetailed in Table 6\u201d",
        recomputed=f"table 4: {TABLES[4].title}; table 6: {TABLES[6].title}",
        how="titles of the tables",
        kind="differs",
        means="A wrong reference.",
    )
    yield Erratum(
        id="temperature",
        where="section 6.3, temperature",
        printed="\u201cthe steepest drop observed in\u201d code first, which \u201cmaintains a relatively stable performance\u201d",
        recomputed="one of the two",
        how="two sentences of one paragraph; figure 10 prints no values",
        kind="reading",
    )


CHECKS: tuple[Callable[[], Iterator[Erratum]], ...] = (
    _funnel,
    _judge,
    _mbpp,
    _rounding,
    _averages,
    _small_numbers,
    _seeds,
    _readings,
)
