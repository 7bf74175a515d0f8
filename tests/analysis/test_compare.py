"""Result files of several tools: detection, pairing, refusals, and the numbers against references."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from leaven.analysis.compare import compare_files
from leaven.analysis.result_files import parse_score, read_scores
from leaven.analysis.stats import paired_t
from leaven.errors import DataError, RefusedError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the name of the file asks for."""
    text = "\n".join(json.dumps(r) for r in rows)
    if path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text + "\n")
    return path


def outcomes(seed: int, share: float, n: int = 80) -> list[bool]:
    return [bool(x) for x in np.random.default_rng(seed).random(n) < share]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".jsonl.gz"])
def test_every_format_gives_the_same_numbers(tmp_path: Path, suffix: str) -> None:
    a, b = outcomes(0, 0.7), outcomes(1, 0.5)
    files = [
        write(tmp_path / f"{name}{suffix}", [{"task_id": f"t{i}", "passed": x} for i, x in enumerate(side)])
        for name, side in (("a", a), ("b", b))
    ]
    found = compare_files(files[:1], files[1:])
    wanted = paired_t(a, b)
    assert (found.effect.estimate, found.effect.low, found.effect.high) == pytest.approx(
        (wanted.estimate, wanted.low, wanted.high)
    )
    assert found.mcnemar and (found.mcnemar.only_a, found.mcnemar.only_b) == (
        sum(x and not y for x, y in zip(a, b, strict=True)),
        sum(y and not x for x, y in zip(a, b, strict=True)),
    )
    assert found.mcnemar.only_a + found.mcnemar.only_b + (found.both_pass or 0) + (found.both_fail or 0) == 80
    assert found.wilson_a and found.wilson_a.estimate == pytest.approx(sum(a) / 80)
    assert "a does better than b in passed" in str(found) and json.dumps(found.to_dict(), allow_nan=False)


def test_several_files_a_side_are_seeds(tmp_path: Path) -> None:
    sides = [
        [
            write(
                tmp_path / f"{name}-seed{s}.jsonl",
                [{"id": i, "score": float(x)} for i, x in enumerate(outcomes(s + k, share))],
            )
            for s in seeds
        ]
        for name, k, share, seeds in (("thought", 0, 0.8, (1, 2, 3)), ("plain", 50, 0.5, (3, 2, 1)))
    ]
    found = compare_files(*sides)
    assert found.effect.seeds == (1, 2, 3) and found.mcnemar is None
    assert (found.name_a, found.name_b) == ("thought", "plain") and "3 seeds a side" in found.answer.sentence
    with pytest.raises(RefusedError, match=r"thought has seeds \[1, 2, 3\], plain has \[2, 3\]"):
        compare_files(sides[0], sides[1][:2])
    assert compare_files(sides[0], sides[1][:2], unequal_seeds="common").effect.seeds == (2, 3)


