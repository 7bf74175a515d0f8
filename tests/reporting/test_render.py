"""The page as bytes: one self-contained, deterministic, escaped HTML file in which every number says what it rests
on.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from leaven.reporting.facts import Output
from leaven.reporting.forest import forest_figure, seed_dots
from leaven.reporting.references import cited
from leaven.reporting.render import render_html

_spec = importlib.util.spec_from_file_location("report_made", Path(__file__).with_name("made.py"))
made_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_module)
made, without, HOSTILE, SEEDS = made_module.made, made_module.without, made_module.HOSTILE, made_module.SEEDS

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and complains about unbalanced tags."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.text: list[str] = []
        self._open: list[str] = []
        self._table = ""
        self.feed(markup)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        self.tags.append((tag, values))
        if tag == "br" and {"td", "th"} & set(self._open):
            self.rows[self._table][-1][-1] += " "
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "table":
            self._table = values.get("id", "")
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, (tag, self._open)
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self._open[-1:]:
            self.text.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[self._table][-1][-1] += data

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.tags if "id" in a]


def page(**parts: object) -> Page:
    return Page(render_html(without(made(), **parts)))


def test_the_page_loads_nothing_and_runs_nothing():
    markup = render_html(made())
    parsed = Page(markup)
    assert not [t for t, _ in parsed.tags if t in ("script", "link", "iframe", "img", "object", "embed", "form")]
    for _, attributes in parsed.tags:
        assert not [k for k in attributes if k.startswith("on") or k in ("src", "srcset", "style")]
        assert not re.match(r"\s*(https?:|//|data:|javascript:)", attributes.get("href", "#"))
    style = markup[markup.index("<style>") : markup.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_the_same_facts_give_the_same_bytes_below_one_megabyte():
    first, second = render_html(made()), render_html(made())
    assert first == second and len(first.encode()) < 300_000


def test_question_then_answer_open_the_page():
    data = made()
    text = " ".join(" ".join(page().text).split())
    body = text[text.index("Skip to the result") :]
    assert body.index(data.question) < body.index(data.answer) < body.index("Primary contrast")


def test_structure_ids_links_and_headings():
    parsed = page()
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for t, a in parsed.tags if t == "a"}
    assert targets <= set(ids)
    labels = {x for _, a in parsed.tags for x in (a.get("aria-labelledby") or "").split()}
    assert labels <= set(ids)
    levels = [int(t[1]) for t, _ in parsed.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert {"main", "nav", "header", "footer", "title"} <= {t for t, _ in parsed.tags}
    assert all(a.get("scope") for t, a in parsed.tags if t == "th")
    tables = [t for t, _ in parsed.tags if t == "table"]
    assert len(tables) == len([t for t, _ in parsed.tags if t == "caption"])


def test_every_estimate_has_an_interval_items_seeds_and_a_source():
    parsed = page()
    for name in ("contrasts", "scores"):
        head, *rows = parsed.rows[name]
        for row in rows:
            cells = dict(zip(head, row, strict=True))
            assert (
                re.fullmatch(r"\[.+, .+\]", cells["95 % interval"])
                and cells["Items"] == "240"
                and cells["Seeds"] == "4 (0\u20133)"
            )
            assert f"n{cells['Source']}" in parsed.ids()
    for row in parsed.rows["numbers"][1:]:
        assert "[" in row[2] and "R" in row[6]
    runs = {row[0]: row for row in parsed.rows["runs"][1:]}
    assert len(runs) == 16 and runs["R1"][4].startswith("evaluate/code_only/seed-0")


def test_difficulty_table_marks_seen_columns_and_items():
    head, *rows = page().rows["by-difficulty"]
    assert head[2].split() == ["1", "seen", "40", "items"] and head[4].split() == ["3", "40", "items"]
    assert len(rows) == 4 and all("[" in cell for cell in rows[0][2:])


def test_model_output_stays_text():
    parsed = page()
    assert HOSTILE in "".join(parsed.text)
    assert "<script" not in render_html(made())


@pytest.mark.parametrize(
    "hostile",
    [HOSTILE, "{{ 7 * 7 }}", "\x00\x1b[31m\ud800", "</svg><style>*{display:none}</style>", "日本語 \u202e abc"],
)
def test_hostile_text_anywhere_is_text(hostile: str):
    data = made((hostile, "b"))
    data = replace(
        data,
        question=hostile,
        answer=hostile,
        study=hostile,
        warnings=(hostile,),
        version=hostile,
        differences=((hostile, {hostile: hostile, "b": 1}),),
        fingerprints=({hostile: hostile},),
        licences=({"source": hostile, "licence": hostile, "n_examples": 1, "origin": hostile},),
    )
    markup = render_html(data)
    assert not re.search("[\x00\x1b\ud800]", markup) and markup.encode()
    parsed = Page(markup)
    assert "<script" not in markup and "<img" not in markup and markup.count("<style") == 1
    assert {t for t, _ in parsed.tags if t in ("script", "img")} == set()


def test_one_condition_without_contrasts():
    data = without(made(("only",)), contrasts=(), primary="", differences=(), answer="This study declares no contrast.")
    text = " ".join(Page(render_html(data)).text)
    assert "declares no primary contrast" in text and "one condition" in text


def test_nulls_refusals_and_unmeasured_items_are_said():
    data = made()
    refused = replace(
        data.contrasts[0],
        estimate=None,
        low=None,
        high=None,
        mde=None,
        p=None,
        p_holm=None,
        decision="refused",
        sentence="No answer: expected the same seeds on both sides.",
        warnings=("unequal seeds",),
    )
    score = replace(data.scores[0], estimate=None, low=None, high=None, n_missing=240, n_items=0, per_seed=())
    parsed = page(
        contrasts=(refused, *data.contrasts[1:]), scores=(score, *data.scores[1:]), curves=(), mixtures=(), samples=()
    )
    text = " ".join(parsed.text)
    assert "expected the same seeds" in text and "unequal seeds" in text and "refused" in text
    assert "nan" not in text.lower().split() and "None" not in text.split()
    row = dict(zip(parsed.rows["scores"][0], parsed.rows["scores"][1], strict=True))
    assert row["Score"] == "\u2013" and row["Not measured"] == "240"
    assert "curves-h" not in parsed.ids() and "samples-h" not in parsed.ids()


def test_an_empty_study_still_renders():
    data = without(
        made(),
        contrasts=(),
        scores=(),
        curves=(),
        mixtures=(),
        samples=(),
        differences=(),
        warnings=(),
        licences=(),
        runs=(),
        fingerprints=(),
        seeds=(),
        benchmarks=(),
        facts={},
        conditions=(),
        primary="",
    )
    assert "No condition has been scored" in render_html(data)


def test_thirty_long_names_stay_below_one_megabyte():
    names = tuple(f"a_condition_with_a_remarkably_long_name_that_goes_on_and_on_{i:02d}" for i in range(30))
    markup = render_html(made(names))
    Page(markup)
    assert len(markup.encode()) < 1_000_000


def test_long_output_is_cut_and_says_so():
    shown = made().samples[0]
    long = replace(shown, outputs=(Output(condition="code_only", seed=0, raw="x" * 50_000, status="fail"),))
    assert "48,000 more characters" in " ".join(page(samples=(long,)).text)


def test_levels_get_their_own_column_only_when_something_varies():
    data = made()
    assert "Level" not in page().rows["scores"][0]
    varied = tuple(replace(s, level='{"train.lr":0.001}') for s in data.scores)
    parsed = page(scores=varied)
    assert "Level" in parsed.rows["scores"][0] and "lr = 0.001" in " ".join(parsed.text)


def test_references_follow_the_study_and_end_with_leaven():
    assert [r.key for r in cited(())][-1] == "leaven" and len(cited(())) == 5
    assert [r.key for r in cited(("2405.20535",))] == ["zhang2025coding", "leaven"]
    assert [r.key for r in cited(("mine2026",))] == ["mine2026", "leaven"]
    assert all(r.bibtex.startswith("@") and r.bibtex.count("{") == r.bibtex.count("}") for r in cited((), "0.1.0"))
    assert "version = {0.1.0}" in re.sub(" +", " ", cited((), "0.1.0")[-1].bibtex)


def test_the_methods_name_what_was_done():
    text = " ".join(page().text).replace("\u00a0", " ")
    for words in (
        "4 seeds (0\u20133)",
        "width 64, 3 layers",
        "learning rate 0.004",
        "350 steps",
        "greedy decoding",
        "Holm",
        "data.stages.sft.format",
    ):
        assert words in text, words


def test_one_layer_is_one_layer():
    data = made()
    stages = {"sft": {**data.facts["stages"]["sft"], "budget": {"epochs": 1.0}, "batch": 1}}
    data = replace(
        data, facts={**data.facts, "model": {**data.facts["model"], "layers": 1, "heads": 1}, "stages": stages}
    )
    text = " ".join(Page(render_html(data)).text)
    assert "width 64, 1 layer, 1 head." in text and "ran for 1 epoch," in text and "took 1 example per" in text


def test_the_answer_is_followed_by_what_its_conditions_are():
    markup = render_html(made())
    head = markup.split("<nav")[0]
    assert (
        "<dt>thought_code</dt><dd>Thought, then program</dd>" in head
        and "<dt>code_only</dt><dd>The program alone</dd>" in head
    )
    assert "code_thought" not in head
    bare = replace(made(), conditions=tuple(replace(c, description="") for c in made().conditions))
    assert "<dt>thought_code</dt><dd>data.stages.sft.format = thought_code, " in render_html(bare).split("<nav")[0]


def test_numbers_keep_their_units_on_the_line():
    data = replace(made(), warnings=("80 % power only for differences of 5.6 points or more",))
    markup = render_html(data)
    assert "80\u00a0% power only for differences of 5.6\u00a0points" in markup and "96.7\u00a0% against" in markup
    shown = replace(data.samples[0], outputs=(Output(condition="code_only", seed=0, raw="7 % 2", status="fail"),))
    assert ">7 % 2<" in render_html(without(data, samples=(shown,)))


def test_the_forest_shows_seeds_margins_and_the_better_side():
    data = made()
    plain = forest_figure(data)
    assert plain is not None and "Small dots are single seeds" in plain.caption and "margin" not in plain.caption
    assert 'class="band"' not in plain.wide() and "first named is higher (better)" in plain.wide()
    for finding in data.contrasts:
        assert len(seed_dots(finding)) == len(SEEDS)
    lower = [
        replace(c, data={**c.data, "metric": "bits_per_byte", "direction": "lower", "margin": 0.05})
        for c in data.contrasts
    ]
    scores = tuple(replace(s, metric="bits_per_byte") for s in data.scores)
    turned = without(data, contrasts=tuple(lower), scores=scores)
    figure = forest_figure(turned)
    assert figure is not None and "declared margin" in figure.caption and 'class="band"' in figure.wide()
    assert (
        "lower (better)" in figure.wide()
        and "higher (better)" not in figure.wide()
        and "(lower is better)" in figure.wide()
    )


def test_scores_on_the_items_of_the_primary_contrast_come_first():
    data = made()
    overall = [s for s in data.scores if s.difficulty is None]
    unseen = [replace(s, scope="unseen items", seen=False, estimate=0.123, n_items=160) for s in overall]
    other = [replace(s, benchmark="other") for s in overall]
    primary = replace(data.contrasts[0], data={**data.contrasts[0].data, "where": {"seen": False}})
    data = without(data, contrasts=(primary, *data.contrasts[1:]), scores=(*overall, *unseen, *other))
    assert [(s.benchmark, s.scope) for s in data.leading_scores()] == [("lists", "unseen items")] * 4 + [
        ("other", "")
    ] * 4
    parsed = Page(render_html(data))
    assert parsed.rows["scores"][1][1] == "12.3" and len(parsed.rows["scores-2"]) == len(parsed.rows["scores-3"]) == 5
