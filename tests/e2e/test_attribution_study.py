"""Attribution inside a study: targets, scores of every seed's model, their mean, and conditions that leave out what it names."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.core.tables import INFLUENCE, LEFT_OUT, OUTCOMES, RETRAINED, SUBSETS, read_table
from leaven.data.formats import END
from leaven.engine.plan import build_plan
from leaven.engine.targets import answer_segments
from leaven.errors import StudyError
from leaven.spec.load import load_study

from .conftest import call

STUDY = """\
leaven: 1
study: helped
question: Which examples help?
data:
  sources:
    code: {world: {families: [list_formula], difficulties: [1, 2, 3], n: 80}, domain: code}
    sums: {world: {families: [word_problem], difficulties: [1, 2], n: 80}, domain: math}
  stages:
    sft:
      mixture: {code: 1, sums: 1}
      format: {code: code_only, sums: thought_answer}
      batch: 12
      budget: {steps: 12}
      max_tokens: 128
      repeat: repeat
conditions:
  plain: {}
  topless: {data: {stages: {sft: {leave_out: {influence: main, query: code, count: 20}}}}}
  randomless: {data: {stages: {sft: {leave_out: {influence: main, query: code, count: 20, control: random}}}}}
tokenizer: {kind: word, vocab_size: 512}
model: {kind: tiny, width: 16, layers: 1, heads: 2, max_tokens: 128}
train: {lr: 5.0e-3}
seeds: [0, 1]
measure:
  code:
    benchmark: program
    world: {families: [list_formula], difficulties: [1, 2], n: 8, split: test}
    format: code_only
    max_new_tokens: 16
    metrics: [accuracy, bits_per_byte]
attribute:
  main:
    of: [plain]
    queries:
      code: {of: code, format: code_only, difficulties: [1]}
      math: {world: {families: [word_problem], difficulties: [1], n: 8, split: test}, format: thought_answer}
    baselines: [gradient_dot, random]
    refine: 1
    damping: 1.0
    level: segment
    retrain:
      halves: {n: 4, checkpoints: 2}
      depths: {kind: groups, by: difficulty}
      best: {kind: top, counts: [20], controls: 3}
contrasts:
  - {name: helpful left out, treatment: topless, control: randomless, benchmark: code, metric: bits_per_byte, primary: true}
