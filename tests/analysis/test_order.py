"""Probe values to findings: means, contrasts, histograms and KS by hand and against scipy; table 13 from its numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from leaven.analysis.distributions import binned, shared_edges
from leaven.analysis.effect import effect
from leaven.analysis.findings import answer_of, finding_dict
from leaven.analysis.order import mean_of, probe_findings, seed_tests
from leaven.analysis.probe_tables import ALL_GRIDS, ALL_VALUES, gather_grids, gather_values, quantities
from leaven.analysis.stats import t_interval
from leaven.core.tables import PROBE_GRID, PROBE_VALUES, write_table
from leaven.core.types import Finding
from leaven.errors import DataError

SEEDS, EXAMPLES = (0, 1, 2), 40


def table(rows: list[dict[str, Any]], probe: str = "p") -> pl.DataFrame:
    whole = {"level": "{}", "probe": probe, "other": "", "layer": -1, "n_tokens": 10}
    return pl.DataFrame(
        [{**whole, "run": f"{r['condition']}/{r['seed']}", **r} for r in rows], schema=ALL_VALUES, orient="row"
    )


def gaps(conditions: dict[str, tuple[str, float]], shared: float = 1.0) -> pl.DataFrame:
    """Return a perplexity probe: condition -> (first part, mean gap); examples differ alike in every condition."""
    draw = np.random.default_rng(0)
    of_example = draw.normal(0, shared, EXAMPLES)
    rows = []
    for condition, (first, gap) in conditions.items():
        second = "code" if first == "thought" else "thought"
        for seed in SEEDS:
            noise = draw.normal(0, 0.2, EXAMPLES) + draw.normal(0, 0.1)
            for i in range(EXAMPLES):
                about = {"condition": condition, "seed": seed, "kind": "perplexity", "example": f"e{i:02d}"}
                b = 2 + abs(of_example[i])
                a = b + gap + noise[i]
                rows += [
                    about | {"part": first, "other": "prompt", "name": "perplexity", "value": a},
                    about | {"part": second, "other": f"prompt+{first}", "name": "perplexity", "value": b},
                    about | {"part": first, "other": second, "name": "gap", "value": a - b},
                ]
    return table(rows, "gaps")


def named(findings: list[Finding], identity: str) -> Finding:
    return next(f for f in findings if f.id == identity)


def test_the_gap_of_two_orders_is_contrasted_in_pairs() -> None:
    values = gaps({"thought_code": ("thought", 3.0), "code_thought": ("code", 1.0)})
    found = probe_findings(values)
    contrast = named(found, "probe/gaps/gap of perplexities, first - second/thought_code vs code_thought")
    assert contrast.estimate == pytest.approx(2, abs=0.3) and contrast.low > 1 and contrast.p < 0.01
    assert (contrast.n_items, contrast.seeds, contrast.decision) == (EXAMPLES, SEEDS, "")
    assert contrast.data["descriptive"] and contrast.p_holm >= contrast.p
    sides = [
        values.filter((pl.col("condition") == c) & (pl.col("name") == "gap")).sort("seed", "example")["value"].to_numpy().reshape(3, -1)
        for c in ("thought_code", "code_thought")
    ]
    wanted = effect(*sides, [f"e{i:02d}" for i in range(EXAMPLES)], seeds=SEEDS)
    assert (contrast.estimate, contrast.low, contrast.high) == pytest.approx((wanted.estimate, wanted.low, wanted.high))
    table_of_means = named(found, "probe/gaps/means").data["rows"]
    assert {(r["condition"], r["part"], r["other"]) for r in table_of_means if r["name"] == "gap"} == {
        ("thought_code", "thought", "code"),
        ("code_thought", "code", "thought"),
    }
    assert answer_of("?", found)["decision"] == "none" and all(finding_dict(f) for f in found)


def test_means_carry_both_intervals() -> None:
    values = gaps({"a": ("code", 1.0)})
    rows = values.filter(pl.col("name") == "gap")
    found = mean_of(rows)
    per_seed = rows.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"].to_list()
    wanted = t_interval(per_seed)
    assert found["mean"] == pytest.approx(np.mean(per_seed)) and found["per_seed"] == pytest.approx(per_seed)
    assert (found["seeds_low"], found["seeds_high"]) == pytest.approx((wanted.low, wanted.high))
    assert found["low"] < found["mean"] < found["high"] and (found["n_items"], found["seeds"]) == (EXAMPLES, list(SEEDS))
    clustered = mean_of(rows, {f"e{i:02d}": f"g{i % 4}" for i in range(EXAMPLES)})
    assert clustered["high"] - clustered["low"] != pytest.approx(found["high"] - found["low"])
    one = mean_of(rows.filter(pl.col("seed") == 0))
    assert one["seeds_low"] is None and one["sd_seeds"] is None and one["low"] is not None
    short = mean_of(rows.filter(~((pl.col("seed") == 1) & (pl.col("example") == "e00"))))
    assert (short["n_items"], short["n_lost"]) == (EXAMPLES - 1, 1)


def test_histograms_share_bins_and_fit_gaussians() -> None:
    values = gaps({"thought_code": ("thought", 3.0), "code_thought": ("code", 1.0)})
    found = named(probe_findings(values), "probe/gaps/histogram/parts")
    assert [s["name"] for s in found.data["series"]] == [
        "code_thought: code (first)",
        "code_thought: thought (second)",
        "thought_code: thought (first)",
        "thought_code: code (second)",
    ]
    pooled = values.filter((pl.col("condition") == "thought_code") & (pl.col("part") == "thought") & (pl.col("name") == "perplexity"))
    series = found.data["series"][2]
    mean, sd = scipy_stats.norm.fit(pooled["value"].to_numpy())
    assert (series["gaussian"]["mean"], series["gaussian"]["sd"]) == pytest.approx((mean, sd))
    assert sum(series["counts"]) + series["below"] + series["above"] == series["n"] == len(SEEDS) * EXAMPLES
    assert len(found.data["edges"]) == len(series["counts"]) + 1


def test_binning_by_hand() -> None:
    edges = np.array([0.0, 1.0, 2.0])
    assert binned(np.array([-1, 0, 0.5, 1, 2, 2.5]), edges) == {
        "counts": [2, 2],
        "below": 1,
        "above": 1,
        "n": 6,
        "gaussian": {"mean": pytest.approx(5 / 6), "sd": pytest.approx(np.std([-1, 0, 0.5, 1, 2, 2.5]))},
    }
    assert shared_edges([np.ones(3), np.ones(2)], 2).tolist() == [0.5, 1.0, 1.5]
    assert shared_edges([np.arange(1001.0)], 10)[[0, -1]].tolist() == [5.0, 995.0]


def test_ks_between_conditions_and_between_parts() -> None:
    values = gaps({"a": ("thought", 3.0), "b": ("code", 0.0)})
    found = probe_findings(values)
    gap = values.filter(pl.col("name") == "gap")

    def of(condition: str, seed: int) -> np.ndarray:
        return gap.filter((pl.col("condition") == condition) & (pl.col("seed") == seed))["value"].to_numpy()

    wanted = [scipy_stats.ks_2samp(of("a", s), of("b", s)).statistic for s in SEEDS]
    distance = named(found, "probe/gaps/ks/gap of perplexities, first - second/a vs b")
    assert distance.data["per_seed"] == pytest.approx(wanted) and distance.estimate == pytest.approx(np.mean(wanted))
    assert 0 <= distance.low <= distance.estimate <= distance.high <= 1
    wide, narrow = (named(found, f"probe/gaps/ks/parts/{c}").estimate for c in "ab")
    assert wide > 0.8 > narrow


def test_examples_that_one_side_lacks_are_left_out_and_said() -> None:
    values = gaps({"a": ("thought", 3.0), "b": ("code", 1.0)})
    short = values.filter(~((pl.col("condition") == "b") & (pl.col("example") == "e07")))
    contrast = named(probe_findings(short), "probe/gaps/gap of perplexities, first - second/a vs b")
    assert contrast.n_items == EXAMPLES - 1 and "1 examples that not every model was shown" in contrast.warnings[0]
    unequal = values.filter(~((pl.col("condition") == "b") & (pl.col("seed") == 2)))
    refused = named(probe_findings(unequal), "probe/gaps/gap of perplexities, first - second/a vs b")
    assert refused.decision == "refused" and "[0, 1, 2]" in refused.sentence
    assert not [f for f in probe_findings(values, pairs=[("a", "c")]) if f.kind == "contrast"]


def test_quantities_mean_the_same_in_every_condition() -> None:
    about = {"condition": "a", "seed": 0, "example": "e0", "value": 1.0}
    attention = table(
        [about | {"kind": "attention", "part": p, "other": o, "layer": layer, "name": n}
         for layer in (0, 1) for p, o, n in (("code", "thought", "mass"), ("thought", "code", "mass"), ("code", "", "sink"),
                                             ("prompt", "prompt", "mass"), ("code", "template", "mass"))]
    )  # fmt: skip
    found = quantities(attention)
    assert sorted(found["quantity"]) == ["attention from code to thought", "attention from thought to code"]
    assert found["layer"].unique().to_list() == [1]
    gradients = table(
        [about | {"kind": "gradients", "part": "code", "layer": layer, "name": n, "value": v}
         for layer, n, v in ((0, "q", 1.0), (1, "q", 2.0), (0, "o", 6.0), (0, "q_cosine", 50.0))]
        + [about | {"kind": "gradients", "part": "code", "layer": 0, "name": "q", "value": 90.0, "example": ""}]
    )  # fmt: skip
    found = quantities(gradients)
    assert found.select("quantity", "value", "unit").row(0) == ("gradient norm of the code", 3.0, "gradient norm") and found.height == 1


def test_thought_and_code_are_compared_inside_a_condition() -> None:
    draw = np.random.default_rng(1)
    rows = [
        {"condition": "a", "seed": s, "kind": "gradients", "example": f"e{i}", "part": part, "layer": 0, "name": "q",
         "value": 1.0 + (part == "thought") + draw.normal(0, 0.1)}
        for s in SEEDS for i in range(12) for part in ("thought", "code")
    ]  # fmt: skip
    found = named(probe_findings(table(rows)), "probe/p/a/gradient norm of the thought vs gradient norm of the code")
    assert found.estimate == pytest.approx(1, abs=0.1) and found.low > 0.8


def test_levels_stay_apart_and_attention_that_cannot_be_is_not_contrasted() -> None:
    rows = [
        {"condition": c, "seed": s, "kind": "attention", "example": f"e{i}", "part": "code", "other": "thought", "layer": 0,
         "name": "mass", "value": v * (1 + i / 10), "level": f'{{"size":"{size}"}}'}
        for c, v in (("a", 0.2), ("b", 0.0)) for s in SEEDS for i in range(5) for size in ("s", "m")
    ]  # fmt: skip
    found = probe_findings(table(rows))
    assert [f.id for f in found if f.id.endswith("/means")] == ["probe/p @ size=s/means", "probe/p @ size=m/means"]
    assert not [f for f in found if f.kind == "contrast" or "/ks/" in f.id]


def test_gathering_leaves_out_what_failed(tmp_path: Path) -> None:
    row = {"example": "e", "part": "code", "other": "", "layer": -1, "name": "loss", "value": 1.5, "n_tokens": 3}
    write_table(tmp_path / "one" / "values.parquet", [row], PROBE_VALUES)
    cells = [{"layer": 0, "row": r, "col": c, "value": float(r >= c), "n": 4} for r in range(2) for c in range(2)]
    write_table(tmp_path / "one" / "grid.parquet", cells, PROBE_GRID)
    entries = [
        {"condition": "a", "level": {"size": "s"}, "seed": 1, "probe": "l", "kind": "loss", "input": n} for n in ("x", "gone")
    ]
    values, grids = (g(entries, {"x": tmp_path / "one"}) for g in (gather_values, gather_grids))
    assert values.rows() == [("a", '{"size":"s"}', 1, "l", "loss", "x", "e", "code", "", -1, "loss", 1.5, 3)]
    found = probe_findings(values, grids=grids)
    assert named(found, "probe/l @ size=s/map/a/layer=0").data["cells"] == [[1.0, 0.0], [1.0, 1.0]]
    assert named(found, "probe/l @ size=s/means").data["rows"][0]["low"] is None  # one seed and one example: no spread
    assert gather_values([], {}).schema == pl.Schema(ALL_VALUES) and gather_grids([], {}).schema == pl.Schema(ALL_GRIDS)


def test_table_13_from_its_numbers() -> None:
    numbers = {
        "without": [69.19, 70.06, 70.34, 70.48, 70.83],
        "follow": [64.88, 66.54, 66.03, 66.38, 65.84],
        "precede": [71.49, 71.18, 71.82, 71.14, 70.96],
    }
    scores = {name: dict(enumerate(values)) for name, values in numbers.items()}
    found = seed_tests(scores, [("precede", "follow"), ("precede", "without")], "points")
    assert [round(f.data["sd"], 3) for f in found[:3]] == [0.619, 0.651, 0.339]
    assert [round(f.estimate, 2) for f in found[:3]] == [70.18, 65.93, 71.32]  # printed as 70.17, 65.93, 71.31
    follow, without = (f.data for f in found[3:])
    assert (round(follow["welch"]["t"], 2), round(follow["welch"]["df"], 2)) == (16.40, 6.02)
    assert follow["welch"]["p"] == pytest.approx(3.16e-6, rel=1e-3)
    assert (round(without["welch"]["t"], 3), round(without["welch"]["p"], 4)) == (3.605, 0.0107)
    assert (round(without["paired"]["t"], 3), round(without["paired"]["p"], 4)) == (3.090, 0.0366)
    assert not math.isnan(found[3].low)
    with pytest.raises(DataError, match="'absent'"):
        seed_tests(scores, [("absent", "follow")])
    del scores["follow"][4]
    assert "paired" not in seed_tests(scores, [("precede", "follow")])[-1].data
