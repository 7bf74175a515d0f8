"""The paper's numbers and claims: what is stored adds up, what is recomputed is right, and planted results flip verdicts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.reporting.references import REFERENCES
from leaven.reporting.references_liu2025 import CLAIM_MEASURES, CLAIMS, KEY, MODEL, TABLES, Claim
from leaven.reporting.sections.errata import errata, errata_section
from leaven.reporting.sections.inputs import Effect, Measured, OrderInputs, StrategyResult
from leaven.reporting.sections.paper import beside, compare, paper_section, turned
from leaven.reporting.sections.printed import count_of, difference_of_shares, printed_effects, printed_summary, whole_count

SEEDS = (0, 1, 2, 3, 4)
BY_ID = {c.id: c for c in CLAIMS}
ERRATA = {e.id: e for e in errata()}


def effect(claim: Claim, estimate: float, half: float, decision: str = "", scope: str = "", **more: object) -> Effect:
    measured = Measured(estimate=estimate, low=estimate - half, high=estimate + half, n=200, seeds=SEEDS)
    where = scope or claim.scope
    return Effect(
        treatment=claim.treatment, control=claim.control, measure=claim.measure, effect=measured, scope=where, decision=decision, **more
    )


# ---- claims ----


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_planted_results_flip_every_verdict(claim: Claim):
    said = {}
    for name, estimate, decision in (("up", 0.1, "favours"), ("down", -0.1, "opposes"), ("same", 0.001, "no_difference")):
        said[name] = compare(claim, OrderInputs(effects=(effect(claim, estimate, 0.02, decision),))).verdict
    expected = {
        "higher": {"up": "agreed", "down": "opposed", "same": "opposed"},
        "lower": {"up": "opposed", "down": "agreed", "same": "opposed"},
        "no_difference": {"up": "opposed", "down": "opposed", "same": "agreed"},
        "not_higher": {"up": "opposed", "down": "agreed", "same": "agreed"},
    }[claim.expects]
    assert said == expected
    wide = compare(claim, OrderInputs(effects=(effect(claim, 0.01, 0.2, "inconclusive"),)))
    assert wide.verdict == "undecided" and "either direction" in wide.why


def test_without_a_declared_rule_the_interval_decides():
    claim = BY_ID["perplexity-gap"]
    assert compare(claim, OrderInputs(effects=(effect(claim, -0.1, 0.02),))).verdict == "agreed"
    assert compare(claim, OrderInputs(effects=(effect(claim, 0.1, 0.02),))).verdict == "opposed"
    assert compare(claim, OrderInputs(effects=(effect(claim, -0.1, 0.2),))).verdict == "undecided"
    lone = replace(effect(claim, -0.1, 0.02), effect=Measured(estimate=-0.1))
    assert compare(claim, OrderInputs(effects=(lone,))).verdict == "undecided"


def test_a_rule_that_says_inconclusive_outweighs_an_interval_without_zero():
    claim = BY_ID["code-first"]
    adjusted = effect(claim, 0.05, 0.04, "inconclusive")
    assert compare(claim, OrderInputs(effects=(adjusted,))).verdict == "undecided"


def test_the_other_way_around_is_the_same_contrast():
    claim = BY_ID["code-first"]
    other = turned(effect(claim, -0.3, 0.02, "opposes"))
    assert (other.treatment, other.control, other.decision) == ("thought_code", "code_thought", "favours")
    assert (other.effect.low, other.effect.high) == pytest.approx((0.28, 0.32))
    found = compare(claim, OrderInputs(effects=(other,)))
    assert found.verdict == "opposed" and found.effects[0].effect.estimate == pytest.approx(-0.3)


def test_what_is_missing_is_why_nothing_is_comparable():
    claim = BY_ID["signatures"]
    absent = compare(claim, OrderInputs(strategies={"a": "code_thought"}))
    assert absent.verdict == "not comparable" and "no condition here is \u201ccode then thought; signatures removed\u201d" in absent.why
    both = {"a": claim.treatment, "b": claim.control}
    assert "did not measure pass rate" in compare(claim, OrderInputs(strategies=both)).why
    unfit = effect(BY_ID["code-first"], 0.1, 0.02, "favours", unfit="code_only at 0.97 leaves no room")
    found = compare(BY_ID["code-first"], OrderInputs(effects=(unfit,)))
    assert found.verdict == "not comparable" and found.why == "code_only at 0.97 leaves no room"


def test_a_claim_about_each_difficulty_needs_all_of_them():
    claim = BY_ID["every-difficulty"]
    up = [effect(claim, 0.1, 0.02, "favours", f"difficulty {d}") for d in (1, 2)]
    down = effect(claim, -0.1, 0.02, "opposes", "difficulty 3")
    wide = effect(claim, 0.02, 0.2, "inconclusive", "difficulty 4")
    whole = effect(claim, 0.1, 0.02, "favours", "level x")
    assert compare(claim, OrderInputs(effects=tuple(up))).verdict == "agreed"
    assert compare(claim, OrderInputs(effects=(*up, wide))).verdict == "undecided"
    assert compare(claim, OrderInputs(effects=(*up, wide, down))).verdict == "opposed"
    assert compare(claim, OrderInputs(effects=(whole,))).verdict == "not comparable"


def test_a_study_of_levels_alone_still_speaks_of_the_claim():
    claim = BY_ID["code-first"]
    levels = tuple(effect(claim, x, 0.02, d, scope=f"level {n}") for x, d, n in ((0.1, "favours", 1), (0.2, "favours", 2)))
    assert compare(claim, OrderInputs(effects=levels)).verdict == "agreed"
    plain = effect(claim, -0.1, 0.02, "opposes")
    assert compare(claim, OrderInputs(effects=(*levels, plain))).verdict == "opposed"


def test_numbers_that_conditions_share_are_told_once():
    claim = BY_ID["code-gradient-weak"]
    same = tuple(effect(claim, -0.1, 0.02, scope=f"condition {n}") for n in "ab")
    found = compare(claim, OrderInputs(effects=(*same, effect(claim, -0.2, 0.02, scope="condition c"))))
    assert [e.scope for e in found.effects] == ["condition a, b", "condition c"] and found.verdict == "agreed"


def test_two_benchmarks_that_disagree_are_mixed():
    claim = BY_ID["code-first"]
    up, down = effect(claim, 0.1, 0.02, "favours", benchmark="a"), effect(claim, -0.1, 0.02, "opposes", benchmark="b")
    found = compare(claim, OrderInputs(effects=(up, down)))
    assert found.verdict == "mixed" and "1 agreed and 1 opposed" in found.why


def test_the_section_counts_verdicts_and_keeps_claims_without_results_apart():
    claim = BY_ID["code-first"]
    section = paper_section(OrderInputs(paper=True, effects=(effect(claim, 0.1, 0.02, "favours"),)))
    assert section is not None and paper_section(OrderInputs()) is None
    assert f"Of {len(CLAIMS)} claims of Liu et al. 2025: 1 agreed and {len(CLAIMS) - 1} not comparable." == section.paragraphs[0]
    tables = {t.id: t for t in section.tables}
    assert len(tables["claims"].rows) == 1 and len(tables["claims-silent"].rows) == len(CLAIMS) - 1
    assert not tables["claims-silent"].open and tables["claims"].rows[0][3].text == "\u2713 agreed"
    assert tables["claims"].records[0]["verdict"] == "agreed"


def test_claims_are_well_formed():
    assert len(BY_ID) == len(CLAIMS) and KEY in {r.key for r in REFERENCES}
    for claim in CLAIMS:
        assert claim.measure in CLAIM_MEASURES and claim.text.endswith(".") and claim.where
        assert len(printed_effects(claim)) == len(claim.printed)
        assert all("nan" not in line for line in (*printed_effects(claim), *printed_summary(claim)))


# ---- printed numbers ----


def test_tables_are_rectangular_and_of_the_sizes_the_benchmarks_have():
    assert sorted(TABLES) == list(range(1, 14))
    for table in TABLES.values():
        assert all(len(row) == len(table.columns) for row in table.rows.values()), table.number
    for number in (1, 3, 4, 5, 6, 12):
        for row in TABLES[number].rows.values():
            for column, value in zip(TABLES[number].columns, row, strict=True):
                assert column.n is None or count_of(value, column.n) is not None, (number, value)


@settings(deadline=None)
@given(st.integers(1, 1200), st.data())
def test_every_share_is_found_back_from_its_percentage(n: int, data: st.DataObject):
    k = data.draw(st.integers(0, n))
    assert count_of(round(100 * k / n, 2), n).k == k  # type: ignore[union-attr]
    cut = math.floor(100 * (100 * k / n) + 1e-9) / 100
    assert count_of(cut, n).k == k  # type: ignore[union-attr]


def test_no_count_is_invented():
    assert count_of(80.42, 974) is None and count_of(50.0, 3) is None
    assert count_of(59.75, 164).how == "cut" and count_of(62.20, 164).how == "rounded"  # type: ignore[union-attr]


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_the_interval_of_two_shares_is_that_of_statsmodels(n1: int, n2: int, data: st.DataObject):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    k1, k2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    d, low, high = difference_of_shares(k1, n1, k2, n2)
    expected = proportion.confint_proportions_2indep(k1, n1, k2, n2, compare="diff", method="newcomb")
    assert d == pytest.approx(k1 / n1 - k2 / n2) and (low, high) == pytest.approx(expected, abs=1e-9)


def ours(score: float, half: float = 0.02) -> Measured:
    return Measured(estimate=score, low=score - half, high=score + half, n=164, seeds=SEEDS)


def test_a_printed_number_agrees_opposes_or_cannot_be_compared():
    column = TABLES[1].column("humaneval")
    assert beside(70.73, column, 1, ours(0.70), MODEL)[0] == "agreed"
    verdict, why = beside(70.73, column, 1, ours(0.50), f"models/{MODEL}")
    assert verdict == "opposed" and why.startswith("ours minus the paper's \u221220.7 [")
    assert beside(70.73, column, 1, ours(0.70), "tiny") == ("not comparable", "another model")
    assert beside(70.88, TABLES[1].column("average"), 1, ours(0.70), MODEL)[0] == "not comparable"


def test_only_like_stands_beside_like():
    result = StrategyResult(condition="a", benchmark="he", score=ours(0.5), binary=True)
    inputs = OrderInputs(strategies={"a": "code_only"}, results=(result,), paper=True, model=MODEL, benchmark_kinds={"he": "humaneval"})
    tables = {t.id: t for t in paper_section(inputs).tables}  # type: ignore[union-attr]
    told = [r for r in tables["paper-table-1"].records if r["verdict"] != "not comparable"]
    assert [(r["row"], r["column"], r["verdict"]) for r in told] == [("code_only", "humaneval", "opposed")]
    assert "Beside ours: 19 not comparable and 1 opposed" in tables["paper-table-1"].caption
    assert {r["why"] for r in tables["paper-table-2"].records} == {"not measured here"}
    assert "did not run" in tables["paper-table-2"].caption and "paper-table-10" not in tables


# ---- errata ----


@pytest.mark.parametrize(
    ("ident", "printed", "recomputed"),
    [
        ("table-10-ratio-codeexercise-python", "27.56 %", "25.58 %"),
        ("table-10-ratio-python-sharegpt", "27.11 %", "27.12 %"),
        ("table-10-comma", "147,36", "14,736"),
        ("table-8-code-thought_code", "20.1 % (228)", "20.9 %"),
        ("table-13-code-only", "70.17 \u00b1 0.62", "70.18 \u00b1 0.62"),
    ],
)
def test_misprints_are_found_from_the_counts(ident: str, printed: str, recomputed: str):
    found = ERRATA[ident]
    assert (found.kind, found.printed, found.recomputed) == ("differs", printed, recomputed)


@pytest.mark.parametrize(
    ("ident", "kind", "words"),
    [
        ("mbpp-tasks", "differs", "378 tasks: 26 of 26 printed percentages are whole shares of 378, 4 of 974"),
        ("leetcode-hard", "reading", "code first solves 3, the original responses 4 of 44"),
        ("count-bigcodebench-hard", "reading", "23 \u2192 24 of 148"),
        ("count-humaneval", "reading", "116 \u2192 118 of 164"),
        ("headline", "reading", "9.86 % of 65.43, which is 6.45 points"),
        ("table-13-test-thought-code", "holds", "Welch t = 16.40, df 6.0, p = 3.2e-06"),
        ("table-13-test-code-only", "reading", "Welch t = 3.60, df 6.2, p = 0.011; paired t = 3.09, p = 0.037"),
        ("table-13-thought-code", "holds", "65.93 \u00b1 0.65"),
        ("table-8-significance", "reading", "code p = 0.00063"),
        ("table-10-sum", "holds", "52,293 = 51,200 + 1,093"),
        ("averages", "holds", "within 0.005 points"),
        ("evalperf-pass", "reading", "thought then code: 70.9 %"),
    ],
)
def test_what_the_counts_carry(ident: str, kind: str, words: str):
    assert ERRATA[ident].kind == kind and words in ERRATA[ident].recomputed


def test_a_corrected_table_takes_its_erratum_back(monkeypatch: pytest.MonkeyPatch):
    row = TABLES[10].rows["CodeExercise-Python"]
    monkeypatch.setitem(TABLES[10].rows, "CodeExercise-Python", (*row[:3], 25.58))
    found = {e.id for e in errata()}
    assert "table-10-ratio-codeexercise-python" not in found and "table-10-ratio-python-sharegpt" in found
    monkeypatch.setitem(TABLES[7].rows, "code_thought", (20, 22, 9, 51))
    assert {e.id: e.kind for e in errata()}["leetcode-hard"] == "holds"


def test_the_errata_stand_in_the_report_when_asked_for():
    section = errata_section(OrderInputs(paper=True))
    assert section is not None and errata_section(OrderInputs()) is None
    kinds = [r["kind"] for t in section.tables for r in t.records]
    assert kinds.count("differs") >= 8 and kinds.count("holds") >= 6 and len(kinds) == len(ERRATA)
    assert whole_count(3, 44, 7) == 3 and whole_count(16.22, 148, 3) == 24
