"""The analyse step and the query API on a small synthetic study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from leaven.analysis.results import Results
from leaven.analysis.run import analyse
from leaven.core.hashing import tree_digest
from leaven.core.step import StepContext
from leaven.core.tables import CURVE, REALISED, write_items, write_table, write_verdicts
from leaven.core.types import Example, Item, Verdict
from leaven.errors import DataError, StudyError

ITEMS = [
    Item(
        id=f"i{i:03d}",
        benchmark="world",
        cluster=f"c{i // 4}",
        seen=i % 6 < 2,
        example=Example(id=f"i{i:03d}", source="world", question=f"q{i}", difficulty=i % 6 + 1),
    )
    for i in range(96)
]
SHARES = {"code_only": 0.35, "thought_code": 0.9, "code_thought": 0.33}
CONTRASTS = [
    {
        "name": "first",
        "treatment": "thought_code",
        "control": "code_only",
        "benchmark": "world",
        "primary": True,
        "where": {"seen": False},
    },
    {"name": "after", "treatment": "code_thought", "control": "code_only", "benchmark": "world"},
]


def study(folder: Path, levels: tuple[str, ...] = ("{}",)) -> tuple[dict[str, Any], dict[str, Path]]:
    """Write the inputs of a study of three conditions and four seeds; return its spec and inputs."""
    write_items(folder / "items" / "items.parquet", ITEMS)
    inputs = {"items:world": folder / "items"}
    spec: dict[str, Any] = {
        "study": "toy",
        "question": "Does the thought first help?",
        "contrasts": CONTRASTS,
        "runs": [],
        "curves": [],
        "orders": [],
    }
    for at, level in enumerate(levels):
        for condition, share in SHARES.items():
            for seed in range(4):
                draws = np.random.default_rng([at, seed, len(condition), int(share * 100)]).random(len(ITEMS))
                place = folder / f"{condition}-{at}-{seed}"
                write_verdicts(
                    place / "verdicts.parquet",
                    [
                        Verdict(benchmark="world", item=i.id, score=float(x < share))
                        for i, x in zip(ITEMS, draws, strict=True)
                    ],
                )
                write_table(
                    place / "curve.parquet",
                    [
                        {
                            "stage": "sft",
                            "step": t,
                            "loss": 2 / (t + 1) + 0.1 * seed,
                            "learning_rate": 0.1,
                            "gradient_norm": 1.0,
                            "n_tokens": 10 * t,
                            "n_learned_tokens": 5 * t,
                            "n_examples": t,
                        }
                        for t in range(4)
                    ],
                    CURVE,
                )
                write_table(
                    place / "realised.parquet",
                    [
                        {
                            "stage": "sft",
                            "block": t,
                            "source": "world",
                            "planned": 8.0,
                            "realised": 8.0,
                            "unit": "examples",
                        }
                        for t in range(4)
                    ],
                    REALISED,
                )
                cell = {"condition": condition, "level": level, "seed": seed}
                for kind, entries, extra in (
                    ("verdicts", "runs", {"benchmark": "world"}),
                    ("curve", "curves", {}),
                    ("order", "orders", {}),
                ):
                    name = ":".join([kind, condition, level, str(seed), *extra.values()])
                    inputs[name] = place
                    spec[entries].append(
                        {**cell, **extra, "node": f"{kind}-{condition}-{at}-{seed}", "fingerprint": "here"}
                    )
    return spec, inputs


def run(spec: dict[str, Any], inputs: dict[str, Path], out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the step; return findings by id and the answer."""
    out.mkdir()
    analyse(spec, inputs, out, StepContext())
    return {f["id"]: f for f in json.loads((out / "findings.json").read_text())}, json.loads(
        (out / "answer.json").read_text()
    )


