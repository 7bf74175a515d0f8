"""The step: real artifacts through the analysis step into a folder with the page, findings, tables and figures."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import pytest

from leaven.analysis.run import analyse
from leaven.core.lineage import lineage
from leaven.core.step import StepContext
from leaven.core.tables import CURVE, REALISED, write_items, write_samples, write_table, write_verdicts
from leaven.core.types import Example, Item, Sample, Verdict
from leaven.errors import DataError
from leaven.reporting.read import read_report, thinned
from leaven.reporting.render import render_html, report
from leaven.reporting.samples import spread_items
from leaven.reporting.sections.order import order_sections

_spec = importlib.util.spec_from_file_location("report_made_order", Path(__file__).with_name("made_order.py"))
assert _spec and _spec.loader
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
_made_order = _module.made_order

CONDITIONS, SEEDS, N_ITEMS = ("code_only", "thought_code"), (0, 1, 2), 24


def _items() -> list[Item]:
    return [
        Item(
            id=f"i{k:02d}",
            benchmark="lists",
            seen=k % 6 < 2,
            example=Example(
                id=f"i{k:02d}",
                source="lists",
                question=f"problem {k}",
                answer=str(k),
                difficulty=1 + k % 6,
                difficulty_unit="operations",
            ),
        )
        for k in range(N_ITEMS)
    ]


def _right(condition: str, seed: int, k: int) -> bool:
    return (k * 7 + seed) % 10 < (9 if condition == "thought_code" else 4)


@pytest.fixture()
def study(tmp_path: Path) -> tuple[dict, dict[str, Path]]:
    inputs = {"items:lists": tmp_path / "items"}
    write_items(tmp_path / "items" / "items.parquet", _items())
    runs, curves, orders = [], [], []
    for condition in CONDITIONS:
        for seed in SEEDS:
            folder, cell = tmp_path / condition / str(seed), {"condition": condition, "level": "{}", "seed": seed}
            write_samples(
                folder / "eval" / "samples.parquet",
                [
                    Sample(item=i.id, request=0, text=f"answer </pre><script> {i.id}", finish="stop", n_tokens=4)
                    for i in _items()
                ],
            )
            write_verdicts(
                folder / "eval" / "verdicts.parquet",
                [
                    Verdict(
                        benchmark="lists",
                        item=f"i{k:02d}",
                        status="pass" if _right(condition, seed, k) else "fail",
                        score=float(_right(condition, seed, k)),
                        extracted=str(k),
                        raw=f"raw </pre><script> {k}",
                    )
                    for k in range(N_ITEMS)
                ],
            )
            write_table(
                folder / "model" / "curve.parquet",
                [
                    {
                        "stage": "sft",
                        "step": s,
                        "loss": 3 / (s + 1) + seed / 100,
                        "learning_rate": 1e-3,
                        "gradient_norm": 1.0,
                        "n_tokens": 100 * s,
                        "n_learned_tokens": 50 * s,
                        "n_examples": 8 * s,
                    }
                    for s in range(400)
                ],
                CURVE,
            )
            write_table(
                folder / "order" / "realised.parquet",
                [
                    {
                        "stage": "sft",
                        "block": b,
                        "source": s,
                        "planned": 4.0,
                        "realised": 4.0 + (b == 0) * (1 if s == "a" else -1),
                        "unit": "examples",
                    }
                    for b in range(3)
                    for s in "ab"
                ],
                REALISED,
            )
            name = f"{condition}:{seed}"
            inputs |= {
                f"verdicts:{name}": folder / "eval",
                f"curve:{name}": folder / "model",
                f"order:{name}": folder / "order",
            }
            runs.append(
                {
                    **cell,
                    "benchmark": "lists",
                    "input": f"verdicts:{name}",
                    "node": f"evaluate/{name}",
                    "id": name,
                    "key": "ab" * 32,
                    "verdicts_input": f"verdicts:{name}",
                    "samples_input": f"verdicts:{name}",
                    "items_input": "items:lists",
                }
            )
            curves.append({**cell, "input": f"curve:{name}", "node": f"train/{name}"})
            orders.append({**cell, "input": f"order:{name}"})
    spec = {
        "study": "tiny",
        "question": "Does the thought help?",
        "version": "0.1.0",
        "lock_digest": "00ff",
        "runs": runs,
        "curves": curves,
        "orders": orders,
        "seeds": list(SEEDS),
        "conditions": {c: {"description": c, "differs": ["data.stages.sft.format"]} for c in CONDITIONS},
        "differences": [{"path": "data.stages.sft.format", "values": {c: c for c in CONDITIONS}}],
        "contrasts": [
            {
                "name": "thought",
                "treatment": "thought_code",
                "control": "code_only",
                "benchmark": "lists",
                "primary": True,
            }
        ],
        "licences": [{"source": "lists", "licence": "Apache-2.0", "n_examples": 99, "origin": "leaven"}],
        "warnings": ["only a test"],
        "benchmarks": {"lists": {"benchmark": "programs", "n": 1}},
        "fingerprints": [{"python": "3.11"}],
        "model": {},
        "train": {},
        "stages": {},
    }
    analyse(spec, inputs, tmp_path / "analysis", StepContext())
    return spec, {**inputs, "analysis": tmp_path / "analysis"}


def test_the_report_folder_holds_page_findings_tables_and_figures(study, tmp_path: Path):
    spec, inputs = study
    report(spec, inputs, tmp_path / "out", StepContext())
    out = tmp_path / "out"
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert {
        "report.html",
        "findings.json",
        "tables/results.csv",
        "tables/contrasts.parquet",
        "tables/scores.csv",
        "tables/realised.csv",
        "tables/curves.parquet",
        "figures/forest.svg",
        "figures/forest.pdf",
        "figures/difficulty-1.svg",
        "figures/difficulty-1.pdf",
        "figures/curves-1.svg",
        "figures/curves-1.pdf",
    } <= set(names)
    text = (out / "report.html").read_text(encoding="utf-8")
    answer = json.loads((inputs["analysis"] / "answer.json").read_text(encoding="utf-8"))
    assert answer["answer"].split(":")[0] in text and "only a test" in text and "evaluate/code_only:0" in text
    assert "raw &lt;/pre&gt;&lt;script&gt;" in text and "<script" not in text
    assert pl.read_csv(out / "tables" / "contrasts.csv")["seeds"].to_list()[0] == "0 1 2"


def test_the_sections_on_order_bring_their_files(study, tmp_path: Path):
    spec, inputs = study
    order = _made_order({"code_only": "code_only", "thought_code": "thought_code"})
    (inputs["analysis"] / "order.json").write_text(json.dumps(asdict(order)), encoding="utf-8")
    report(spec, inputs, tmp_path / "out", StepContext())
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for section in order_sections(order):
        assert f'id="{section.id}-h"' in text
        for figure in section.figures:
            assert (tmp_path / "out" / "figures" / f"{figure.name}.svg").stat().st_size > 500
            assert (tmp_path / "out" / "figures" / f"{figure.name}.pdf").read_bytes().startswith(b"%PDF")
            assert (tmp_path / "out" / "tables" / f"{figure.table}.csv").exists()
        for table in section.tables:
            frame = pl.read_parquet(tmp_path / "out" / "tables" / f"{table.id}.parquet")
            assert frame.height == len(table.records) > 0
            assert pl.read_csv(tmp_path / "out" / "tables" / f"{table.id}.csv").columns == frame.columns
    (inputs["analysis"] / "order.json").write_text('{"results": 1}', encoding="utf-8")
    with pytest.raises(DataError, match="order.json.results: expected a list"):
        read_report(spec, inputs)


def test_the_same_inputs_give_the_same_files(study, tmp_path: Path):
    for name in ("one", "two"):
        report(*study, tmp_path / name, StepContext())
    for path in (p for p in (tmp_path / "one").rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path.name


def test_facts_match_the_tables(study):
    data = read_report(*study)
    primary = data.primary_contrast()
    assert primary is not None and primary.seeds == SEEDS and primary.n_items == N_ITEMS
    overall = {s.condition: s for s in data.scores if s.difficulty is None and not s.scope}
    unseen = [s for s in data.scores if s.scope == "unseen items"]
    assert len(unseen) == 2 and all(s.n_items == 16 and len(s.per_seed) == 3 and s.seen is False for s in unseen)
    assert set(overall) == set(CONDITIONS) and all(
        s.binary and len(s.per_seed) == 3 and s.n_items == N_ITEMS for s in overall.values()
    )
    for condition, score in overall.items():
        expected = sum(_right(condition, s, k) for s in SEEDS for k in range(N_ITEMS)) / (3 * N_ITEMS)
        assert score.estimate == pytest.approx(expected)
    assert {(s.difficulty, s.seen) for s in data.scores if s.difficulty} == {(d, d < 3) for d in range(1, 7)}
    assert {(m.source, m.planned, m.realised, m.worst_block) for m in data.mixtures} == {
        ("a", 12.0, 13.0, 1.0),
        ("b", 12.0, 11.0, 1.0),
    }
    assert len(data.curves) == 6 and all(len(c.points) <= 90 for c in data.curves)
    assert [o.condition for o in data.samples[0].outputs] == list(CONDITIONS)
    assert data.samples_total == N_ITEMS and len(data.samples) == 6


def test_every_run_of_a_number_is_linked(study):
    markup = render_html(read_report(*study))
    row = re.search(r'<tr id="n1">.*?</tr>', markup, re.S)
    assert row
    ranges = re.findall(r'href="#r(\d+)">R(\d+)(?:\u2013R(\d+))?</a>', row.group())
    named = [n for at, first, last in ranges for n in range(int(first), int(last or first) + 1) if at == first]
    assert len(set(named)) == 6 and all(f'<tr id="r{n}">' in markup for n in named)


def test_a_failed_run_is_reported(study, tmp_path: Path):
    spec, inputs = study
    left = {k: v for k, v in inputs.items() if k not in ("verdicts:code_only:2", "analysis")}
    analyse(spec, left, tmp_path / "partial", StepContext())
    markup = render_html(read_report(spec, {**left, "analysis": tmp_path / "partial"}))
    assert "1 runs have no verdicts" in markup and "refused" in markup and "same seeds" in markup


def test_missing_and_broken_inputs_name_themselves(study, tmp_path: Path):
    spec, inputs = study
    with pytest.raises(DataError, match="expected an input called 'analysis'"):
        read_report(spec, {})
    (inputs["analysis"] / "findings.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match="findings.json"):
        read_report(spec, inputs)
    (inputs["analysis"] / "findings.json").write_text(
        '[{"id": "x", "kind": "note", "title": "t", "colour": 1}]', encoding="utf-8"
    )
    with pytest.raises(DataError, match="colour"):
        read_report(spec, inputs)


def test_thinned_curves_average_bins_and_keep_the_last_step():
    points = thinned(list(range(1000)), [float(i) for i in range(1000)], 90)
    assert len(points) == 90 and points[-1][0] == 999
    assert sum(y for _, y in points) / 90 == pytest.approx(499.5, abs=1)
    assert thinned([1, 2], [3.0, 4.0], 90) == ((1.0, 3.0), (2.0, 4.0))


def test_a_study_without_an_answer_says_so(study, tmp_path: Path):
    spec, inputs = study
    spec = {**spec, "contrasts": [{**spec["contrasts"][0], "where": {"min_difficulty": 40}}]}
    analyse(spec, inputs, tmp_path / "refused", StepContext())
    data = read_report(spec, {**inputs, "analysis": tmp_path / "refused"})
    assert data.answer.startswith("No answer: ")
    markup = render_html(data)
    assert "could not be taken" in markup and "min_difficulty" in markup and 'class="big"' not in markup


def test_refused_rows_of_a_source_are_said(study, tmp_path: Path):
    spec, inputs = study
    (tmp_path / "mine").mkdir()
    books = {
        "rows_read": 44,
        "rows_kept": 41,
        "bad_rows": {"empty answer": 1, "broken JSON": 2},
        "quoted": {"broken JSON": [{"row": 21, "where": "line 21", "start": "{"}], "empty answer": []},
    }
    (tmp_path / "mine" / "report.json").write_text(json.dumps(books), encoding="utf-8")
    licences = [{"source": "mine", "licence": "MIT", "input": "source:data/mine"}, *spec["licences"]]
    data = read_report({**spec, "licences": licences}, {**inputs, "source:data/mine": tmp_path / "mine"})
    assert data.warnings[-1] == "source mine: 3 of 44 rows refused (line 21: broken JSON; empty answer, 1)"
    markup = render_html(data)
    cells = [re.sub("<.*?>", "|", row) for row in re.findall(r"<tr>.*?</tr>", markup.split('id="licences"')[1], re.S)]
    assert [c for c in cells[0].split("|") if c.strip()][3:6] == ["Rows read", "Kept", "Refused"]
    assert "||44||41||3||" in cells[1] and "||99||\u2013||\u2013||\u2013||" in cells[2]
    assert "Rows read" not in render_html(read_report(spec, inputs))


def _judge_again(inputs: dict[str, Path], metrics: tuple[str, ...]) -> None:
    """Write verdicts of `metrics` in that order; a bits_per_byte row has the status "pass" whatever was answered."""
    for condition in CONDITIONS:
        for seed in SEEDS:
            rows = []
            for k in range(N_ITEMS):
                right = _right(condition, seed, k)
                judged = Verdict(
                    benchmark="lists",
                    item=f"i{k:02d}",
                    status="pass" if right else "fail",
                    score=float(right),
                    raw=f"raw {k}",
                )
                bits = Verdict(
                    benchmark="lists", item=f"i{k:02d}", metric="bits_per_byte", status="pass", score=1.0 + k / 8
                )
                rows += [{"accuracy": judged, "bits_per_byte": bits}[m] for m in metrics]
            write_verdicts(inputs[f"verdicts:{condition}:{seed}"] / "verdicts.parquet", rows)


@pytest.mark.parametrize("metrics", [("accuracy", "bits_per_byte"), ("bits_per_byte", "accuracy")])
def test_the_browser_shows_the_judged_metric_of_two(study, metrics):
    spec, inputs = study
    _judge_again(inputs, metrics)
    data = read_report(spec, inputs)
    for shown in data.samples:
        k = int(shown.item[1:])
        for output in shown.outputs:
            assert output.metric == "accuracy" and output.also == (("bits_per_byte", 1.0 + k / 8),)
            assert output.status == ("pass" if _right(output.condition, 0, k) else "fail") and output.raw == f"raw {k}"
    markup = render_html(data)
    passing = sum(_right(o.condition, 0, int(s.item[1:])) for s in data.samples for o in s.outputs)
    assert 0 < passing < 12 and markup.count("\u2713 pass") == passing and markup.count("\u2717 fail") == 12 - passing
    assert re.search(r"fail</span> <span class=.also.>bits per byte \d", markup)


def test_a_metric_that_only_measures_never_passes(study):
    spec, inputs = study
    _judge_again(inputs, ("bits_per_byte",))
    markup = render_html(read_report(spec, inputs))
    assert "2 measured" in markup and re.search(r"\u2022 measured \(bits per byte \d\.", markup)
    assert "\u2713" not in markup and not re.search(r"\d of \d pass", markup)


def test_shown_items_spread_over_difficulty():
    assert sorted(i.example.difficulty for i in spread_items(_items(), 6)) == [1, 2, 3, 4, 5, 6]
    assert len(spread_items(_items()[:2], 6)) == 2


def _publish(store: Path, node: str, function: str, inputs: dict[str, str], machine: str) -> Path:
    """Write a manifest the way a store does: artifacts/ab/<key>/_manifest.json."""
    key = f"{sum(map(ord, node)):02x}{node.encode().hex():0<62.62}"
    folder = store / "artifacts" / key[:2] / key
    folder.mkdir(parents=True)
    recipe = {"function": function, "inputs": {n: {"key": k, "digest": "", "node": ""} for n, k in inputs.items()}}
    manifest = {"node": node, "key": key, "recipe": recipe, "fingerprint": {"processor": machine}}
    (folder / "_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_lineage_follows_keys_to_models_and_machines(tmp_path: Path):
    data = _publish(tmp_path, "data/a", "leaven.data.build:build", {}, "laptop")
    model = _publish(tmp_path, "a/model", "leaven.lm.loop:train", {"data": data.name}, "cluster")
    verdicts = _publish(
        tmp_path, "a/verdicts", "leaven.evals.run:judge", {"model": model.name, "gone": "ff" * 32}, "laptop"
    )
    analysis = _publish(tmp_path, "analysis", "leaven.analysis.run:analyse", {"v": verdicts.name}, "laptop")
    found = lineage([analysis, tmp_path / "no-manifest-here"])
    assert found.key("a/verdicts") == verdicts.name and found.model("a/verdicts") == model.name
    assert [m["processor"] for m in found.machines("a/verdicts")] == ["cluster", "laptop"]
    assert found.key("unknown") == "" and found.machines("unknown") == []


def test_a_contrast_across_machines_carries_a_warning(study):
    data = read_report(*study)
    apart = tuple(replace(r, machines=(int(r.condition == "code_only"),)) for r in data.runs)
    machines = ({"processor": "one"}, {"processor": "two"})
    assert "mixed fingerprints" in render_html(replace(data, runs=apart, fingerprints=machines))
    assert "mixed fingerprints" not in render_html(data)