runtime: {threads: 1}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("helped")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    done = call(folder, "run", "study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs/helped"


def instances(folder: Path) -> pl.DataFrame:
    return read_table(folder / "influence.parquet", INFLUENCE).filter(pl.col("level") == "instance")


def test_every_example_has_a_score_for_every_query_and_the_mean_is_over_seeds(study: Path) -> None:
    models = [instances(study / f"plain/seed-{s}/attribution-main") for s in (0, 1)]
    for found in models:
        assert found.group_by("method", "query").len()["len"].unique().to_list() == [160]
        assert set(found["method"]) == {"ekfac", "ekfac+krylov", "gradient_dot", "random"} and set(found["query"]) == {"code", "math"}
    keys = ["method", "query", "source", "example"]
    frames = [f.select(*keys, "score") for f in (*models, instances(study / "attribution/main").select(*keys, "score"))]
    both = frames[0].join(frames[1], on=keys).join(frames[2].rename({"score": "mean"}), on=keys)
    assert both.height == 4 * 2 * 160
    assert ((both["score"] + both["score_right"]) / 2 - both["mean"]).abs().max() < 1e-12  # type: ignore[operator]
    assert pl.read_parquet(study / "targets/code/code_only/lengths.parquet").height < 8  # of one difficulty


def test_conditions_leave_out_what_the_study_s_own_scores_name(study: Path) -> None:
    mean = instances(study / "attribution/main").filter((pl.col("method") == "ekfac+krylov") & (pl.col("query") == "code"))
    best = set(mean.sort("score", descending=True).head(20).select("source", "example").rows())
    for seed in (0, 1):
        gone = read_table(study / f"topless/seed-{seed}/order-sft/left_out.parquet", LEFT_OUT)
        assert set(gone.select("source", "example").rows()) == best
        trained = pl.read_parquet(study / f"topless/seed-{seed}/order-sft/order.parquet").select("source", "example").rows()
        assert not best & set(trained)
        control = read_table(study / f"randomless/seed-{seed}/order-sft/left_out.parquet", LEFT_OUT)
        counts = [t.group_by("source").len().sort("source").rows() for t in (gone, control)]
        assert counts[0] == counts[1]


def test_models_are_trained_again_and_asked_the_same(study: Path) -> None:
    halves, depths, best = (
        read_table(study / f"plain/seed-0/retrained-main-{n}/retrained.parquet", RETRAINED) for n in ("halves", "depths", "best")
    )
    assert halves["copy"].n_unique() == 5 and halves["step"].unique().sort().to_list() == [6, 12]
    assert depths["copy"].n_unique() == 1 + 3 and depths["n_left_out"].max() < 100
    assert best.filter(pl.col("n_left_out") == 20)["copy"].n_unique() == 2 + 3
    said = read_table(study / "plain/seed-0/outcomes-main/outcomes.parquet", OUTCOMES)
    for frame in (halves, depths, best):
        whole = frame.filter((pl.col("copy") == 0) & (pl.col("step") == 12)).select("query", "value").rows()
        assert dict(whole) == pytest.approx(dict(said.group_by("query").agg(pl.col("value").mean()).rows()), rel=1e-4)
    told = json.loads((study / "attribution/main-validation/plain/validation.json").read_text())
    methods = ("ekfac", "ekfac+krylov", "gradient_dot", "random")
    assert {(r["kind"], r["method"]) for r in told} >= {(k, m) for k in ("lds", "group") for m in methods}
    records = json.loads((study / "analysis/influence.json").read_text())
    assert len(records["models"]) == 1 and records["models"][0]["seeds"] == [0, 1] and records["validation"]
    assert {r["condition"] for r in records["changes"]} == {"topless", "randomless"}
    gone = read_table(study / "plain/seed-0/retrained-main-best/subsets.parquet", SUBSETS).filter(pl.col("group").str.contains("code"))
    left = read_table(study / "topless/seed-0/order-sft/left_out.parquet", LEFT_OUT)
    assert set(gone.select("source", "example").rows()) == set(left.select("source", "example").rows())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("of: [plain]", "of: [plane]", "Did you mean 'plain'"),
        ("of: code, format", "of: coed, format", "Did you mean 'code'"),
        ("of: [plain]", "of: [plain, topless]", "form a circle among"),
        ("[gradient_dot, random]", "[gradient_dog, random]", "Did you mean 'gradient_dot'"),
        ("{of: code, format: code_only, difficulties: [1]}", "{texts: own_correct}", "expected exactly one of `of`, world and file"),
        ("{influence: main, query: code, count: 20}", "{influence: mian, query: code, count: 20}", "mian"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace(old, new), encoding="utf-8")
    with pytest.raises(Exception, match=told) as raised:
        build_plan(load_study(tmp_path / "study.yaml"))
    assert "study.yaml:" in str(raised.value)


def test_planning_trains_nothing_for_orders_made_from_influence(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("budget: {steps: 12}", "budget: {epochs: 2}"), encoding="utf-8")
    told = call(tmp_path, "plan", "study.yaml")
    assert told.returncode == 0, told.stdout + told.stderr
    rows = {line.split()[0]: line.split() for line in told.stdout.splitlines() if line.strip()}
    assert rows["train"][1:3] == ["6", "0"] and rows["build_order"][1:3] == ["6", "2"] and rows["tokenise"][1:3] == ["2", "2"]
    assert "<= 0" not in told.stdout  # their size is bounded by what the sources hold


def test_scores_of_its_own_seed(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("    level: segment", "    seeds: own"), encoding="utf-8")
    plan = build_plan(load_study(tmp_path / "study.yaml"))
    assert plan.node("topless/seed-1/order-sft").inputs["influence"] == "plain/seed-1/attribution-main"
    with pytest.raises(StudyError, match="no step is called 'attribution/main'"):
        plan.node("attribution/main")


PIECES = ("## Reasoning\n", "\n", "```python\n", "\n```\n", "#### ", "a = 1", "so b", "# not a heading", "x\n\ny")


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans())
def test_an_answer_is_cut_at_its_markers_and_nothing_is_lost(pieces: list[str], ended: bool) -> None:
    text = "".join(pieces)
    segments = list(answer_segments(text, ended))
    assert "".join(s.text for s in segments) == text + END * ended
    assert all(s.learn == 1 and s.text for s in segments)


def test_an_answer_has_the_parts_that_the_model_was_trained_on() -> None:
    text = "## Reasoning\nadd one\nthen two\n```python\ndef f(x):\n    return x\n\n```\n#### 3\n"
    assert [(s.kind, s.text) for s in answer_segments(text, True)] == [
        ("template", "## Reasoning\n"),
        ("thought", "add one\nthen two"),
        ("template", "\n"),
        ("template", "```python\n"),
        ("code", "def f(x):\n    return x\n"),
        ("template", "\n```\n"),
        ("template", "#### "),
        ("answer", "3"),
        ("template", "\n"),
        ("template", END),
    ]
