"""`leaven evaluate`: own rows, predictions of other harnesses, sweeps of a small model, going on after a kill, bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import leaven
from leaven.api.evaluated import evaluation_text
from leaven.core.step import Resources, StepContext
from leaven.errors import DataError, StudyError

ROWS = [
    {"id": "double", "prompt": "Write f(x) that doubles x.", "tests": ["assert f(2) == 4", "assert f(0) == 0"], "entry_point": "f"},
    {"id": "head", "prompt": "def g(xs):\n    '''Return the first element.'''\n", "tests": "assert g([3, 1]) == 3", "entry_point": "g"},
    {
        "id": "sum",
        "prompt": "Read numbers, print their sum.",
        "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5", "output": "5"}],
    },
]
RIGHT = {
    "double": "Thought first.\n```python\ndef f(x):\n    return 2 * x\nprint(f(int(input())))\n```",
    "head": "    return xs[0]\n",
    "sum": "```python\nprint(sum(map(int, input().split())))\n```",
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", ROWS)


def test_own_rows_and_predictions(tmp_path: Path, rows: Path) -> None:
    answers = write(tmp_path / "a.jsonl", [{"id": i, "completion": t} for i, t in RIGHT.items()])
    found = leaven.evaluate("program", rows, predictions=answers, out=tmp_path / "out")
    assert [(r["metric"], r["mean"], r["n_items"]) for r in found.scores] == [("accuracy", 1.0, 3)]
    verdicts = [json.loads(line) for line in (tmp_path / "out/verdicts.jsonl").read_text().splitlines()]
    assert [v["strategy"] for v in verdicts] == ["fence_entry_point_pruned", "continuation", "fence"]
    assert json.loads((tmp_path / "out/results.json").read_text())["scores"][0]["mean"] == 1.0
    assert "accuracy" in evaluation_text(found) and str(tmp_path / "out") in evaluation_text(found)


def test_samples_of_an_item_missing_ones_and_empty_ones(tmp_path: Path, rows: Path) -> None:
    answers = [{"task_id": i, "code_list": [t, "", t, "def f(x): return 0"]} for i, t in RIGHT.items()]
    answers[2]["code_list"] = [RIGHT["sum"], None]
    found = leaven.evaluate("program", rows, predictions=write(tmp_path / "a.jsonl", answers), out=tmp_path / "out", k=[1, 2, 4])
    by_k = {r["k"]: r for r in found.table}
    assert by_k[1]["estimate"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert by_k[4]["estimate"] == 1.0 and by_k[2]["estimate"] == pytest.approx((5 / 6 + 5 / 6 + 0.5) / 3)
    assert by_k[1]["missing"] == 2 and by_k[1]["no_answer"] == pytest.approx(3 / 10)
    text = evaluation_text(found)
    assert "pass@4" in text and "missing: 2 samples of 4 per item, counted as failures" in text and "30.0% of samples" in text


@pytest.mark.parametrize("shape", ["official", "short ids", "evalplus", "gzip"])
def test_predictions_of_other_harnesses(tmp_path: Path, shared_data: Path, shape: str) -> None:
    """HumanEval bodies {task_id, completion}, MBPP by number, EvalPlus {task_id, solution}."""
    name, file = ("mbpp", "mbpp_sanitized") if shape == "short ids" else ("humaneval", "humaneval")
    source = shared_data / f"code_eval/{file}.jsonl.gz"
    tasks = [json.loads(line) for line in gzip.open(source, "rt", encoding="utf-8")][:12]
    key = "code" if shape == "short ids" else "canonical_solution"
    whole = shape == "evalplus"
    answers = [{"task_id": t["task_id"], "solution" if whole else "completion": (t["prompt"] if whole else "") + t[key]} for t in tasks]
    path = write(tmp_path / "a.jsonl", answers)
    if shape == "gzip":
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".jsonl.gz")
    found = leaven.evaluate(name, source, predictions=path, limit=12, out=tmp_path / "out")
    assert found.scores[0]["mean"] == 1.0 and found.by_status == {"pass": 12}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 30k parameters with a tokenizer."""
    from leaven.core.tables import write_examples
    from leaven.core.types import Example
    from leaven.data.tokenizer import Tokenizer, train_tokenizer
    from leaven.lm.checkpoints import copy_tokenizer, save_tiny
    from leaven.lm.tiny_model import TinyConfig, init_tiny

    base = tmp_path_factory.mktemp("model")
    (base / "s").mkdir()
    write_examples(base / "s/examples.parquet", [Example(id="1", source="s", question="one two", answer="def f(x): return 2 * x")])
    ctx = StepContext(runtime=Resources(threads=1))
    train_tokenizer({"kind": "bpe", "vocab_size": 300, "formats": None}, {"s": base / "s"}, base / "tok", ctx)
    spec = {"width": 32, "layers": 1, "heads": 2, "max_tokens": 192, "tie": True}
    tiny = init_tiny(TinyConfig.from_spec(spec, Tokenizer.load(base / "tok").vocab_size), 0)
    (base / "m").mkdir()
    save_tiny(base / "m", tiny, {n: p.detach() for n, p in tiny.named_parameters()})
    copy_tokenizer(base / "tok", base / "m")
    return base / "m"


