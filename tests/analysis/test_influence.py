"""Influence of several seeds' models -> means, slopes, shares, parts and predictions: planted truths come back with honest intervals."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from leaven.analysis.effect import effect
from leaven.analysis.influence import AttributionRun, influence_records, labels_of, weights_of, write_influence
from leaven.analysis.influence_means import difference, mean, over_seeds, slope, sums_of
from leaven.core.tables import EXAMPLES, INFLUENCE, ORDER, read_table, write_table
from leaven.errors import DataError


def _load(name: str) -> Any:
    path = Path(__file__).parents[1] / "reporting" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"influence_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MADE = _load("made_influence")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return MADE.make(tmp_path_factory.mktemp("influence"))


@pytest.fixture(scope="module")
def records(made: Any) -> dict[str, Any]:
    return made.records()


def one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    found = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


# ---- estimators ----


def crossed(own: np.random.Generator, seeds: int, clusters: int, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values [S,N] with random seeds, clusters and cells, and the cluster of every unit; the true mean is 0."""
    cluster = np.repeat(np.arange(clusters), sizes)
    values = own.normal(0, 0.3, seeds)[:, None] + own.normal(0, 1, clusters)[cluster] + own.normal(0, 0.5, (seeds, clusters))[:, cluster]
    return values + own.normal(0, 0.2, values.shape), cluster


def test_the_mean_of_a_group_is_the_crossed_interval_of_effect():
    values, cluster = crossed(np.random.default_rng(3), 4, 30, np.full(30, 2))
    found = mean(sums_of(values, cluster, 30))
    same = effect(values, np.zeros_like(values), cluster.tolist(), seeds=range(4))
    assert found.estimate == pytest.approx(same.estimate)
    assert (found.low, found.high) == pytest.approx((same.low, same.high))
    assert (found.n, found.n_clusters) == (60, 30)


def test_a_group_counts_only_its_own_units():
    values, cluster = crossed(np.random.default_rng(5), 3, 20, np.full(20, 3))
    keep = np.arange(60) % 3 == 0
    assert mean(sums_of(values, cluster, 20, keep)).estimate == pytest.approx(values[:, keep].mean())
    both = difference(sums_of(values, cluster, 20, keep), sums_of(values, cluster, 20, ~keep))
    assert both.estimate == pytest.approx(values[:, keep].mean() - values[:, ~keep].mean())
    x = np.arange(60.0)
    line = slope(values, x, cluster, 20)
    assert line is not None and line.estimate == pytest.approx(np.polyfit(x, values.mean(0), 1)[0])
    assert slope(values, np.ones(60), cluster, 20) is None


@pytest.mark.parametrize("kind", ["mean", "difference", "slope"])
def test_intervals_cover_what_they_say(kind: str):
    own, held = np.random.default_rng(11), 0
    for _ in range(300):
        values, cluster = crossed(own, 4, 25, own.integers(1, 4, 25))
        if kind == "mean":
            found = mean(sums_of(values, cluster, 25))
        elif kind == "difference":
            keep = cluster % 2 == 0
            found = difference(sums_of(values, cluster, 25, keep), sums_of(values, cluster, 25, ~keep))
        else:
            found = slope(values, own.normal(0, 1, 25)[cluster], cluster, 25)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 0 <= found.high
    assert held >= 0.9 * 300


def test_one_seed_speaks_of_texts_and_one_of_each_of_nothing():
    values = np.random.default_rng(1).normal(1, 0.5, (1, 40))
    assert mean(sums_of(values, np.arange(40), 40)).low is not None
    lonely = mean(sums_of(values, np.zeros(40, np.int64), 1))
    assert lonely.low is None and lonely.high is None
    assert over_seeds([0.4], 10).low is None
    share = over_seeds([0.4, 0.4, 0.4], 10, whole=10)
    assert share.low is not None and share.low < 0.4 < (share.high or 0)


# ---- planted truths ----


