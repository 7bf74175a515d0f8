"""The sections on influence: prediction of retraining first, there when their data is, whole in every file, plain in words."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from leaven.analysis.findings import plain_json
from leaven.analysis.influence import write_influence
from leaven.errors import DataError
from leaven.reporting.read import _influence
from leaven.reporting.references_kou2025 import CLAIMS
from leaven.reporting.render import render_html
from leaven.reporting.sections.from_json import influence_inputs_from
from leaven.reporting.sections.influence import influence_sections
from leaven.reporting.sections.influence_inputs import Attributed, InfluenceInputs, Strip, StripPiece
from leaven.reporting.sections.influence_paper import hold, influence_errata
from leaven.reporting.sections.inputs import Effect, Measured
from leaven.reporting.sections.section import Section, Table


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"influence_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MADE, PAGE = _load("made_influence"), _load("made")
Page = _load("test_render").Page
ORDER = [
    "influence",
    "influence-domains",
    "influence-difficulty",
    "influence-parts",
    "influence-examples",
    "influence-changes",
    "influence-checks",
    "influence-paper",
    "influence-errata",
]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return plain_json(MADE.make(tmp_path_factory.mktemp("influence")).records())


@pytest.fixture(scope="module")
def inputs(records: dict[str, Any]) -> InfluenceInputs:
    return influence_inputs_from(json.loads(json.dumps(records)))


def page(inputs: InfluenceInputs) -> str:
    return render_html(replace(PAGE.made(), influence=inputs))


def tables(sections: list[Section]) -> dict[str, Table]:
    return {t.id: t for s in sections for t in s.tables}


def test_nothing_attributed_makes_no_section_and_the_same_page():
    assert influence_sections(InfluenceInputs()) == []
    assert page(InfluenceInputs()) == render_html(PAGE.made())


def test_sections_stand_in_order_and_the_page_is_valid_and_light(inputs: InfluenceInputs):
    assert [s.id for s in influence_sections(inputs)] == ORDER
    markup = page(inputs)
    assert markup == page(inputs)
    parsed = Page(markup)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in parsed.tags if t == "a"} <= set(ids)
    for section in influence_sections(inputs):
        assert {f"{section.id}-h", *(t.id for t in section.tables)} <= set(ids)
        assert all(f.table in ids for f in section.figures), section.id
    assert len(markup.encode()) - len(page(InfluenceInputs()).encode()) < 150_000


def test_the_report_leads_with_prediction_of_retraining(inputs: InfluenceInputs):
    first = influence_sections(inputs)[0]
    assert first.paragraphs[0].startswith("EK-FAC predicts retraining best: rank correlation 0.600 [0.550, 0.650]")
    assert "100 subsets, 5 seeds each; scores averaged over 4 models" in first.paragraphs[0] and "0.850" in first.paragraphs[0]
    assert first.figures[0].name == "influence-validation" and first.tables[0].id == "influence-validation-lds-spearman"
    other = tuple(replace(v, value=replace(v.value, estimate=0.7)) if v.method == "random" else v for v in inputs.validation)
    assert influence_sections(replace(inputs, validation=other))[0].paragraphs[0].startswith("Random predicts retraining best")


def test_methods_that_are_not_told_apart_are_said(inputs: InfluenceInputs):
    def close(v: Any) -> Any:
        if v.method != "gradient_dot" or v.minus_reference is None:
            return v
        return replace(v, minus_reference=Measured(estimate=-0.01, low=-0.03, high=0.01))

    said = influence_sections(replace(inputs, validation=tuple(map(close, inputs.validation))))[0].paragraphs[0]
    assert "Not told apart from it: gradient product." in said


def test_without_retraining_the_page_says_so(inputs: InfluenceInputs):
    first, *others = influence_sections(replace(inputs, validation=()))
    assert first.paragraphs[0].startswith("No model was retrained") and not first.figures and not first.tables
    paper = next(s for s in others if s.id == "influence-paper")
    assert "No retraining was done here" in paper.paragraphs[0]


def test_a_score_that_predicts_nothing_is_called_so(inputs: InfluenceInputs):
    weak = tuple(replace(v, value=replace(v.value, estimate=0.02, low=-0.1, high=0.14)) for v in inputs.validation)
    assert "were not shown to predict anything" in influence_sections(replace(inputs, validation=weak))[0].paragraphs[0]


def test_every_figure_is_drawn_described_and_well_formed(inputs: InfluenceInputs):
    for section in influence_sections(inputs):
        for figure in section.figures:
            for markup in (figure.wide(), figure.narrow(), figure.standalone()):
                root = ElementTree.fromstring(markup)
                said = {e.tag.split("}")[-1]: e.text for e in root if e.tag.split("}")[-1] in ("title", "desc")}
                assert said["title"] and len(said["desc"] or "") > 40, figure.name
                assert not re.search(r'\s(?:d|x|y)="[^"]*(?:nan|inf)', markup), figure.name


def test_every_number_says_its_interval_count_and_seeds(inputs: InfluenceInputs):
    found = tables(influence_sections(inputs))
    for table in found.values():
        for row in table.records:
            if "estimate" in row:
                assert {"estimate", "low", "high", "n", "seeds"} <= set(row), table.id
    for name in ("influence-matrix", "influence-slopes"):
        cells = [c for row in found[name].rows for c in row[1:]]
        assert all(re.search(r"\[.+, .+\]", c.tags[0]) and re.search(r"\d+ texts, 3 seeds", c.tags[1]) for c in cells), name


def test_the_matrix_has_three_forms_and_the_four_arrows(inputs: InfluenceInputs):
    found = tables(influence_sections(inputs))
    matrix = [(row[0].text, row[0].tags[0]) for row in found["influence-matrix"].rows]
    assert len(matrix) == 9 and ("code", "per learned token") in matrix and ("own domain minus the others", "per text") in matrix
    arrows = {f"{a} \u2192 {b}" for a in ("math", "code") for b in ("math", "code")}
    assert {row[0].text for row in found["influence-slopes"].rows} == arrows


def test_other_conditions_fold_below_the_first(tmp_path: Path):
    made = MADE.make(tmp_path, n=20, seeds=(0, 1), conditions=("base", "other"))
    inputs = influence_inputs_from(json.loads(json.dumps(plain_json(made.records()))))
    found = tables(influence_sections(inputs))
    assert found["influence-matrix"].open and not found["influence-matrix-2"].open
    assert "other" in found["influence-matrix-2"].caption and "base" in found["influence-matrix"].caption
    Page(page(inputs))


def test_predicted_and_realised_stand_side_by_side(inputs: InfluenceInputs):
    table = tables(influence_sections(inputs))["influence-change"]
    assert {row[0].text for row in table.rows} == {"no_code", "no_hard_math", "twice_easy_code"}
    assert {row[5].text for row in table.rows} <= {"\u2713 as predicted", "\u2717 opposite", "? undecided"}
    wrong = tuple(
        replace(c, realised=replace(c.realised, estimate=9.0, low=8.0, high=10.0)) if c.realised and c.condition == "no_hard_math" else c
        for c in inputs.changes
    )
    table = tables(influence_sections(replace(inputs, changes=wrong)))["influence-change"]
    assert {row[5].text for row in table.rows if row[0].text == "no_hard_math"} == {"\u2717 opposite"}
    none = tuple(replace(c, realised=None) for c in inputs.changes)
    section = next(s for s in influence_sections(replace(inputs, changes=none, quality=())) if s.id == "influence-changes")
    assert not section.figures and "predictions stand alone" in section.paragraphs[0]


def test_strips_read_without_colour_and_long_ones_say_what_is_cut(inputs: InfluenceInputs):
    markup = page(inputs)
    strip = re.search(r'<pre class="strip".*?</pre>', markup, re.S)
    assert strip and "<i>++</i>" in strip[0] and "Wait" in strip[0]
    lead = inputs.strips[0]
    pieces = (StripPiece(text="<b>bad</b>", step=-2), StripPiece(text="end", step=0))
    long = replace(lead, pieces=pieces, n_before=7, n_after=300)
    cut = page(replace(inputs, strips=(long,)))
    assert "Left out: 7 tokens before and 300 after." in cut and "&lt;b&gt;bad" in cut and "<b>bad" not in cut


# ---- beside the paper ----


def test_planted_results_flip_verdicts(inputs: InfluenceInputs):
    claims = {c.id: c for c in CLAIMS}
    assert hold(claims["easy-code-code"], inputs).verdict == "agreed"
    turned = tuple(
        replace(e, effect=replace(e.effect, estimate=0.2, low=0.1, high=0.3)) if e.measure == "difficulty_slope:code" else e
        for e in inputs.effects
    )
    assert hold(claims["easy-code-code"], replace(inputs, effects=turned)).verdict == "opposed"
    open_ones = tuple(replace(e, effect=replace(e.effect, low=-1.0, high=1.0)) for e in inputs.effects)
    assert hold(claims["easy-code-code"], replace(inputs, effects=open_ones)).verdict == "undecided"
    assert hold(claims["easy-code-code"], replace(inputs, effects=())).verdict == "not comparable"
    split = tuple(
        replace(e, effect=replace(e.effect, estimate=0.2, low=0.1, high=0.3)) if e.length == "regressed" else e for e in inputs.effects
    )
    held = hold(claims["easy-code-code"], replace(inputs, effects=split))
    assert held.verdict == "mixed" and "with length regressed out: opposed" in held.why


def test_claims_about_accuracy_rest_on_measured_contrasts_alone(inputs: InfluenceInputs):
    claim = next(c for c in CLAIMS if c.id == "flip-math")
    assert hold(claim, inputs).verdict == "not comparable"
    measured = Measured(estimate=-0.05, low=-0.09, high=-0.01, n=200, seeds=(0, 1, 2))
    effect = Effect(treatment="flip", control="original", measure="pass_rate", effect=measured, benchmark="sums", decision="opposes")
    told = replace(inputs, accuracies=(effect,), roles={"a": "flip", "b": "original"})
    assert hold(claim, told).verdict == "opposed"
    swapped = replace(effect, treatment="original", control="flip")
    assert hold(claim, replace(told, accuracies=(swapped,))).verdict == "agreed"
    assert hold(claim, replace(told, accuracies=(replace(effect, benchmark="programs"),))).verdict == "not comparable"


def test_the_papers_numbers_are_recomputed():
    found = {e.id: e for e in influence_errata()}
    assert "3 to 6 of 30" in found["aime"].recomputed and "0.25" in found["aime"].how
    assert "17 problems of 500" in found["truncation"].recomputed and "67 answers" in found["truncation"].recomputed
    needed = int(re.search(r"about ([\d,]+) problems", found["livecodebench"].recomputed)[1].replace(",", ""))  # type: ignore[index]
    assert 7_000 < needed < 8_500


# ---- what is given ----


def bare(value: Any) -> Any:
    """Return inputs with every Measured emptied."""
    if isinstance(value, Measured):
        return Measured(estimate=None)
    if dataclasses.is_dataclass(value):
        return replace(value, **{f.name: bare(getattr(value, f.name)) for f in dataclasses.fields(value)})  # type: ignore[type-var]
    return tuple(bare(v) for v in value) if isinstance(value, tuple) else value


def test_nothing_but_nulls_still_makes_a_page(inputs: InfluenceInputs):
    markup = page(bare(inputs))
    Page(markup)
    assert "nan" not in re.sub("<style>.*?</style>", "", markup, flags=re.S).lower().split()


def test_a_cell_alone_and_extremes_alone_make_a_page(inputs: InfluenceInputs):
    lone = Attributed(name="n", condition="c", seeds=(0,), methods=("ekfac",), main="ekfac", targets={"math": 1}, n_texts=3, complete=False)
    (section,) = influence_sections(InfluenceInputs(models=(lone,)))
    assert "there are no means" in section.paragraphs[1]
    strip = Strip(
        name="n", condition="c", method="ekfac", target="math", side="top", source="s", example="e", score=Measured(estimate=1.0), pieces=()
    )
    Page(page(InfluenceInputs(models=(lone,), strips=(strip,))))


@pytest.mark.parametrize("hostile", ["</svg><style>*{display:none}</style>", "{{ 7 * 7 }}", "\x00\ud800", "日本語"])
def test_hostile_names_stay_text(records: dict[str, Any], hostile: str):
    safe = json.dumps(records)
    given = json.loads(safe.replace('"story"', json.dumps(hostile)).replace('"Wait"', json.dumps(hostile)))
    given["model"] = hostile
    markup = page(influence_inputs_from(given))
    Page(markup)
    assert not re.search("[\x00\ud800]", markup) and markup.count("<style") == 1


def test_a_file_is_read_and_a_broken_one_named(records: dict[str, Any], inputs: InfluenceInputs, tmp_path: Path):
    path = tmp_path / "influence.json"
    assert _influence(path) == InfluenceInputs()
    write_influence(path, records)
    assert _influence(path) == inputs
    with pytest.raises(DataError, match=r"influence.json.*unknown \['modells'\]"):
        influence_inputs_from({"modells": []})
