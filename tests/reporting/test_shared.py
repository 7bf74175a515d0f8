"""Shapes that two drawings share: drawn once, referred to where place and scale alone differ, and the page stays whole."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.reporting.pdf import points_of
from leaven.reporting.render import render_html
from leaven.reporting.shared import TOLERANCE, shared_paths
from leaven.reporting.svg import SHAPES, Canvas


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"shared_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


LINE = [(10.0 * i, 50.0 + 30 * ((i * 7) % 5)) for i in range(20)]


def drawn(points: list[tuple[float, float]], **how: Any) -> list[str]:
    canvas = Canvas(860)
    canvas.polyline(points, cls=how.pop("cls", "c1"), **how)
    return canvas.parts


def matrix(part: str) -> list[float]:
    return [float(v) for v in re.search(r"matrix\(([^)]*)\)", part)[1].split()]  # type: ignore[index]


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 3), st.floats(0.2, 3), st.floats(-200, 200), st.floats(-200, 200))
def test_a_scaled_path_refers_to_the_first_and_lands_where_it_was(a: float, d: float, e: float, f: float):
    moved = [(a * x + e, d * y + f) for x, y in LINE]
    first, second = shared_paths(drawn(LINE), drawn(moved), "x")
    assert 'id="x0"' in first[0] and 'class="v line c1"' in first[0]
    assert second[0].startswith('<use href="#x0" transform="matrix(')
    m = matrix(second[0])
    for (x, y), (u, v) in zip(points_of(re.search(r' d="([^"]*)"', first[0])[1]), moved, strict=True):  # type: ignore[index]
        assert abs(m[0] * x + m[4] - u) < TOLERANCE + 0.25 and abs(m[3] * y + m[5] - v) < TOLERANCE + 0.25


def test_other_shapes_colours_and_short_paths_stay_as_they_are():
    bent = [*LINE[:-1], (LINE[-1][0], LINE[-1][1] + 3)]
    assert shared_paths(drawn(LINE), drawn(bent), "x")[1] == drawn(bent)
    assert shared_paths(drawn(LINE), drawn(LINE, cls="c2"), "x")[1] == drawn(LINE, cls="c2")
    assert shared_paths(drawn(LINE[:4]), drawn(LINE[:4]), "x")[1] == drawn(LINE[:4])


def test_strokes_keep_their_width_or_grow_with_the_shape():
    half = [(0.5 * x, 0.5 * y) for x, y in LINE]
    kept = shared_paths(drawn(LINE, width=2), drawn(half, width=2), "x")
    assert "<use" in kept[1][0] and 'class="v ' in kept[0][0]
    grown = shared_paths(drawn(LINE, width=8), drawn(half, width=4), "x")
    assert "<use" in grown[1][0] and 'class="v ' not in grown[0][0]
    assert "<use" not in shared_paths(drawn(LINE, width=8), drawn(half, width=5), "x")[1][0]


def test_every_reference_of_a_page_leads_to_a_shape_and_many_are_shared():
    made, order = _load("made"), _load("made_order")
    markup = render_html(replace(made.made(tuple(order.STRATEGIES)), order=order.made_order()))
    ids = set(re.findall(r' id="([^"]+)"', markup))
    used = re.findall(r'<use href="#([^"]+)"', markup)
    assert len(used) > 60 and set(used) <= ids
    assert len(markup.encode()) < 380_000


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "circle"])
def test_markers_are_closed_and_centred(shape: str):
    canvas = Canvas(100)
    canvas.marker(shape, 50, 40, cls="c0", size=5)
    corners = points_of(re.search(r' d="([^"]*)"', canvas.parts[0])[1])  # type: ignore[index]
    assert canvas.parts[0].count("Z") == 1
    for axis, centre in ((0, 50), (1, 40)):
        values = [p[axis] for p in corners]
        assert max(values) - min(values) > 7 and abs((max(values) + min(values)) / 2 - centre) < 1.3


def test_texts_of_one_class_are_grouped_and_keep_their_words():
    canvas = Canvas(100)
    for x in (1, 2, 3):
        canvas.text(x, 5, f"tick {x}", cls="mute", anchor="middle")
    canvas.text(9, 5, "alone")
    markup = canvas.render("x", "Title", "Description")
    assert markup.count('class="mute m"') == 1 and re.findall(r">(tick \d)<", markup) == ["tick 1", "tick 2", "tick 3"]
    assert '<text x="9" y="5">alone</text>' in markup
