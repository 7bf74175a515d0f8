"""A study of order in small: perturbed data, a forced order, checkpoints measured, probes looked at, all in one run."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from leaven.engine.plan import build_plan
from leaven.errors import StudyError
from leaven.spec.load import load_study

from .conftest import call

STUDY = """\
leaven: 1
study: order
question: Does the order matter?
data:
  sources:
    lists: {world: {families: [list_program], difficulties: [1, 2, 3], n: 120}}
  stages:
    base: {mixture: {lists: 1}, format: code_only, batch: 16, budget: {steps: 6}, max_tokens: 96, repeat: repeat}
    sft: {mixture: {lists: 1}, format: code_only, batch: 16, budget: {steps: 11}, max_tokens: 96, repeat: repeat}
conditions:
  code_only: {}
  follow: {data: {stages: {sft: {format: thought_code}}}}
  noisy: {data: {stages: {sft: {format: thought_code, perturb: [{name: noise, rate: 0.2}]}}}}
tokenizer: {kind: word, vocab_size: 512}
model: {kind: tiny, width: 16, layers: 1, heads: 2, max_tokens: 96}
train: {lr: 5.0e-3, checkpoints: 2}
seeds: [0, 1]
measure:
  m: {benchmark: program, world: {families: [list_program], difficulties: [1, 2, 3], n: 12, split: test}, max_new_tokens: 30, at: all}
  code_first: {benchmark: program, begin: code, world: {families: [list_program], difficulties: [3], n: 6, split: test}, max_new_tokens: 30}
probe:
  gap: {kind: perplexity, of: m, format: thought_code}
  base_gradients: {kind: gradients, of: m, limit: 4, format: thought_code, options: {weights: base}}
  kl: {kind: divergence, world: {families: [list_program], difficulties: [2], n: 6, split: test}}
contrasts:
  - {name: x, treatment: follow, control: code_only, benchmark: m, primary: true}
runtime: {threads: 1}
"""


@pytest.fixture(scope="module")
def order_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    done = call(folder, "run", "study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "order"


def test_a_perturbed_condition_pairs_with_the_others_and_says_what_it_changed(order_study: Path) -> None:
    columns = ["step", "slot", "source", "example"]
    orders = [pl.read_parquet(order_study / c / "seed-0/order-sft/order.parquet")[columns] for c in ("code_only", "follow", "noisy")]
    assert orders[0].equals(orders[1]) and orders[1].equals(orders[2])
    changed = pl.read_parquet(order_study / "data/lists+noise/perturbed.parquet")
    assert changed.height == 120 and set(changed["outcome"]) <= {"changed", "unchanged", "skipped", "refused"}
    (counts,) = json.loads((order_study / "analysis/order.json").read_text())["perturbations"]
    assert counts["changed"] + counts["unchanged"] + counts["skipped"] + counts["refused"] == 120


def test_a_forced_order_opens_every_answer(order_study: Path) -> None:
    answers = pl.read_parquet(order_study / "follow/seed-0/samples-code_first/samples.parquet")["text"]
    assert len(answers) == 6 and all(a.startswith("```python\n") for a in answers)


def test_checkpoints_are_measured_and_the_last_one_is_the_model(order_study: Path) -> None:
    progress = pl.read_parquet(order_study / "analysis/progress.parquet").filter(pl.col("condition") == "follow")
    assert progress["step"].to_list() == [6, 11] and set(progress["benchmark"]) == {"m"}
    results = json.loads((order_study / "analysis/order.json").read_text())["results"]
    assert {r["prompted"] for r in results if r["benchmark"] == "code_first"} == {"code"}
    assert all(r["generated_tokens"]["estimate"] > 0 for r in results if r["difficulty"] is None)


def test_probes_see_every_model(order_study: Path) -> None:
    for condition in ("code_only", "follow", "noisy"):
        gap = pl.read_parquet(order_study / condition / "seed-1/probe-gap/values.parquet")
        assert {"thought", "code"} <= set(gap["part"]) and gap["example"].n_unique() == 12
    same = [
        pl.read_parquet(order_study / c / "seed-0/probe-base_gradients/values.parquet") for c in ("code_only", "follow")
    ]
    assert same[0].equals(same[1])  # looked at before the conditions part


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: noise", "name: nois", "Did you mean 'noise'?"),
        ("kind: perplexity", "kind: perplexty", "Did you mean 'perplexity'?"),
        ("options: {weights: base}", "options: {weigths: base}", "Did you mean 'weights'?"),
    ],
)
def test_names_are_checked_before_anything_runs(tmp_path: Path, old: str, new: str, expected: str) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace(old, new), encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        build_plan(load_study(tmp_path / "study.yaml"))
    assert expected in str(caught.value) and "study.yaml:" in str(caught.value)


def test_a_probe_that_needs_a_base_says_so(tmp_path: Path) -> None:
    lines = [line for line in STUDY.splitlines() if not line.startswith("    base:")]
    (tmp_path / "study.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(StudyError, match="put a stage before it"):
        build_plan(load_study(tmp_path / "study.yaml"))


def test_sources_of_one_name_and_different_rows_have_folders_of_their_own(tmp_path: Path) -> None:
    text = STUDY.replace(
        "  follow: {data: {", "  follow: {data: {sources: {lists: {world: {families: [list_program], difficulties: [1], n: 8}}}, "
    )
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    nodes = [n for n in build_plan(load_study(tmp_path / "study.yaml")).nodes if n.function.endswith(":build_world")]
    links = [link for n in nodes for link in n.links if link.startswith("data/lists")]
    assert sorted(links) == ["data/lists", "data/lists~2"]