@pytest.mark.parametrize("target", ["math", "code"])
def test_domain_means_and_their_difference_are_found(records: dict[str, Any], made: Any, target: str):
    query = {v: k for k, v in MADE.TARGETS.items()}[target]
    domains = made.labels["domain"].to_numpy()
    for domain in ("math", "code"):
        row = one(records["means"], by="domain", method="ekfac", length="raw", target=target, group=domain)
        truth = made.truth[query][domains == domain].mean()
        assert row["mean"]["low"] < truth < row["mean"]["high"]
        assert row["mean"]["seeds"] == [0, 1, 2] and row["mean"]["n"] == int((domains == domain).sum())
    own = one(records["effects"], measure="own_domain", target=target, length="raw")
    assert own["effect"]["low"] > 0


def test_all_three_forms_and_all_methods_have_the_matrix(records: dict[str, Any]):
    rows = [r for r in records["means"] if r["by"] == "domain"]
    assert {r["length"] for r in rows} == {"raw", "per_token", "regressed"}
    assert {r["method"] for r in rows} == set(MADE.METHODS)
    assert {r["method"] for r in records["means"] if r["by"] == "difficulty"} == {"ekfac"}


@pytest.mark.parametrize(("domain", "target"), list(MADE.SLOPES))
def test_slopes_over_difficulty_are_the_planted_ones(records: dict[str, Any], domain: str, target: str):
    row = one(records["slopes"], by="difficulty", within=domain, target=target, length="raw")
    assert row["mean"]["low"] <= MADE.SLOPES[domain, target] <= row["mean"]["high"]


def test_length_is_taken_out_where_it_is_all_there_is(records: dict[str, Any]):
    for row in records["means"]:
        if (row["by"], row["method"], row["length"]) == ("domain", "length", "per_token"):
            assert row["mean"]["estimate"] == pytest.approx(0.01)
    spread = [r["mean"]["estimate"] for r in records["means"] if (r["by"], r["method"], r["length"]) == ("domain", "length", "regressed")]
    assert np.ptp(spread) == pytest.approx(0, abs=1e-9)
    confound = one(records["length"], method="length", target="math")
    assert confound["spearman"]["estimate"] == pytest.approx(1)
    assert abs(one(records["length"], method="random", target="math")["spearman"]["estimate"]) < 0.4


def test_the_top_is_the_targets_own_domain(records: dict[str, Any]):
    for target, other in (("math", "code"), ("code", "math")):
        row = one(records["shares"], by="domain", group=target, target=target, percent=10.0)
        assert row["top"]["estimate"] > row["base"] and row["top"]["low"] > row["bottom"]["estimate"]
        assert one(records["shares"], by="domain", group=other, target=target, percent=10.0)["k"] == row["k"] == 10
    assert all(r["k"] >= 5 for r in records["shares"])


def test_checks_in_thoughts_and_structure_in_code_stand_out(records: dict[str, Any]):
    for target in ("math", "code"):
        found = one(records["effects"], measure="exploration_difference", target=target, length="per_token")
        assert found["effect"]["low"] > 0
    assert one(records["effects"], measure="structure_tokens", target="code")["effect"]["low"] > 0
    rows = [r for r in records["means"] if r["by"] == "behaviour" and r["target"] == "math" and r["length"] == "per_token"]
    assert max(rows, key=lambda r: r["mean"]["estimate"])["group"] in ("backtracking", "verification", "exploratory")


def test_listed_tokens_are_frequent_and_learned(records: dict[str, Any], made: Any):
    assert records["tokens"] and all(r["mean"]["n"] >= 20 for r in records["tokens"])
    assert "What" not in {r["token"] for r in records["tokens"]}, "questions are not learned"
    top = [r["token"] for r in records["tokens"] if (r["target"], r["side"]) == ("math", "top")]
    assert {"Wait", "check"} <= set(top)


def test_strips_are_whole_texts_with_their_score(records: dict[str, Any], made: Any):
    strip = next(r for r in records["strips"] if (r["target"], r["side"]) == ("math", "top"))
    words = "".join(p["text"] for p in strip["pieces"])
    assert "Wait" in words and strip["n_before"] == strip["n_after"] == 0
    tables = [read_table(r.folder / "influence.parquet", INFLUENCE) for r in made.runs]
    of = {"level": "instance", "method": "ekfac", "query": "sums", "source": strip["source"], "example": strip["example"]}
    wanted = [t.filter(**of)["score"][0] for t in tables]
    assert strip["score"]["estimate"] == pytest.approx(np.mean(wanted))
    step = max((p for p in strip["pieces"] if "Wait" in p["text"]), key=lambda p: p["step"])["step"]
    assert step == 2, "the planted check weighs most"


