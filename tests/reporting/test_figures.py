"""The drawing primitives and figures: scales, labels, shapes, and what a figure says without being seen."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from leaven.reporting.facts import Curve
from leaven.reporting.figures import figures, median_curve
from leaven.reporting.marks import mark
from leaven.reporting.svg import LIGHT, SHAPES, Canvas, spread, ticks
from leaven.reporting.wording import interval, level_text, number, p_value, seeds_text, shorten, text_width

_spec = importlib.util.spec_from_file_location("report_made", Path(__file__).with_name("made.py"))
made_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_module)
made, without = made_module.made, made_module.without


def test_numbers_are_worded_alike_everywhere():
    assert number(-0.0361) == "\u22120.036" and number(0.0361, sign=True) == "+0.036" and number(None) == "\u2013"
    assert (
        number(0.613, sign=True, percent=True) == "+61.3"
        and number(float("nan")) == "\u2013"
        and number(-0.0001) == "0.000"
    )
    assert interval(-0.1, 0.2, sign=True) == "[\u22120.100, +0.200]" and interval(None, 0.2) == "\u2013"
    assert p_value(0.0004) == "< 0.001" and p_value(0.04) == "0.040"
    assert seeds_text((3, 0, 1, 7)) == "0\u20131, 3, 7"
    assert level_text('{"model.width":64,"train.lr":0.001}') == "width = 64, lr = 0.001" and level_text("{}") == ""


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_evenly_spaced_and_inside(low: float, span: float):
    high = low + span
    if not high > low:
        return
    found = ticks(low, high)
    slack = 1e-6 * max(span, abs(low), abs(high)) + 1e-9
    assert all(low - slack <= t <= high + slack for t in found)
    assert len(found) <= 12


@given(st.lists(st.floats(0, 300), min_size=1, max_size=15), st.integers(1, 16))
def test_labels_never_overlap_and_keep_their_order(positions: list[float], gap: int):
    placed = spread(positions, gap, 0, 300)
    by_place = sorted(range(len(positions)), key=lambda i: placed[i])
    assert all(placed[b] - placed[a] >= gap - 1e-6 for a, b in zip(by_place, by_place[1:], strict=False))
    assert [positions[i] for i in by_place] == sorted(positions)


@given(st.text(max_size=80), st.floats(20, 400))
def test_shortened_text_fits_and_short_text_is_kept(text: str, width: float):
    cut = shorten(text, width)
    assert cut == text or text_width(cut) <= width or cut.count("\u2026") >= 1
    assert shorten(text, 1e6) == text


def test_both_sides_of_a_long_contrast_stay_apart():
    cut = shorten("a_condition_with_a_long_name_01 vs a_condition_with_a_long_name_00", 240)
    assert "01 vs " in cut and cut.endswith("00")


def test_every_condition_of_a_large_study_has_its_own_colour_and_shape():
    assert len({mark(i) for i in range(len(LIGHT) * len(SHAPES))}) == len(LIGHT) * len(SHAPES)


def test_markup_in_names_is_text():
    canvas = Canvas(100, 100)
    canvas.text(0, 0, "</svg><script>", full="<b>")
    drawing = canvas.render("x", "<i>", '"&')
    assert "<script>" not in drawing and "<i>" not in drawing and "<b>" not in drawing


def test_figures_are_well_formed_and_described():
    drawn = figures(made())
    assert [f.name for f in drawn["forest"]] == ["forest"] and drawn["difficulty"] and drawn["curves"]
    for figure in (f for group in drawn.values() for f in group):
        for markup in (figure.wide(), figure.narrow(), figure.standalone()):
            root = ElementTree.fromstring(markup)
            texts = {e.tag.split("}")[-1]: e.text for e in root if e.tag.split("}")[-1] in ("title", "desc")}
            assert texts["title"] and len(texts["desc"]) > 40
        assert "var(" not in figure.standalone() and "http" not in figure.wide()


def test_the_forest_plot_shows_every_contrast_and_score():
    words = re.findall(r">([^<>]+)</text>", figures(made())["forest"][0].wide())
    assert "+61.3 [+55.4, +67.2]" in words and "96.7 [92.7, 100.0]" in words
    assert {"code_only", "thought_code", "code_thought", "code_only_tokens"} <= set(words)


def test_nothing_to_draw_is_no_figure():
    empty = without(made(), contrasts=(), scores=(), curves=(Curve(condition="code_only", seed=0),))
    assert figures(empty) == {"forest": (), "difficulty": (), "curves": ()}


def test_the_median_curve_takes_the_steps_that_seeds_share():
    a = Curve(condition="c", seed=0, points=((1, 3.0), (2, 2.0), (3, 1.0)))
    b = Curve(condition="c", seed=1, points=((2, 4.0), (3, 2.0)))
    assert median_curve([a, b]) == ((2, 3.0), (3, 1.5))
