"""Labels and interventions in a study: difficulty flipped three ways, a teacher's grades, influence, exploration cut off."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from leaven.core.step import StepContext
from leaven.core.tables import INFLUENCE, LABELS, REWEIGHED, read_examples, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.engine.grading import grade
from leaven.engine.plan import build_plan
from leaven.errors import BackendError, StudyError
from leaven.spec.load import load_study

from .conftest import call

STUDY = """\
leaven: 1
study: flips
question: Does it matter which difficulties are trained?
data:
  sources:
    lists: {world: {families: [list_program], difficulties: [1, 2, 3], n: 66}, label: {difficulty: structural}}
    hard: {world: {families: [list_program], difficulties: [3], n: 90, seed: 7}}
    sums: {file: sums.jsonl, label: {difficulty: math, column: level, behaviours: lexicon}}
  stages:
    sft:
      mixture: {lists: 2, sums: 1, hard: 0}
      format: {lists: code_only, hard: code_only, sums: thought_answer}
      batch: 12
      budget: {steps: 5}
      max_tokens: 128
conditions:
  plain: {}
  reweight: {data: {stages: {sft: {reweigh: {match: [source, tokens]}}}}}
  resample: {data: {stages: {sft: {reweigh: {mode: resample, sources: [lists]}}}}}
  swapped: {data: {stages: {sft: {reweigh: {mode: resample, sources: [lists], control: random_swap}}}}}
  replace: {data: {stages: {sft: {reweigh: {mode: replace, sources: [sums], how: target, target: {"1": 0.5, "5": 0.5}}}}}}
  pooled:
    data:
      stages:
        sft: {reweigh: {mode: replace, match: [], pool: hard, sources: [lists], how: target, target: {"1": 0, "2": 0, "3": 1}}}
  tilted: {data: {stages: {sft: {reweigh: {by: example, how: influence, influence: influence, sources: [sums]}}}}}
  cut: {data: {stages: {sft: {perturb: [exploration]}}}}
  without: {data: {stages: {sft: {leave_out: {groups: ["5"], sources: [sums]}}}}}
  topless: {data: {stages: {sft: {leave_out: {influence: influence, count: 20, sources: [sums]}}}}}
tokenizer: {kind: word, vocab_size: 512}
model: {kind: tiny, width: 16, layers: 1, heads: 2, max_tokens: 128}
train: {lr: 5.0e-3}
seeds: [0, 1]
measure:
  m: {benchmark: program, world: {families: [list_program], difficulties: [1], n: 4, split: test}, format: code_only, max_new_tokens: 8}
contrasts:
  - {name: x, treatment: resample, control: plain, benchmark: m, primary: true}
