"""Pass@k and temperatures of a study -> one sweep per benchmark, the contrasts that claims speak of; attention that goes to code."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from leaven.analysis.contrasts import Contrast
from leaven.analysis.order import attention_to_code, probe_findings
from leaven.analysis.order_inputs import Sweep, effects, pass_at_k_rows, sampling_findings, sweeps_of
from leaven.analysis.probe_records import probe_records
from leaven.analysis.probe_tables import ALL_GRIDS, ALL_VALUES
from leaven.analysis.scores import SCORES, score_table
from leaven.core.tables import RESULTS

TEMPERATURES = {"hot_t02": 0.2, "hot_t08": 0.8, "greedy": 0.0}
STRATEGIES = {"follow": "thought_code", "precede": "code_thought"}
RATES = {("precede", "hot_t02"): 0.8, ("precede", "hot_t08"): 0.4, ("follow", "hot_t02"): 0.5, ("follow", "hot_t08"): 0.4}


def results(n_items: int = 20) -> pl.DataFrame:
    """Return RESULTS of two conditions: precede loses 0.4 from the lowest to the highest temperature, follow 0.1."""
    rows: list[dict[str, Any]] = []
    fixed = {"study": "s", "level": "{}", "difficulty": None, "seen": None, "index": 0, "status": "pass", "detail": "", "run": "r"}
    for benchmark in TEMPERATURES:
        for condition in STRATEGIES:
            for seed in range(3):
                for i in range(n_items if benchmark != "greedy" else 7):
                    rate = RATES.get((condition, benchmark), 0.5)
                    for metric, score in (("pass@1", rate), ("pass@8", min(1.0, rate + 0.3)), ("accuracy", float(i / n_items < rate))):
                        about = {"condition": condition, "seed": seed, "benchmark": benchmark, "metric": metric}
                        jitter = 0.01 * ((3 * i + seed) % 5 - 2) if metric != "accuracy" else 0.0
                        rows.append({**fixed, **about, "item": f"i{i}", "cluster": f"i{i}", "score": score + jitter})
    return pl.DataFrame([{k: r.get(k) for k in RESULTS} for r in rows], schema=RESULTS)


ALIKE = {"hot_t02": "program/", "hot_t08": "program/", "greedy": "program/"}


def test_benchmarks_that_differ_in_temperature_alone_are_one_sweep():
    found = sweeps_of(results(), TEMPERATURES, ALIKE)
    assert found == [Sweep("hot", (("hot_t02", 0.2), ("hot_t08", 0.8))), Sweep("greedy", (("greedy", 0.0),))]


def test_other_items_another_beginning_or_the_same_temperature_part_them():
    begun = ALIKE | {"hot_t08": "program/code"}
    assert [s.name for s in sweeps_of(results(), TEMPERATURES, begun)] == ["hot_t02", "hot_t08", "greedy"]
    twice = TEMPERATURES | {"hot_t08": 0.2}
    assert [len(s.members) for s in sweeps_of(results(), twice, ALIKE)] == [1, 1, 1]


def test_names_without_a_common_beginning_are_all_said():
    rows = results().with_columns(pl.col("benchmark").replace({"hot_t02": "cold", "hot_t08": "hot"}))
    found = sweeps_of(rows, {"cold": 0.2, "hot": 0.8}, {"cold": "p", "hot": "p", "greedy": "p"})
    assert found[0].name == "cold, hot"


def test_pass_at_k_of_a_sweep_stands_under_one_name_with_its_temperatures():
    scores = score_table(results(), []).select(list(SCORES))
    rows = pass_at_k_rows(scores, sweeps_of(results(), TEMPERATURES, ALIKE))
    hot = [r for r in rows if r["benchmark"] == "hot"]
    assert {(r["temperature"], r["k"]) for r in hot} == {(0.2, 1), (0.2, 8), (0.8, 1), (0.8, 8)}
    drop = next(r for r in hot if (r["condition"], r["temperature"], r["k"]) == ("precede", 0.2, 1))
    assert drop["score"]["estimate"] == pytest.approx(0.8, abs=0.01) and drop["score"]["seeds"] == [0, 1, 2]


def test_the_claims_on_sampling_get_their_effects():
    contrast = Contrast(name="x", treatment="precede", control="follow", benchmark="greedy", margin=0.05, primary=True)
    found = sampling_findings(results(), [contrast], sweeps_of(results(), TEMPERATURES, ALIKE))
    told = {(f.data["metric"], f.data["benchmark"]): f for f in found}
    drop = told["temperature_drop", "hot"]
    assert drop.estimate == pytest.approx(0.3, abs=0.01) and drop.data["descriptive"] and not drop.data["primary"]
    assert told["pass_at_k", "hot_t08"].estimate == pytest.approx(0.0, abs=0.01)
    rows = effects(found, STRATEGIES, {}, score_table(results(), []).select(list(SCORES)))
    assert {r["measure"] for r in rows} == {"pass_at_k", "temperature_drop"}
    assert {(r["treatment"], r["control"]) for r in rows} == {("code_thought", "thought_code")}


def test_a_study_without_samples_or_pairs_has_none():
    plain = results().filter(pl.col("metric") == "accuracy")
    assert sampling_findings(plain.filter(benchmark="greedy"), [], []) == []
    contrast = Contrast(name="x", treatment="precede", control="follow", benchmark="greedy")
    assert sampling_findings(plain.filter(benchmark="greedy"), [contrast], [Sweep("greedy", (("greedy", 0.0),))]) == []


# ---- attention ----


def attention() -> pl.DataFrame:
    """Return masses of two conditions: in precede the thought looks back at the code, in follow it cannot."""
    rows = []
    to_code = {("precede", "thought"): 0.4, ("precede", "code"): 0.5, ("follow", "thought"): 0.0, ("follow", "code"): 0.3}
    for (condition, part), mass in to_code.items():
        for seed in range(3):
            for i in range(8):
                cell = {"condition": condition, "level": "{}", "seed": seed, "probe": "a", "kind": "attention", "run": condition}
                n = 30 if part == "thought" else 10
                about = cell | {"example": f"e{i}", "part": part, "n_tokens": n}
                shift = 0.01 * ((i + seed) % 3 - 1)
                for layer in (0, 1):
                    value = mass + shift if layer else 0.9
                    rows.append(about | {"other": "code", "layer": layer, "name": "mass", "value": value})
                rows.append(about | {"other": "prompt", "layer": 1, "name": "mass", "value": 1 - mass - shift})
    return pl.DataFrame([{k: r[k] for k in ALL_VALUES} for r in rows], schema=ALL_VALUES)


def test_attention_to_code_is_the_mean_over_the_responses_tokens_in_the_last_layer():
    found = attention_to_code(attention())
    means = dict(found.group_by("condition").agg(pl.col("value").mean()).rows())
    assert means["precede"] == pytest.approx((30 * 0.4 + 10 * 0.5) / 40, abs=0.01)
    assert means["follow"] == pytest.approx(10 * 0.3 / 40, abs=0.01)
    assert found["n_tokens"].unique().to_list() == [40] and found.height == 2 * 3 * 8
    other = attention().with_columns(pl.lit("loss").alias("kind"))
    assert attention_to_code(other).is_empty()


def test_the_claim_on_attention_gets_its_effect():
    values = attention()
    findings = probe_findings(values, [("precede", "follow")])
    seen = probe_records(values, pl.DataFrame(schema=ALL_GRIDS), {}, findings, STRATEGIES, {})
    (effect,) = [e for e in seen["effects"] if e["measure"] == "attention_to_code"]
    assert (effect["treatment"], effect["control"]) == ("code_thought", "thought_code")
    assert effect["effect"]["estimate"] == pytest.approx(0.425 - 0.075, abs=0.01) and effect["effect"]["low"] > 0


def test_two_probes_of_gradients_stay_apart():
    rows = []
    for probe, norm in (("trained", 1.0), ("at_start", 3.0)):
        for seed in range(2):
            cell = {"condition": "follow", "level": "{}", "seed": seed, "probe": probe, "kind": "gradients", "run": probe}
            for example in ("a", "b"):
                about = cell | {"example": example, "part": "code", "other": "", "layer": 0, "name": "q", "n_tokens": 5}
                rows.append(about | {"value": norm + 0.1 * seed})
    values = pl.DataFrame([{k: r[k] for k in ALL_VALUES} for r in rows], schema=ALL_VALUES)
    norms = probe_records(values, pl.DataFrame(schema=ALL_GRIDS), {}, [], STRATEGIES, {})["gradients"]
    assert {r["level"]: round(r["norm"]["estimate"], 2) for r in norms} == {'{"probe":"trained"}': 1.05, '{"probe":"at_start"}': 3.05}
    alone = values.filter(probe="trained")
    assert {r["level"] for r in probe_records(alone, pl.DataFrame(schema=ALL_GRIDS), {}, [], STRATEGIES, {})["gradients"]} == {"{}"}
