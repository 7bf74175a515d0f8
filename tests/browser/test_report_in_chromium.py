"""The report as a reader meets it: headless Chromium, offline, phone and desktop, light and dark, keyboard, axe, paper.

Needs Chromium (found on PATH) and the `browser` extra; skipped with the reason when either is absent. Screenshots go
to the folder in LEAVEN_SCREENSHOTS for eyes, if it is set; no pixels are compared.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaven.reporting.render import render_html

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'leaven[browser]'")


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).parents[1] / "reporting" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made, HOSTILE = _load("made").made, _load("made").HOSTILE
made_order, STRATEGIES = _load("made_order").made_order, _load("made_order").STRATEGIES

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update "
    "--disable-sync"
).split()
VIEWS = [(width, scheme) for width in (360, 1280) for scheme in ("light", "dark")]
LONG = tuple(f"a_condition_with_a_remarkably_long_name_{i:02d}" for i in range(30))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if path is None:
        pytest.skip("no Chromium on PATH")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    paths = {name: folder / f"{name}.html" for name in ("small", "large", "order")}
    paths["small"].write_text(render_html(made()), encoding="utf-8")
    paths["large"].write_text(render_html(made(LONG)), encoding="utf-8")
    order = replace(made(tuple(STRATEGIES)), order=made_order())
    paths["order"].write_text(render_html(order), encoding="utf-8")
    return paths


class Opened:
    """A page with what it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        context.route("**/*", self._route)
        self.page = context.new_page()
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("dialog", lambda d: self.complaints.append(d.message))
        self.url = path.as_uri()
        self.page.goto(self.url)

    def _route(self, route: Any) -> None:
        url = route.request.url
        if url.startswith("file:") and not self.requests:
            route.continue_()
        else:
            self.requests.append(url)
            route.abort()


@pytest.mark.parametrize("name", ["small", "large", "order"])
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_it_opens_offline_without_requests_complaints_or_overflow(browser, reports, name: str, width: int, scheme: str):
    opened = Opened(browser, reports[name], width, scheme)
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, f"{wide} px wide at {width}"
    outside = page.evaluate("""() => [...document.querySelectorAll('main > section > *, header > *, nav, footer')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))""")
    assert outside == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(x) for x in paper[4:-1].split(",")[:3]) > 384) == (scheme == "light")
    folder = os.environ.get("LEAVEN_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}-{width}-{scheme}.png"), full_page=True)
    assert opened.complaints == [] and opened.requests == []


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [(n, *view) for n in ("small", "order") for view in VIEWS] + [("large", 360, "dark")]
)
def test_axe_finds_nothing(browser, reports, name: str, width: int, scheme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'leaven[browser]'")
    opened = Opened(browser, reports[name], width, scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
    found = axe.Axe().run(opened.page, options={"runOnly": {"type": "tag", "values": tags}})
    assert found.violations_count == 0, found.generate_report()


def test_figures_have_names_and_one_drawing_at_a_time(browser, reports):
    for width, shown in ((360, "narrow"), (1280, "wide")):
        page = Opened(browser, reports["small"], width, "light").page
        drawings = page.evaluate("""() => [...document.querySelectorAll('figure svg[role=img]')].map(s => ({
            cls: s.getAttribute('class'), seen: s.getBoundingClientRect().width > 0,
            said: s.getAttribute('aria-labelledby').split(' ').map(i => document.getElementById(i).textContent)}))""")
        assert len(drawings) == 6
        assert all(all(len(words) > 5 for words in d["said"]) and d["seen"] == (d["cls"] == shown) for d in drawings)


def test_words_in_figures_stay_inside_and_apart(browser, reports):
    for name, width in ((n, w) for n in ("small", "large", "order") for w in (360, 1280)):
        page = Opened(browser, reports[name], width, "light").page
        clashes = page.evaluate("""() => { const out = [];
            for (const svg of document.querySelectorAll('figure svg')) {
                const frame = svg.getBoundingClientRect(); if (!frame.width) continue;
                const boxes = [...svg.querySelectorAll('text')].map(t => [t.lastChild.textContent,
                t.getBoundingClientRect()]); boxes.forEach(([w, a], i) => {
                    if (a.left < frame.left - 2 || a.right > frame.right + 2) out.push('outside: ' + w);
                    boxes.slice(i + 1).forEach(([v, b]) => {
                        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom
                        - 4) out.push(w + ' | ' + v); }); }); }
            return out; }""")
        assert clashes == [], (name, width, clashes[:10])


def test_the_keyboard_reaches_and_opens_every_details(browser, reports):
    page = Opened(browser, reports["small"], 1280, "light").page
    total = page.locator("summary").count()
    reached = set()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(600):
        at = page.evaluate("[...document.querySelectorAll('summary')].indexOf(document.activeElement)")
        if at >= 0 and at not in reached:
            reached.add(at)
            if not page.evaluate("document.activeElement.parentElement.open"):
                page.keyboard.press("Enter")
                assert page.evaluate("document.activeElement.parentElement.open")
        if len(reached) == total:
            break
        page.keyboard.press("Tab")
    assert total > 5 and len(reached) == total


def test_the_source_of_a_number_is_one_click_away(browser, reports):
    page = Opened(browser, reports["small"], 1280, "light").page
    page.locator("#contrasts a[href^='#n']").first.click()
    assert page.evaluate("location.hash") == "#n1"
    assert page.locator("#n1").is_visible()


def test_hostile_model_output_is_read_not_run(browser, reports):
    opened = Opened(browser, reports["small"], 1280, "light")
    assert HOSTILE in opened.page.locator("details.item pre").nth(2).text_content()
    assert opened.page.evaluate("document.querySelectorAll('script, img, iframe').length") == 0
    assert opened.complaints == [] and opened.requests == []


def test_it_prints(browser, reports, tmp_path: Path):
    page = Opened(browser, reports["small"], 1280, "dark").page
    page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_sections_of_sentences_read_as_blocks_on_a_phone(browser, reports):
    for width, shown in ((360, "block"), (1280, "table-cell")):
        page = Opened(browser, reports["order"], width, "light").page
        assert page.evaluate("getComputedStyle(document.querySelector('#claims td')).display") == shown
        scrolls = page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('#claims').parentElement)")
        assert scrolls <= 1, (width, scrolls)


def test_a_reader_without_the_picture_gets_its_content(browser, reports):
    page = Opened(browser, reports["order"], 1280, "light").page
    said = page.evaluate("""() => [...document.querySelectorAll('figure svg.wide')].map(s =>
        document.getElementById(s.getAttribute('aria-labelledby').split(' ')[1]).textContent)""")
    attention = next(s for s in said if s.startswith("Attention maps."))
    assert "thought attends most to thought" in attention and "%" in attention
    assert all(re.search(r"\d", s) for s in said)