def test_clusters_widen(tmp_path: Path) -> None:
    rows = [[{"id": i, "doc": i // 8, "score": int((i // 8) % 3 < k)} for i in range(80)] for k in (2, 1)]
    a, b = (write(tmp_path / f"{n}.jsonl", r) for n, r in zip("ab", rows, strict=True))
    alone, clustered = compare_files([a], [b]), compare_files([a], [b], cluster="doc")
    assert clustered.effect.n_clusters == 10
    assert clustered.effect.high - clustered.effect.low > 2 * (alone.effect.high - alone.effect.low)
    with pytest.raises(DataError, match="no cluster column 'dok'.*Did you mean 'doc'"):
        compare_files([a], [b], cluster="dok")


def test_other_items_are_refused_with_counts_and_examples(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [{"id": f"x{i}", "score": 1} for i in range(10)])
    b = write(tmp_path / "b.jsonl", [{"id": f"x{i}", "score": 1} for i in range(4, 12)])
    with pytest.raises(
        RefusedError,
        match=r"found 10 in .* and 8 in .*6 in common, 4 only in the first \(e.g. \['x0', 'x1', 'x2'\]\), 2 only",
    ):
        compare_files([a], [b])


def test_lm_evaluation_harness_samples(tmp_path: Path) -> None:
    rows = [
        {
            "doc_id": i,
            "doc": {"q": "?"},
            "target": "1",
            "resps": [["1"]],
            "filter": f,
            "metrics": ["exact_match"],
            "exact_match": float(i % (2 if f == "strict-match" else 3) == 0),
        }
        for i in range(30)
        for f in ("strict-match", "flexible-extract")
    ]
    path = write(tmp_path / "samples_gsm8k_2026.jsonl", rows)
    with pytest.raises(RefusedError, match="flexible-extract"):
        read_scores(path)
    found = read_scores(path, metric="exact_match,strict-match")
    assert found.item_column == "doc_id" and found.rows["score"].sum() == 15
    two = write(
        tmp_path / "samples_arc.jsonl",
        [
            {"doc_id": i, "filter": "none", "metrics": ["acc", "acc_norm"], "acc": 1.0, "acc_norm": 0.0}
            for i in range(5)
        ],
    )
    with pytest.raises(RefusedError, match="acc_norm"):
        read_scores(two)
    assert read_scores(two, metric="acc_norm").rows["score"].sum() == 0


def test_evalplus_results_old_and_new(tmp_path: Path) -> None:
    new = {
        "eval": {
            f"HumanEval/{i}": [
                {
                    "task_id": f"HumanEval/{i}",
                    "solution": "",
                    "base_status": "pass" if i else "fail",
                    "plus_status": "pass",
                }
            ]
            for i in range(4)
        }
    }
    old = {
        "eval": {
            f"HumanEval/{i}": {"nfiles": 1, "base": [["pass", []]], "plus": [["fail" if i == 2 else "pass", []]]}
            for i in range(4)
        }
    }
    for name, value, wanted in (("new", new, 3), ("old", old, 3)):
        path = tmp_path / f"{name}_eval_results.json"
        path.write_text(json.dumps(value))
        found = read_scores(path)
        assert (found.score_column, found.rows["score"].sum()) == ("plus_status", wanted)
        assert read_scores(path, metric="base_status").rows.height == 4


def test_leaven_verdicts_choose_a_metric(tmp_path: Path) -> None:
    rows = [
        {"benchmark": "w", "item": f"i{i}", "index": 0, "metric": m, "status": "pass", "score": float(i)}
        for i in range(4)
        for m in ("accuracy", "bits_per_byte")
    ]
    path = write(tmp_path / "verdicts.parquet", rows)
    with pytest.raises(RefusedError, match="bits_per_byte"):
        read_scores(path)
    assert read_scores(path, metric="accuracy").rows.height == 4


def test_duplicates_need_a_sample_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": i % 3, "score": 1} for i in range(6)])
    with pytest.raises(DataError, match=r"3 ids repeated \(e.g. \['0', '1', '2'\]\)"):
        read_scores(path)
    sampled = write(tmp_path / "b.jsonl", [{"id": i % 3, "index": i // 3, "score": i // 3} for i in range(6)])
    assert compare_files([sampled], [sampled]).effect.mean_treatment == 0.5
    mixed = write(tmp_path / "c.jsonl", [{"id": i % 3, "index": 0, "score": 1} for i in range(6)])
    with pytest.raises(DataError, match="each id and index once"):
        read_scores(mixed)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (True, 1),
        ("pass", 1),
        ("Failed", 0),
        ("failed: AssertionError", 0),
        ("0.25", 0.25),
        (3, 3),
        ("timeout", 0),
        (None, None),
        ("not_measured", None),
    ],
)
def test_scores_as_people_write_them(value: Any, wanted: float | None) -> None:
    assert parse_score(value, "here") == wanted


@pytest.mark.parametrize("value", ["maybe", float("nan"), float("inf"), [1], "nan"])
def test_scores_that_are_not_numbers(value: Any) -> None:
    with pytest.raises(DataError, match="here"):
        parse_score(value, "here")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "at least one item"),
        ("a.jsonl", "{bad", "cannot be read"),
        ("a.jsonl", '{"id": 1}', "no score column"),
        ("a.jsonl", '{"score": 1}', "no item id column"),
        ("a.json", '{"results": {"gsm8k": {"acc,none": 1}}}', "Aggregate files"),
        ("a.txt", "x", "expected .jsonl"),
        ("a.jsonl", '{"id": 1, "score": "good"}', "row 1 .*found 'good'"),
        ("a.jsonl", "[1]", "row 1: expected a mapping"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_scores(path)


def test_real_verdicts() -> None:
    path = SHARED / "model_outputs" / "starcoder2_instruct_humaneval_verdicts.jsonl.gz"
    if not path.exists():
        pytest.skip("needs the shared data folder, which is absent")
    base, plus = read_scores(path, metric="base_status"), read_scores(path)
    assert plus.rows.height == base.rows.height == 164
    assert plus.rows["score"].sum() < base.rows["score"].sum()
    assert compare_files([path], [path]).effect.estimate == 0
