"""The drawing primitives and figures: scales, labels, shapes, and what a figure says without being seen."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.reporting import svg
from leaven.reporting.facts import Curve
from leaven.reporting.figures import figures, median_curve
from leaven.reporting.heatmap import merged, region_borders, step_of
from leaven.reporting.marks import mark
from leaven.reporting.pdf import outline, write_pdfs
from leaven.reporting.ridges import Ridge, axis_range
from leaven.reporting.sections.section import fine
from leaven.reporting.svg import HEAT_DARK, HEAT_LIGHT, LIGHT, SHAPES, Canvas, spread, ticks
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


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_evenly_spaced_and_inside(low: float, span: float):
    high = low + span
    if not high > low:
        return
    found = ticks(low, high)
    slack = 1e-6 * max(span, abs(low), abs(high)) + 1e-9
    assert all(low - slack <= t <= high + slack for t in found)
    assert len(found) <= 12


@settings(deadline=None)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=15), st.integers(1, 16))
def test_labels_never_overlap_and_keep_their_order(positions: list[float], gap: int):
    placed = spread(positions, gap, 0, 300)
    by_place = sorted(range(len(positions)), key=lambda i: placed[i])
    assert all(placed[b] - placed[a] >= gap - 1e-6 for a, b in zip(by_place, by_place[1:], strict=False))
    assert [positions[i] for i in by_place] == sorted(positions)


@settings(deadline=None)
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


# ---- drawings of the sections -----------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_step_of_the_heat_scale_is_told_apart_without_colour():
    for steps, ground in ((HEAT_LIGHT, "#fcfbf8"), (HEAT_DARK, "#16181b")):
        from_ground = [contrast(s, ground) for s in steps]
        assert from_ground == sorted(from_ground) and from_ground[-1] > 9
        assert all(contrast(a, b) >= 1.2 for a, b in zip(steps, steps[1:], strict=False))
        assert contrast(steps[5], ground) >= 3  # squares of a matrix


def test_the_page_and_its_files_share_one_palette():
    style = (Path(svg.__file__).with_name("style.css")).read_text(encoding="utf-8")
    light, dark = style.split("prefers-color-scheme:dark")[0], style.split("prefers-color-scheme:dark")[1].split("}}")[0]
    for i in range(len(HEAT_LIGHT)):
        assert f"--h{i}:{HEAT_LIGHT[i]}" in light and f"--h{i}:{HEAT_DARK[i]}" in dark


@settings(deadline=None)
@given(st.floats(1e-9, 1.0), st.floats(1e-3, 1.0))
def test_a_step_of_the_heat_scale_is_a_halving(share: float, top: float):
    step = step_of(share * top, top)
    assert 0 <= step < len(HEAT_LIGHT)
    if step:
        assert 2.0 ** (step - len(HEAT_LIGHT)) * top * (1 - 1e-6) <= share * top <= 2.0 ** (step - len(HEAT_LIGHT) + 1) * top * (1 + 1e-6)
    assert step_of(0.0, top) == 0 and step_of(top, top) == len(HEAT_LIGHT) - 1


@settings(deadline=None)
@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_merged_cells_cover_the_grid_once(size: int, random: object):
    grid = [[random.random() for _ in range(size)] for _ in range(size)]  # type: ignore[attr-defined]
    seen = {}
    for step, runs in merged(grid, 1.0).items():
        for r, c, n in runs:
            for k in range(n):
                assert (r, c + k) not in seen
                seen[(r, c + k)] = step
    assert seen == {(r, c): step_of(grid[r][c], 1.0) for r in range(size) for c in range(size)}


def test_regions_are_parted_once_where_they_touch_and_twice_around_a_gap():
    assert region_borders([("a", 0, 7), ("b", 7.2, 15), ("c", 15, 24)], 24) == [7.1, 15]
    assert region_borders([("a", 1, 6), ("b", 10, 18), ("c", 20, 28)], 32) == [6, 10, 18, 20, 28]


def test_outliers_do_not_squeeze_a_histogram_and_wide_intervals_are_cut():
    edges = tuple(float(i) for i in range(101))
    counts = (0.0,) * 10 + (500.0, 800.0, 500.0) + (0.0,) * 86 + (1.0,)
    row = Ridge(label="a", style=0, edges=edges, counts=counts, mean=11.5, low=11.4, high=11.6, sd=1.0)
    assert axis_range([row]) == (10.0, 13.0)
    assert axis_range([replace(row, low=-50.0, high=60.0)]) == (9.25, 13.75)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-900, 900), st.floats(-900, 900)), min_size=2, max_size=40))
def test_relative_paths_lead_through_the_same_points(points: list[tuple[float, float]]):
    canvas = Canvas(10, 10)
    canvas.polyline(points, cls="c0")
    drawn = outline(re.search(r'd="([^"]+)"', canvas.parts[0]).group(1)).vertices  # type: ignore[union-attr]
    assert len(drawn) == len(points)
    assert all(abs(a - x) < 0.051 and abs(b - y) < 0.051 for (a, b), (x, y) in zip(drawn, points, strict=True))


def test_a_pdf_is_written_from_the_same_parts_byte_for_byte(tmp_path: Path):
    drawn = [(f.name, f.draw(860)) for group in figures(made()).values() for f in group]
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_pdfs(drawn, folder)
    for name, _ in drawn:
        found = (tmp_path / "a" / f"{name}.pdf").read_bytes()
        assert found.startswith(b"%PDF") and len(found) > 5_000 and found == (tmp_path / "b" / f"{name}.pdf").read_bytes()


def test_small_values_keep_three_digits():
    words = ["0.00320", "0.0600", "0.500", "12.000", "0.000", "\u22123.10e-05"]
    assert [fine(v) for v in (0.0032, 0.06, 0.5, 12.0, 0.0, -0.000031)] == words
    assert fine(None) == "\u2013" and fine(0.02, sign=True) == "+0.0200"
