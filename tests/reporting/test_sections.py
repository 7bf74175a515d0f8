"""The sections on the order of thought and code: there when their data is, quiet when it is not, whole in every file."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest

from leaven.errors import DataError
from leaven.reporting.facts import ReportData
from leaven.reporting.render import render_html
from leaven.reporting.sections.from_json import inputs_from
from leaven.reporting.sections.inputs import (
    AttentionMap,
    CheckpointScore,
    Distribution,
    FunnelRow,
    Measured,
    OrderInputs,
    Perturbation,
    StrategyResult,
)
from leaven.reporting.sections.order import order_sections
from leaven.reporting.sections.section import Section, Table


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made_order, STRATEGIES = _load("made_order").made_order, _load("made_order").STRATEGIES
made, HOSTILE = _load("made").made, _load("made").HOSTILE
Page = _load("test_render").Page
FIELDS = {
    "results": ["strategies"],
    "checkpoints": ["score-curves", "sweep-learning-rate"],
    "pass_at_k": ["sampling"],
    "distributions": ["dist-perplexity", "dist-kl", "dist-validation_loss", "dist-similarity"],
    "attention": ["attention"],
    "gradients": ["gradients"],
    "funnel": ["funnel"],
    "perturbations": ["perturbations"],
    "paper": ["paper", "errata"],
}


def whole(order: OrderInputs | None = None) -> ReportData:
    return replace(made(tuple(STRATEGIES)), order=order or made_order())


def bare(value: Any) -> Any:
    """Return inputs with every Measured emptied: no estimate, interval, items or seeds."""
    if isinstance(value, Measured):
        return Measured(estimate=None)
    if dataclasses.is_dataclass(value):
        return replace(value, **{f.name: bare(getattr(value, f.name)) for f in dataclasses.fields(value)})  # type: ignore[type-var]
    return tuple(bare(v) for v in value) if isinstance(value, tuple) else value


def test_nothing_measured_makes_no_section_and_the_same_page():
    data = made()
    assert order_sections(OrderInputs()) == []
    assert render_html(data) == render_html(replace(data, order=OrderInputs(strategies=STRATEGIES)))


@pytest.mark.parametrize("field", FIELDS)
def test_a_section_appears_with_its_data_alone(field: str):
    full = made_order()
    one = OrderInputs(strategies=full.strategies, **{field: getattr(full, field)})
    assert [s.id for s in order_sections(one)] == [i.replace("_", "-") for i in FIELDS[field]]


def test_conditions_that_all_train_alike_get_no_strategy_section():
    full = made_order()
    same = dict.fromkeys(full.strategies, "code_only")
    assert order_sections(OrderInputs(strategies=same, results=full.results)) == []


def test_the_page_with_every_section_is_valid_light_and_deterministic():
    data = whole()
    markup = render_html(data)
    assert markup == render_html(data) and len(markup.encode()) < 600_000
    parsed = Page(markup)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in parsed.tags if t == "a"} <= set(ids)
    assert {x for _, a in parsed.tags for x in (a.get("aria-labelledby") or "").split()} <= set(ids)
    sections = order_sections(data.order)
    assert [s.id for s in sections] == [i.replace("_", "-") for ids in FIELDS.values() for i in ids]
    for section in sections:
        assert {f"{section.id}-h", *(t.id for t in section.tables)} <= set(ids)
        assert all(f.table in ids for f in section.figures)


def test_every_figure_is_drawn_described_and_well_formed():
    for section in order_sections(made_order()):
        for figure in section.figures:
            for markup in (figure.wide(), figure.narrow(), figure.standalone()):
                root = ElementTree.fromstring(markup)
                said = {e.tag.split("}")[-1]: e.text for e in root if e.tag.split("}")[-1] in ("title", "desc")}
                assert said["title"] and len(said["desc"] or "") > 40, figure.name
                assert not re.search(r'(?:d|x|y)="[^"]*(?:nan|inf)', markup), figure.name


def _tables(sections: list[Section]) -> dict[str, Table]:
    return {t.id: t for s in sections for t in s.tables}


def test_every_number_says_its_interval_items_and_seeds():
    tables = _tables(order_sections(made_order()))
    measured = [t for t in tables.values() if t.records and "estimate" in t.records[0]]
    assert len(measured) >= 12
    for table in measured:
        assert all({"estimate", "low", "high", "n", "seeds"} <= set(r) for r in table.records), table.id
    for name in ("strategy-scores", "score-curves-1", "pass-at-k-1", "dist-kl-means", "attention-mass", "sweep-learning-rate-1"):
        table = tables[name]
        assert re.search(r"rests on [\d,]+ (items|examples), 5 seeds \(0\u20134\)", table.caption), name
        plain = ("Temperature", "Standard deviation", "Step of the best")
        numeric = [i for i, c in enumerate(table.columns) if c.numeric and c.name not in plain]
        for row in table.rows:
            cells = [row[i] for i in numeric if row[i].text != "\u2013"]
            assert cells and all(re.search(r"\[.+, .+\]", " ".join(c.tags)) for c in cells), name


def test_what_rests_on_something_else_says_so_in_its_cell():
    full = made_order()
    first, *others = full.results
    odd = replace(first, score=replace(first.score, n=17, seeds=(0, 1)))
    table = _tables(order_sections(replace(full, results=(odd, *others))))["strategy-scores"]
    assert "rests on" not in table.caption
    assert "17 items, 2 seeds" in " ".join(table.rows[0][1].tags)


def test_numbers_lead_to_their_runs():
    parsed = Page(render_html(whole()))
    rows = [r for r in parsed.rows["numbers"] if "functions_long" in r[1]]
    assert len(rows) == len(STRATEGIES) and all("R" in r[6] for r in rows)


def test_costs_stand_beside_scores():
    table = _tables(order_sections(made_order()))["strategy-costs"]
    cell = table.rows[0][3]
    assert cell.text == "38" and cell.tags == ("[36.6, 39.4]", "0.4 % unread", "[0.0, 0.8]")
    assert table.rows[0][1].text == "1,480,000"


def test_means_and_shapes_of_distributions_reach_their_file():
    table = _tables(order_sections(made_order()))["dist-perplexity-means"]
    frame = pl.DataFrame(list(table.records), infer_schema_length=None)
    assert {"bin_low", "bin_high", "count", "sd", "part", "given"} <= set(frame.columns)
    assert frame.group_by("condition", "part").len()["len"].to_list() == [30] * 4


def test_counts_that_do_not_add_up_are_said():
    rows = (
        FunnelRow(source="a", total=10, filtered=6, consistent=3, reasons={"x": 7}),
        FunnelRow(source="b", total=10, filtered=6, consistent=8, reasons={"x": 1}),
    )
    (section,) = order_sections(OrderInputs(funnel=rows))
    assert [n.split(":")[0] for n in section.notes] == ["b", "b"] and "reasons account for 1" in section.notes[1]
    assert _tables([section])["funnel-counts"].rows[0][4].text == "30.0 %"
    render_html(whole(OrderInputs(funnel=rows)))


def test_perturbations_count_verdicts_before_and_after():
    tables = _tables(order_sections(made_order()))
    row = tables["perturbation-verdicts"].rows[1]
    assert [c.text for c in row[1:5]] == ["3,324", "3,313", "3,312", "11"] and row[5].text.startswith("pass \u2192 fail: 9")
    assert [c.text for c in tables["perturbation-counts"].rows[0][1:6]] == ["3,344", "3,120", "0", "210", "14"]


def test_a_sweep_with_one_checkpoint_is_drawn_against_its_setting():
    rows = tuple(
        CheckpointScore(
            condition=c,
            benchmark="m",
            step=1.0,
            score=Measured(estimate=0.3 + 0.1 * i, low=0.2, high=0.8, n=12, seeds=(0,)),
            sweep="lr",
            setting=s,
            level=f'{{"train.lr":{s}}}',
        )
        for c in ("code_only", "thought_code")
        for i, s in enumerate(("0.01", "0.001"))
    )
    (section,) = order_sections(OrderInputs(strategies=STRATEGIES, checkpoints=rows))
    words = re.findall(r">([^<>]+)</text>", section.figures[0].wide())
    assert words.index("0.001") < words.index("0.01") and words.count("code_only") == 1
    assert [c.name for c in section.tables[0].columns] == ["Condition", "0.001", "0.01"]
    assert [r[0].text for r in section.tables[0].rows] == ["code_only", "thought_code"]


def test_levels_of_a_learning_curve_get_a_chart_each():
    rows = tuple(
        CheckpointScore(condition="code_only", benchmark="m", step=s, score=Measured(estimate=0.1 * s), level=f'{{"train.lr":{v}}}')
        for v in (0.1, 0.2)
        for s in (1, 2, 3)
    )
    (section,) = order_sections(OrderInputs(strategies=STRATEGIES, checkpoints=rows))
    words = re.findall(r">([^<>]+)</text>", section.figures[0].wide())
    assert {"lr = 0.1", "lr = 0.2"} <= set(words)


def test_nothing_but_nulls_still_makes_a_page():
    order = bare(made_order())
    order = replace(
        order,
        distributions=tuple(replace(d, counts=(0.0,) * len(d.counts), sd=0.0) for d in order.distributions),
        attention=tuple(replace(a, grid=((0.0,),), regions=()) for a in order.attention),
        perturbations=(Perturbation(operation="none", changed=0),),
        funnel=(FunnelRow(source="empty", total=0, filtered=0, consistent=0),),
    )
    markup = render_html(whole(order))
    Page(markup)
    assert "nan" not in re.sub("<style>.*?</style>", "", markup, flags=re.S).lower().split()


def test_one_point_of_everything_still_makes_a_page():
    one = Measured(estimate=0.5)
    order = OrderInputs(
        strategies={"a": "code_only", "b": "seed"},
        results=(StrategyResult(condition="a", benchmark="m", score=one), StrategyResult(condition="b", benchmark="m", score=one)),
        distributions=(Distribution(measure="my_own", condition="a", edges=(0.0, 1.0), counts=(3.0,), mean=one, sd=0.0),),
        attention=(AttentionMap(condition="a", grid=((1.0,),)),),
        checkpoints=(CheckpointScore(condition="a", benchmark="m", step=0, score=one),),
    )
    markup = render_html(whole(order))
    Page(markup)
    assert "My own" in markup and "attention-grid" in markup


@pytest.mark.parametrize("hostile", [HOSTILE, "</svg><style>*{display:none}</style>", "{{ 7 * 7 }}", "\x00\ud800", "日本語"])
def test_hostile_names_stay_text(hostile: str):
    full = made_order({hostile: "thought_code", "b": "code_only"})
    order = replace(
        full,
        model=hostile,
        funnel=tuple(replace(r, source=hostile, reasons={hostile: 3}) for r in full.funnel),
        perturbations=tuple(replace(r, operation=hostile, reasons={hostile: 1}) for r in full.perturbations),
    )
    markup = render_html(whole(order))
    assert not re.search("[\x00\ud800]", markup) and markup.encode()
    Page(markup)
    assert "<script" not in markup and "<img" not in markup and markup.count("<style") == 1


# ---- plain JSON ----


CELL = {"condition": "a", "benchmark": "b"}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value)))


def test_plain_json_gives_the_same_inputs():
    assert inputs_from(_plain(made_order())) == made_order()
    assert inputs_from({}) == OrderInputs()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": {}}, r"unknown \['strategy'\]"),
        ({"results": [{"condition": "a", "benchmark": "b"}]}, r"order.json.results\[0\].*missing \['score'\]"),
        ({"results": [{**CELL, "score": {"estimate": "high"}}]}, r"score.estimate: expected float, found 'high'"),
        ({"results": [{**CELL, "score": {"estimate": True}}]}, r"expected float, found True"),
        ({"results": [{**CELL, "score": {"estimate": float("nan")}}]}, r"expected a finite number"),
        ({"funnel": {"source": "x"}}, "expected a list"),
        ({"strategies": ["a"]}, "expected an object"),
        ([], "expected an object with the fields of OrderInputs"),
        ({"attention": [{"condition": "a", "grid": [[1.0, 2.0]]}]}, "expected a square grid"),
        (
            {"distributions": [{"measure": "kl", "condition": "a", "edges": [0, 1], "counts": [1, 2], "mean": {"estimate": 1}, "sd": 1}]},
            "expected rising edges, one more than counts",
        ),
    ],
)
def test_broken_json_is_named(change: Any, said: str):
    with pytest.raises(DataError, match=said):
        inputs_from(change)
