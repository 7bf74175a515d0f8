"""Every real instruction and corpus file loads whole or is refused by field; benchmark files load through `fields`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leaven.core.step import StepContext
from leaven.core.tables import read_examples
from leaven.data.sources.files import load_file
from leaven.errors import DataError

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
MANIFEST: list[dict[str, Any]] = json.loads((SHARED / "manifest.json").read_text()) if SHARED.is_dir() else []
FILES = {entry["file"]: entry for entry in MANIFEST}
pytestmark = pytest.mark.skipif(not MANIFEST, reason="needs the shared data folder beside the checkout")

REFUSED = {
    "instruction/leetcode_train_with_tests.jsonl.gz": (
        "problem lacks 'thought' or 'code' or 'answer'",
        {"question": "problem", "code": "solutions", "tests": "tests.functional"},
    ),
    "instruction/self_instruct_seed_tasks.jsonl.gz": (
        "alpaca lacks 'output' ('output' is nested",
        {"question": "instruction", "input": "instances.0.input", "answer": "instances.0.output"},
    ),
    "instruction/code_alpaca_seed_tasks.jsonl.gz": (
        "alpaca lacks 'output' ('output' is nested",
        {"question": "instruction", "input": "instances.0.input", "answer": "instances.0.output"},
    ),
}
BAD = {
    "instruction/code_alpaca_2k.jsonl.gz": {"empty answer": 2},
    "instruction/text_alpaca_5k.jsonl.gz": {"empty answer": 1},
    "corpus/python_thealgorithms.jsonl.gz": {"empty text": 221},
    "corpus/python_cpython_stdlib.jsonl.gz": {"empty text": 3},
}
MAPPED = {
    "math/gsm8k_test.jsonl.gz": {"question": "question", "thought": "answer"},
    "math/svamp.jsonl.gz": {
        "question": "Body + Question",
        "thought": "Equation",
        "answer": "Answer",
        "family": "Type",
    },
    "math/multiarith.jsonl.gz": {"question": "sQuestion", "answer": "lSolutions"},
    "math/aqua_dev.jsonl.gz": {"question": "question + options", "thought": "rationale", "answer": "correct"},
    "math/math_test_minus_500.jsonl.gz": {
        "question": "problem",
        "answer": "solution",
        "difficulty": "level",
        "family": "type",
    },
    "math/gsm_hard.jsonl.gz": {"question": "input", "code": "code", "answer": "target"},
    "logical/folio_v0.jsonl.gz": {"question": "premises + conclusion", "answer": "label"},
    "logical/proofwriter_sub.jsonl.gz": {"question": "context + question + options", "answer": "answer"},
    "logical/logiqa2.jsonl.gz": {"question": "text + question + options", "answer": "answer"},
    "code_eval/humaneval.jsonl.gz": {
        "question": "prompt",
        "code": "canonical_solution",
        "tests": "test",
        "entry_point": "entry_point",
    },
    "code_eval/mbpp.jsonl.gz": {"question": "text", "code": "code", "tests": "test_list"},
    "code_eval/codeforces_stdin.jsonl.gz": {"question": "problem", "tests": "tests"},
}


def report_of(name: str, out: Path, **spec: Any) -> dict[str, Any]:
    entry = FILES[name]
    load_file(
        {"name": entry["name"], "licence": entry["licence"], **spec}, {"file": SHARED / name}, out, StepContext()
    )
    return json.loads((out / "report.json").read_text("utf-8"))


@pytest.mark.parametrize("name", [f for f in FILES if f.startswith(("instruction/", "corpus/"))])
def test_every_row_is_kept_or_counted_or_the_file_is_refused_by_field(name: str, tmp_path: Path) -> None:
    spec: dict[str, Any] = {}
    if name in REFUSED:
        words, fields = REFUSED[name]
        with pytest.raises(DataError) as error:
            report_of(name, tmp_path)
        assert words in str(error.value) and "for example fields: {question: " in str(error.value)
        spec = {"fields": fields}
    report = report_of(name, tmp_path, **spec)
    assert report["rows_read"] == FILES[name]["rows"] == report["rows_kept"] + sum(report["bad_rows"].values())
    assert report["bad_rows"] == BAD.get(name, {})
    assert len(list(read_examples(tmp_path / "examples.parquet"))) == report["rows_kept"]


@pytest.mark.parametrize("name", MAPPED if MANIFEST else [])
def test_benchmark_files_load_through_fields(name: str, tmp_path: Path) -> None:
    report = report_of(name, tmp_path, fields=MAPPED[name])
    assert report["rows_kept"] == FILES[name]["rows"], report["bad_rows"]