runtime: {threads: 1}
"""
THOUGHT = "The two numbers are added up as they stand in the question.\n\nThat is {a} + {b} = {c}.\n\nLet me check: {c} - {a} = {b}.\n"


def write_inputs(folder: Path) -> None:
    rows = [
        {"question": f"{a} + {b}?", "thought": THOUGHT.format(a=a, b=b, c=a + b), "answer": str(a + b), "level": f"Level {1 + 4 * (n % 2)}"}
        for n, (a, b) in enumerate((a, b) for a in range(1, 9) for b in range(1, 9))
    ]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base = {"model": "m", "step": 0, "method": "ekfac", "format": "auto", "window": 0, "level": "instance", "decomposition": "",
            "segment": -1, "token": -1, "n_learned_tokens": 1, "query": "q", "source": "train"}  # fmt: skip
    scores = [{**base, "example": f"{n:07d}", "score": 0.1 * (n % 2)} for n in range(len(rows))]
    write_table(folder / "influence" / "influence.parquet", scores, INFLUENCE)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    write_inputs(folder)
    done = call(folder, "run", "study.yaml", "--set", "seeds=[0]")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "flips"


def order(study: Path, condition: str) -> pl.DataFrame:
    return pl.read_parquet(study / condition / "seed-0/order-sft/order.parquet")


def levels(study: Path, table: pl.DataFrame, source: str) -> Counter[int]:
    known = {
        (s, e.id): e.difficulty
        for s, folder in (("lists", "lists+label"), ("sums", "sums+label"), ("hard", "hard"))
        for e in read_examples(study / "data" / folder / "examples.parquet")
    }
    rows = table.filter(pl.col("source") == source).select("source", "example").rows()
    return Counter(known[row] or 0 for row in rows)


def test_sources_are_labelled_when_they_are_loaded(study: Path) -> None:
    sums = read_table(study / "data/sums+label/labels.parquet", LABELS)
    assert sums["difficulty"].value_counts().sort("difficulty").rows() == [(1, 32), (5, 32)]
    assert set(sums["difficulty_unit"]) == {"math"} and sums["relative_difficulty"].unique().sort().to_list() == [0.0, 1.0]
    tags = pl.read_parquet(study / "tokens/sums/thought_answer/segments.parquet").filter(pl.col("kind") == "thought")
    assert tags["tags"].explode().drop_nulls().value_counts().filter(pl.col("tags") == "verification")["count"].item() == 64


def test_resampling_mirrors_the_slots_and_the_swap_only_changes_them(study: Path) -> None:
    plain, flipped, swapped = (order(study, c) for c in ("plain", "resample", "swapped"))
    before = levels(study, plain, "lists")
    mirrored = dict(zip(sorted(before), (before[d] for d in sorted(before, reverse=True)), strict=True))
    assert levels(study, flipped, "lists") == mirrored != before == levels(study, swapped, "lists")
    gone = [t["example"] != plain["example"] for t in (flipped, swapped)]
    assert gone[0].sum() > 0 and gone[0].equals(gone[1])
    report = json.loads((study / "resample/seed-0/order-sft/report.json").read_text())["reweigh"]
    assert report["source_matched"] is True and report["cells"]["lists"]["changed"] == gone[0].sum()


def test_weights_mirror_learned_tokens_of_every_source(study: Path) -> None:
    books = read_table(study / "reweight/seed-0/order-sft/reweighed.parquet", REWEIGHED)
    for cell in ("lists", "sums"):
        rows = books.filter(pl.col("cell") == cell)
        assert rows["token_weight_after"].to_list() == pytest.approx(rows["tokens_before"].to_list()[::-1], rel=1e-5)


def test_a_weight_reaches_the_loss(study: Path) -> None:
    plain, flipped = (pl.read_parquet(study / c / "seed-0/model/curve.parquet") for c in ("plain", "reweight"))
    assert plain["n_tokens"].equals(flipped["n_tokens"]) and plain["loss"][0] != flipped["loss"][0]


def test_influence_tilts_single_examples(study: Path) -> None:
    table = order(study, "tilted").filter(pl.col("source") == "sums")
    weights = table.group_by(pl.col("example").cast(pl.Int64) % 2).agg(pl.col("weight").unique())
    low, high = (w[0] for _, w in sorted(weights.rows()))
    assert low < 1 < high and table["weight"].mean() == pytest.approx(1, rel=1e-5)


def test_shares_are_reached_with_examples_that_the_order_did_not_hold(study: Path) -> None:
    table = order(study, "replace")
    assert set(levels(study, table, "sums").values()) == {10} and not table.filter(pl.col("source") == "hard").height
    pooled = order(study, "pooled")
    report = json.loads((study / "pooled/seed-0/order-sft/report.json").read_text())["reweigh"]
    assert levels(study, pooled, "lists") + levels(study, pooled, "hard") == {3: 40}
    assert pooled.filter(pl.col("source") == "hard").height == report["cells"]["program"]["from_pool"] > 0
    assert report["source_matched"] is False and pooled.select("source", "example").is_unique().all()


def test_exploration_is_cut_off_and_slots_pair(study: Path) -> None:
    columns = ["step", "slot", "source", "example"]
    assert order(study, "cut")[columns].equals(order(study, "plain")[columns])
    books = pl.read_parquet(study / "data/sums+exploration/perturbed.parquet")
    assert books["outcome"].to_list() == ["changed"] * 64
    thoughts = [e.thought for e in read_examples(study / "data/sums+exploration/examples.parquet")]
    assert all(t.endswith(".\n") and "check" not in t for t in thoughts)


def test_groups_and_helpful_examples_are_left_out(study: Path) -> None:
    assert set(levels(study, order(study, "without"), "sums")) == {1}
    gone = pl.read_parquet(study / "topless/seed-0/order-sft/left_out.parquet")
    assert gone["score"].to_list() == [0.1] * 20
    assert not set(gone["example"]) & set(order(study, "topless").filter(pl.col("source") == "sums")["example"])


def plan(folder: Path, old: str, new: str) -> Any:
    assert old in STUDY
    (folder / "study.yaml").write_text(STUDY.replace(old, new), encoding="utf-8")
    write_inputs(folder)
    return build_plan(load_study(folder / "study.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("resample, sources: [lists]}", "resample, sources: [list]}", r"study.yaml:\d+ .*resample.*sources: 'list' is not in the mixture"),
        ("how: influence, influence: influence", "how: influence", "influence: expected influence.parquet"),
        ("difficulty: math, column: level", "difficulty: pass_rate", r"label.verdicts: expected the file"),
        ("label: {difficulty: structural}", "label: {difficulty: taco}", "use structural for procedural problems"),
        ("perturb: [exploration]", "perturb: [explore]", "no perturbation is called 'explore'"),
    ],
)
def test_mistakes_are_named_with_their_line_before_anything_runs(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        plan(tmp_path, old, new)


def test_conditions_share_everything_up_to_their_order(tmp_path: Path) -> None:
    nodes = plan(tmp_path, "leaven: 1", "leaven: 1").nodes
    functions = Counter(n.function for n in nodes)
    assert functions["leaven.data.labels.attach:attach"] == 2 and functions["leaven.data.build:build_order"] == 20


# ---- a teacher's grades ----------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Any]:
    path = Path(__file__).parents[1] / "lm" / "faulty_server.py"
    spec = importlib.util.spec_from_file_location("faulty_server_for_grades", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with module.FaultyServer(answer=lambda text: f"Easy. [[{len(text) % 9 + 1}]]") as running:
        yield running


def test_a_served_model_grades_every_problem_once(tmp_path: Path, server: Any) -> None:
    examples = [Example(id=f"{i:07d}", source="s", question=f"{i // 2} + 1?", answer="1") for i in range(6)]
    write_examples(tmp_path / "examples" / "examples.parquet", examples)
    out = tmp_path / "out"
    out.mkdir()
    spec = {"server": server.url, "model": "m", "key_env": None, "max_tokens": 64}
    for _ in range(2):  # the second call finds every reply
        grade(spec, {"examples": tmp_path / "examples"}, out, StepContext())
    assert len(server.seen) == 3 and server.seen[0][1]["max_tokens"] == 64 and server.seen[0][1]["temperature"] == 0
    assert json.loads((out / "report.json").read_text()) == {"examples": 6, "requests": 3, "unanswered": {}}
    assert all("[[" in json.loads(line)["reply"] for line in (out / "grades.jsonl").read_text().splitlines())


def test_a_key_that_is_not_set_or_not_right(tmp_path: Path, server: Any) -> None:
    write_examples(tmp_path / "examples.parquet", [Example(id="0", source="s", question="q", answer="1")])
    spec = {"server": server.url, "model": "m", "key_env": "LEAVEN_TEST_NO_SUCH_KEY", "max_tokens": 64}
    with pytest.raises(StudyError, match="LEAVEN_TEST_NO_SUCH_KEY"):
        grade(spec, {"examples": tmp_path}, tmp_path, StepContext())
    server.script["*"] = ["401"]
    with pytest.raises(BackendError, match="the key is wrong or missing"):
        grade({**spec, "key_env": None}, {"examples": tmp_path}, tmp_path, StepContext())