def test_answers_the_question(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    findings, answer = run(spec, inputs, tmp_path / "out")
    assert (
        answer["decision"] == "favours"
        and answer["finding"] == "contrast/first"
        and "thought_code does better" in answer["answer"]
    )
    first, after = findings["contrast/first"], findings["contrast/after"]
    assert first["n_items"] == 64 and first["seeds"] == [0, 1, 2, 3] and first["low"] > 0.4 and len(first["runs"]) == 8
    assert (
        after["decision"] == "inconclusive"
        and after["data"]["margin"] is None
        and after["p_holm"] >= after["p"]
        and first["mde"] > 0
    )
    by_difficulty = [f for f in findings if f.startswith("contrast/first/difficulty=")]
    assert len(by_difficulty) == 4 and all(
        findings[f]["data"]["descriptive"] and findings[f]["p_holm"] is None for f in by_difficulty
    )
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    deep = scores.filter(pl.col("difficulty").is_not_null())
    assert (
        deep.height == 18
        and deep["n_items"].to_list() == [16] * 18
        and (deep["low"] <= deep["mean"]).all()
        and (deep["mean"] <= deep["high"]).all()
    )
    assert scores.filter(pl.col("seed").is_not_null() & pl.col("seen").is_null()).height == 12
    assert findings["score/code_only/world/accuracy"]["estimate"] == pytest.approx(
        first["data"]["mean_control"], abs=0.1
    )
    assert (
        findings["curve/sft"]["data"]["last"][0]["step"] == 3
        and findings["mixture"]["data"]["rows"][0]["worst_block"] == 0
    )


def test_is_deterministic(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    run(spec, inputs, tmp_path / "one")
    run(spec, inputs, tmp_path / "two")
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")


def test_a_failed_run_refuses_only_its_contrasts(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    del inputs["verdicts:thought_code:{}:2:world"]
    findings, answer = run(spec, inputs, tmp_path / "out")
    assert (
        findings["contrast/first"]["decision"] == "refused" and "thought_code has seeds [0, 1, 3]" in answer["answer"]
    )
    assert (
        findings["contrast/after"]["estimate"] is not None
        and findings["contrast/after"]["p_holm"] == findings["contrast/after"]["p"]
    )
    assert "verdicts:thought_code:{}:2:world" in findings["note/missing-runs"]["warnings"][0]
    spec["contrasts"] = [{**CONTRASTS[0], "unequal_seeds": "common"}]
    findings, _ = run(spec, inputs, tmp_path / "again")
    assert (
        findings["contrast/first"]["seeds"] == [0, 1, 3] and "common seeds" in findings["contrast/first"]["warnings"][0]
    )


def test_a_study_without_an_answer_says_so(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    spec["contrasts"] = [{**CONTRASTS[0], "where": {"min_difficulty": 40}}, CONTRASTS[1]]
    findings, answer = run(spec, inputs, tmp_path / "out")
    assert answer["decision"] == "refused" and answer["answered"] is False
    assert answer["answer"].startswith("No answer: ") and "min_difficulty" in answer["answer"]
    assert findings["contrast/after"]["estimate"] is not None
    _, answer = run({**spec, "contrasts": []}, inputs, tmp_path / "none")
    assert answer["decision"] == "none" and answer["answered"] is True and "declares no contrast" in answer["answer"]


def test_the_power_warning_speaks_in_points(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    spec["contrasts"] = [{**CONTRASTS[1], "margin": 0.01}]
    findings, _ = run(spec, inputs, tmp_path / "out")
    [warning] = [w for w in findings["contrast/after"]["warnings"] if "underpowered" in w]
    assert warning.endswith("points or more, the margin is 1.0 points")


def test_levels_are_compared_apart(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path, ('{"size":"small"}', '{"size":"large"}'))
    findings, answer = run(spec, inputs, tmp_path / "out")
    assert {"contrast/first @ size=small", "contrast/first @ size=large", "contrast/after @ size=large"} <= set(
        findings
    )
    assert findings["contrast/first @ size=small"]["data"]["family"] == 4 and "size=small: " in answer["answer"]
    spec["contrasts"] = [{**CONTRASTS[0], "where": {"levels": {"size": "small"}}}]
    findings, _ = run(spec, inputs, tmp_path / "again")
    assert [f for f in findings if f.startswith("contrast/first") and "difficulty" not in f] == [
        "contrast/first @ size=small"
    ]
    spec["contrasts"] = [{**CONTRASTS[0], "where": {"levels": {"size": "huge"}}}]
    findings, _ = run(spec, inputs, tmp_path / "none")
    assert findings["contrast/first"]["decision"] == "refused" and "huge" in findings["contrast/first"]["sentence"]


def test_mixed_fingerprints_warn(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    spec["runs"][0]["fingerprint"] = "elsewhere"
    findings, _ = run(spec, inputs, tmp_path / "out")
    assert any("mixed fingerprints" in w for w in findings["contrast/first"]["warnings"])


def test_not_measured_items_are_counted(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    verdicts = [
        Verdict(
            benchmark="world", item=i.id, score=None if k == 2 else 1.0, status="harness_error" if k == 2 else "pass"
        )
        for k, i in enumerate(ITEMS)
    ]
    write_verdicts(inputs["verdicts:code_only:{}:0:world"] / "verdicts.parquet", verdicts)
    findings, _ = run(spec, inputs, tmp_path / "out")
    assert findings["contrast/first"]["n_items"] == 63 and any(
        "1 of 64 items" in w for w in findings["contrast/first"]["warnings"]
    )
    assert "harness_error" in findings["note/not-measured"]["warnings"][0]


def test_verdicts_must_fit_the_items(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    write_verdicts(
        inputs["verdicts:code_only:{}:0:world"] / "verdicts.parquet",
        [Verdict(benchmark="world", item="other", score=1.0)],
    )
    with pytest.raises(DataError, match="not among the items.*'other'"):
        run(spec, inputs, tmp_path / "out")
    with pytest.raises(StudyError, match="at most one primary"):
        run({**spec, "contrasts": [CONTRASTS[0], {**CONTRASTS[0], "name": "again"}]}, inputs, tmp_path / "two")


def test_query_api(tmp_path: Path) -> None:
    spec, inputs = study(tmp_path)
    findings, _ = run(spec, inputs, tmp_path / "tables")
    results = Results.load(tmp_path)
    found = results.contrast("thought_code", "code_only", where={"seen": False})
    assert (found.effect.low, found.effect.high) == (
        findings["contrast/first"]["low"],
        findings["contrast/first"]["high"],
    )
    assert results.table()["n_items"].to_list() == [96, 96, 96] and results.table(by=["seed"]).height == 12
    assert results.by_difficulty().height == 18 and results.table()["interval"].unique().to_list() == [
        "seeds_and_items"
    ]
    assert results.curve()["mean"].to_list()[0] == pytest.approx(2.15) and results.curve().height == 12
    assert (
        results.sql("select condition, count(*) as n from results group by condition order by n")["n"].sum()
        == 3 * 4 * 96
    )
    assert {"results", "scores", "curves", "realised"} <= set(results.tables)
    with pytest.raises(StudyError, match="Tables: curves"):
        results.sql("select x from nowhere")
    with pytest.raises(StudyError, match="Did you mean 'seed'"):
        results.table(by=["sead"])
    with pytest.raises(StudyError, match="'code_onli' has no results.*Did you mean 'code_only'"):
        results.contrast("thought_code", "code_onli")
    with pytest.raises(DataError, match="leaven run"):
        Results.load(tmp_path / "items")
