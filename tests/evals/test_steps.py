"""The three evaluation steps of a study with several samples per item: pass@k, parse errors and lengths beside the benchmark's metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leaven.core.step import Resources, StepContext
from leaven.core.tables import VERDICTS, read_samples, read_table, write_examples
from leaven.core.types import Example
from leaven.errors import DataError, StudyError
from leaven.evals.passk import pass_at_k
from leaven.evals.run import generate, judge, load_items

CTX = StepContext(runtime=Resources(threads=1))
SPEC: dict[str, Any] = {
    "benchmark": "program", "name": "mine", "options": {}, "limit": None, "format": "code_only", "n": 6, "temperature": 0.9, "top_p": 1.0,
    "metrics": ["pass@3", "parse_error", "tokens", "bits_per_byte"], "max_new_tokens": 6, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose whole vocabulary is two programs, so that a share of its samples passes."""
    from leaven.data.tokenizer import Tokenizer, train_tokenizer
    from leaven.lm.checkpoints import copy_tokenizer, save_tiny
    from leaven.lm.tiny_model import TinyConfig, init_tiny

    base = tmp_path_factory.mktemp("model")
    (base / "s").mkdir()
    write_examples(base / "s/examples.parquet", [Example(id="1", source="s", question="q w", code="x = 1 2")])
    train_tokenizer({"kind": "word", "vocab_size": 64, "formats": ["code_only"]}, {"s": base / "s"}, base / "tok", CTX)
    spec = {"width": 16, "layers": 1, "heads": 1, "max_tokens": 64, "tie": True}
    tiny = init_tiny(TinyConfig.from_spec(spec, Tokenizer.load(base / "tok").vocab_size), 0)
    (base / "m").mkdir()
    save_tiny(base / "m", tiny, {n: p.detach() for n, p in tiny.named_parameters()})
    copy_tokenizer(base / "tok", base / "m")
    return base / "m"


def run(tmp_path: Path, model: Path, **change: Any) -> tuple[list[dict[str, Any]], Path]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": str(i), "prompt": "q w", "code": "x = 1", "tests": "assert True"}) + "\n" for i in range(3)))
    spec = {**SPEC, **change}
    folders = {name: tmp_path / name for name in ("items", "samples", "verdicts")}
    load_items(spec, {"file": rows}, folders["items"], CTX)
    generate(spec, {"items": folders["items"], "model": model}, folders["samples"], CTX)
    judge({**spec, "limits": {}}, {"items": folders["items"], "samples": folders["samples"]}, folders["verdicts"], CTX)
    return list(read_table(folders["verdicts"] / "verdicts.parquet", VERDICTS).iter_rows(named=True)), tmp_path


def test_one_generation_set_is_scored_under_every_metric(tmp_path: Path, model: Path) -> None:
    rows, folder = run(tmp_path, model)
    by = {m: [r for r in rows if r["metric"] == m] for m in ("accuracy", *SPEC["metrics"])}
    assert {m: len(r) for m, r in by.items()} == {"accuracy": 18, "pass@3": 3, "parse_error": 18, "tokens": 18, "bits_per_byte": 3}
    for row in by["pass@3"]:
        passes = sum(r["score"] == 1.0 for r in by["accuracy"] if r["item"] == row["item"])
        assert row["score"] == pytest.approx(pass_at_k(6, passes, 3)) and row["detail"] == f"{passes} of 6 samples passed"
    assert [r["score"] for r in by["parse_error"]] == [float(r["status"] == "no_answer") for r in by["accuracy"]]
    counted = [float(s.n_tokens) for s in read_samples(folder / "samples/samples.parquet") if s.finish]
    assert [r["score"] for r in by["tokens"]] == counted and all(0 < c <= 6 for c in counted)
    report = json.loads((folder / "verdicts/report.json").read_text())
    assert report["n_verdicts"] == 21 and sum(report["by_status"].values()) == 21  # derived metrics judge nothing


def test_too_few_samples_are_refused_before_anything_is_generated(tmp_path: Path, model: Path) -> None:
    for change, words in (({"n": 2}, "at least 3 samples"), ({"temperature": 0.0}, "greedy")):
        with pytest.raises(StudyError, match=f"benchmark program: pass@3 .*{words}"):
            run(tmp_path, model, **change)
    assert not (tmp_path / "samples/samples.parquet").exists()


def test_a_broken_file_of_a_study_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "1", "prompt": "q", "tests": "assert True"}\n{"id": "1", "prompt": "q", "tests": "assert True"}\n')
    with pytest.raises(DataError, match="tasks.jsonl: benchmark mine: expected different item ids, found 1 repeated"):
        load_items(SPEC, {"file": path}, tmp_path / "o", CTX)
    path.write_text('{"id": "1", "prompt": "q"}\n')
    with pytest.raises(DataError, match="tasks.jsonl: benchmark program, row 1: expected a value for 'tests'"):
        load_items(SPEC, {"file": path}, tmp_path / "o", CTX)