def test_a_sweep_over_temperatures_and_k_that_goes_on_after_a_kill(tmp_path: Path, rows: Path, model: Path) -> None:
    settings: dict[str, Any] = {"model": model, "out": tmp_path / "out", "n": 4, "max_new_tokens": 12, "limits": {"cpu_s": 1}}
    found = leaven.evaluate("program", rows, temperature=[0.2, 0.8], k=[1, 4], **settings)
    assert [(r["temperature"], r["k"], r["n_items"]) for r in found.table] == [(0.2, 1, 3), (0.2, 4, 3), (0.8, 1, 3), (0.8, 4, 3)]
    assert all(r["tokens"] > 0 and r["missing"] == 0 for r in found.table)
    before = (tmp_path / "out/samples.jsonl").read_text()
    sets = sorted((tmp_path / "out/generations").glob("*.jsonl"))
    assert len(sets) == 2
    sets[0].write_text("".join(sets[0].read_text().splitlines(keepends=True)[:6]) + '{"item": "su', encoding="utf-8")  # killed
    seen: list[tuple[str, int, int]] = []
    again = leaven.evaluate("program", rows, temperature=[0.2, 0.8, 0], k=[1, 4], progress=lambda *a: seen.append(a), **settings)
    assert (tmp_path / "out/samples.jsonl").read_text().startswith(before)
    starts = [done for what, done, _ in seen if what.startswith("items")]
    assert starts.count(0) == 1 and 1 in starts  # one item of the cut set was whole; only the greedy set is new
    assert [(r["temperature"], r["k"], r["n"]) for r in again.table][4:] == [(0, 1, 1)]
    assert len(list((tmp_path / "out/generations").glob("*.jsonl"))) == 3


def test_bits_per_byte_where_every_item_has_a_gold(tmp_path: Path, model: Path) -> None:
    with_gold = write(tmp_path / "r.jsonl", [{**ROWS[0], "solution": "def f(x):\n    return 2 * x\n"}])
    settings: dict[str, Any] = {"model": model, "out": tmp_path / "o", "max_new_tokens": 8, "format": "code_only"}
    found = leaven.evaluate("program", with_gold, **settings)
    bits = {r["metric"]: r["mean"] for r in found.scores}
    assert bits["bits_per_byte"] > 0 and bits["accuracy"] == 0.0
    without = leaven.evaluate("program", write(tmp_path / "s.jsonl", ROWS[:1]), **settings)
    assert [r["metric"] for r in without.scores] == ["accuracy"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({}, StudyError, "exactly one of --model and --predictions"),
        ({"predictions": "a.jsonl", "options": {"promt": "x"}}, StudyError, "this benchmark has no options"),
        ({"predictions": "a.jsonl", "metrics": ["acuracy"]}, StudyError, "expected a metric of accuracy"),
        ({"predictions": "a.jsonl", "metrics": ["bits_per_byte"]}, StudyError, "needs the model"),
        ({"predictions": "a.jsonl", "metrics": ["pass@5"]}, StudyError, "at least 5 samples"),
        ({"predictions": "a.jsonl", "limits": {"cpu": 1}}, StudyError, "cpu_s"),
        ({"predictions": "a.jsonl", "limit": 2}, DataError, "not in the benchmark 1 \\['sum'\\]"),
        ({"model": "m", "k": [5], "n": 2, "temperature": 0.5}, StudyError, "pass@5 needs at least 5"),
        ({"model": "m", "n": 0}, StudyError, "--n of at least 1"),
        ({"model": "m", "format": "cod_only"}, StudyError, "Did you mean 'code_only'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(
    tmp_path: Path, rows: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    write(tmp_path / "a.jsonl", [{"id": i, "completion": t} for i, t in RIGHT.items()])
    places = {k: tmp_path / change[k] for k in ("model", "predictions") if k in change}
    with pytest.raises(error, match=words):
        leaven.evaluate("program", rows, **{**change, **places, "out": tmp_path / "out"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "tests": []}, "row 2: expected a value for 'tests'"),
        ({"prompt": "q", "tests": [1]}, "row 2: .*'tests', found \\[1\\]"),
        ({"prompt": "q", "tests": [{"input": "1"}]}, "row 2: .*{input, output}"),
        ({"tests": "assert 1"}, "row 2: expected a value for 'question'"),
        ({"prompt": 7, "tests": "assert 1"}, "row 2: expected a text in column 'question'"),
        ("not a row", "line 2: expected a benchmark row"),
    ],
)
def test_broken_rows_are_named_with_file_row_and_column(tmp_path: Path, row: Any, words: str) -> None:
    path = write(tmp_path / "rows.jsonl", [ROWS[0], row])
    with pytest.raises(DataError, match=f"rows.jsonl: .*{words}"):
        leaven.evaluate("program", path, predictions=path, out=tmp_path / "o")


@pytest.mark.parametrize(
    ("row", "words"),
    [({"id": "double"}, "line 1: expected an id"), ({"id": "double", "text": 3}, "expected a text or a list"), ({"text": "x"}, "an id")],
)
def test_broken_predictions_are_named(tmp_path: Path, rows: Path, row: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"a.jsonl, .*{words}"):
        leaven.evaluate("program", rows, predictions=write(tmp_path / "a.jsonl", [row]), out=tmp_path / "o")


def test_texts_cannot_answer_label_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [{"premises": ["A."], "conclusion": "A?", "label": "True"}])
    with pytest.raises(StudyError, match="give --model"):
        leaven.evaluate("folio", path, predictions=path, out=tmp_path / "o")