def test_long_texts_are_cut_to_their_heaviest_stretch():
    from leaven.analysis.influence_tokens import STRIP_TOKENS, _pieces

    score = np.zeros(400)
    score[300:310] = -1.0
    found = _pieces(score, [f"w{i} " for i in range(400)])
    shown = "".join(p["text"] for p in found["pieces"])
    assert found["n_before"] + STRIP_TOKENS + found["n_after"] == 400
    assert "w300 " in shown and "w309 " in shown and min(p["step"] for p in found["pieces"]) == -2


# ---- predicted and realised ----


def test_a_realised_change_is_predicted_where_influence_is_right(records: dict[str, Any]):
    for row in records["changes"]:
        if row["method"] == "ekfac" and row["condition"] == "no_hard_math":
            told, seen = row["predicted"], row["realised"]
            assert told["estimate"] == pytest.approx(seen["estimate"], rel=0.4) and seen["high"] < 0
            assert told["n"] == 24 and row["removed"]["estimate"] == pytest.approx(told["estimate"])
    assert one(records["quality"], method="ekfac", target="code")["right_sign"]["estimate"] == 1.0


def test_examples_that_are_new_have_no_score_and_are_counted(made: Any):
    realised = MADE.realised(made)
    extra = realised.weights.filter(condition="no_code").head(1).with_columns(example=pl.lit("unheard-of"))
    found = made.records(realised=replace(realised, weights=pl.concat([realised.weights, extra])))
    assert {r["n_new"] for r in found["changes"] if r["condition"] == "no_code"} == {0}, "one seed of three, rounded"
    more = [extra.with_columns(seed=pl.lit(s, pl.Int32)) for s in made.seeds]
    found = made.records(realised=replace(realised, weights=pl.concat([realised.weights, *more])))
    assert {r["n_new"] for r in found["changes"] if r["condition"] == "no_code"} == {1}


def test_queries_of_one_target_count_alike_however_many_items(made: Any):
    rows = []
    for condition, change in (("base", 0.0), ("no_code", -1.0)):
        for seed in made.seeds:
            for query, n, more in (("a", 2, 0.0), ("b", 30, 3.0)):
                items = [f"{query}{i}" for i in range(n)]
                value = np.arange(n) + (change * (1 + more))
                cell = {"condition": condition, "level": "{}", "seed": seed, "query": query}
                rows.append(pl.DataFrame(cell | {"item": items, "value": value}))
    weights = MADE.realised(made).weights
    outcomes = pl.concat(rows).with_columns(pl.col("seed").cast(pl.Int32))
    domains = MADE.TARGETS | {"a": "math", "b": "math"}
    found = made.records(realised=MADE.Realised(weights=weights, outcomes=outcomes), domains=domains)
    change = one(found["changes"], method="ekfac", target="math", condition="no_code")
    assert change["realised"]["estimate"] == pytest.approx(-2.5)
    assert one(found["changes"], method="ekfac", target="code", condition="no_code")["realised"] is None


def test_the_method_that_predicts_retraining_best_leads(made: Any):
    better = MADE.validation({"ekfac": 0.4, "gradient_dot": 0.5, "random": 0.0})
    assert made.records(validation=[better])["models"][0]["main"] == "gradient_dot"
    assert made.records(validation=[])["models"][0]["main"] == "ekfac"
    assert [r["method"] for r in made.records(validation=[better])["validation"]][:2] == ["gradient_dot", "ekfac"]


# ---- what is given ----


def test_only_the_extremes_give_texts_and_no_means(tmp_path: Path):
    made = MADE.make(tmp_path, n=12, seeds=(0, 1))
    for run in made.runs:
        table = read_table(run.folder / "influence.parquet", INFLUENCE)
        kept = table.filter(level="instance").sort("score").group_by("method", "query").agg(pl.col("example").first().alias("gone"))
        short = table.join(kept, on=["method", "query"]).filter(pl.col("example") != pl.col("gone")).drop("gone")
        write_table(run.folder / "influence.parquet", short.select(list(INFLUENCE)), INFLUENCE)
    found = made.records()
    assert not found["means"] and not found["slopes"] and not found["tokens"] and not found["models"][0]["complete"]
    assert found["strips"] and found["models"][0]["n_texts"] > 0


def test_instances_alone_need_no_texts(tmp_path: Path):
    made = MADE.make(tmp_path, n=12, seeds=(0,), finest="instance")
    bare = tuple(replace(r, tokens={}, tokenizer=None) for r in made.runs)
    found = influence_records(bare, made.labels, domains=MADE.TARGETS)
    assert found["means"] and not found["strips"] and not found["agreement"][0]["spearman"]["seeds"] == []


def test_a_failed_run_is_left_out_and_none_gives_nothing(made: Any, tmp_path: Path):
    gone = replace(made.runs[0], seed=9, folder=tmp_path / "absent")
    assert influence_records([*made.runs, gone], made.labels)["models"][0]["seeds"] == [0, 1, 2]
    assert influence_records([gone], made.labels) == {}
    write_influence(tmp_path / "influence.json", {})
    assert not (tmp_path / "influence.json").exists()


def test_labels_of_other_data_and_two_runs_of_one_seed_are_named(made: Any):
    with pytest.raises(DataError, match="found none that match"):
        influence_records(made.runs, made.labels.with_columns(example=pl.lit("x")))
    with pytest.raises(DataError, match="one run per seed"):
        influence_records([made.runs[0], made.runs[0]], made.labels)


def test_queries_without_a_domain_are_targets_and_too_many_are_one(made: Any):
    assert {r["target"] for r in influence_records(made.runs, made.labels)["means"]} == {"sums", "programs"}
    from leaven.analysis.influence_tables import EVERY, targets_of

    many = [f"q{i}" for i in range(30)]
    assert set(targets_of(many, {}).values()) == {EVERY}
    assert targets_of(many, {"q3": "math"})["q3"] == "math"


def test_windows_of_one_text_are_added_up(tmp_path: Path):
    rows = []
    for example, windows in (("a", (1.0, 2.0)), ("b", (0.5,)), ("c", (4.0,))):
        for n, score in enumerate(windows):
            rows.append(("m", -1, "ekfac", "q", "s", example, "f", 10 * n, "instance", "", None, None, 5, score))
    folder = tmp_path / "run"
    folder.mkdir()
    write_table(folder / "influence.parquet", pl.DataFrame(rows, schema=INFLUENCE, orient="row"), INFLUENCE)
    labels = pl.DataFrame({"source": "s", "example": ["a", "b", "c"], "domain": "math"})
    found = influence_records([AttributionRun(name="n", condition="c", seed=0, folder=folder)], labels)
    (row,) = [r for r in found["means"] if r["length"] == "raw"]
    assert row["mean"]["estimate"] == pytest.approx((3.0 + 0.5 + 4.0) / 3) and row["mean"]["n"] == 3


def test_weights_are_those_of_the_last_stage():
    def slot(stage: str, step: int, example: str, weight: float) -> dict[str, Any]:
        fixed = {"source": "s", "format": "f", "start_token": 0, "n_tokens": 3, "n_learned_tokens": 2, "pack": 0, "slot": 0}
        return {"stage": stage, "step": step, "example": example, "weight": weight, **fixed}

    order = pl.DataFrame([slot("base", 0, "a", 1), slot("sft", 1, "a", 1), slot("sft", 2, "a", 0.5), slot("sft", 2, "b", 2)], schema=ORDER)
    found = weights_of(order, "c", 3)
    assert found.select("example", "weight").rows() == [("a", 1.5), ("b", 2.0)] and found["seed"].to_list() == [3, 3]


def test_labels_come_from_examples(made: Any):
    examples = read_table(made.root / "sums-examples" / "examples.parquet", EXAMPLES)
    found = labels_of(examples, "renamed")
    assert found["source"].unique().to_list() == ["renamed"] and found["cluster"].n_unique() == 30


def test_the_records_are_plain_json(records: dict[str, Any], tmp_path: Path):
    write_influence(tmp_path / "influence.json", records)
    assert set(json.loads((tmp_path / "influence.json").read_text())) == set(records)


def test_importing_the_analysis_brings_no_torch():
    code = "import sys, leaven.analysis.influence; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
