"""The verb from two JSONL files and a model folder to a table and a page, again after a stop, with refinement."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
import torch
from scipy import stats

from leaven.api.attributing import attribute
from leaven.core.hashing import file_digest
from leaven.core.step import Resources, StepContext
from leaven.core.tables import write_examples
from leaven.core.types import Example
from leaven.data.tokenizer import Tokenizer, train_tokenizer
from leaven.errors import DataError, StudyError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a random Llama folder with a word tokenizer, and rows of two kinds: sums and greetings."""
    root = tmp_path_factory.mktemp("verb")
    rows = [{"instruction": f"add {k % 4} and {k % 3}", "response": f"it is {k % 4 + k % 3}"} for k in range(8)]
    rows += [{"instruction": f"greet number {k}", "response": f"hello dear {k} !"} for k in range(4)]
    for name, chosen in (("train", rows), ("targets", rows[:3])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in chosen))
    (root / "examples").mkdir()
    examples = [
        Example(id=str(k), source="s", question=r["instruction"], answer=r["response"]) for k, r in enumerate(rows)
    ]
    write_examples(root / "examples" / "examples.parquet", examples)
    (root / "model").mkdir()
    form = {"kind": "word", "vocab_size": 96, "formats": ["answer_only"]}
    (root / "tokenizer").mkdir()
    train_tokenizer(form, {"s": root / "examples"}, root / "tokenizer", StepContext(runtime=Resources(threads=1)))
    for file in (root / "tokenizer").iterdir():
        shutil.copy(file, root / "model" / file.name)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=Tokenizer.load(root / "tokenizer").vocab_size, hidden_size=16, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(root / "model")
    return root


def test_two_files_and_a_folder_give_a_table_and_a_page(files, tmp_path):
    lines: list[str] = []
    ask = lambda out, **more: attribute(files / "model", files / "train.jsonl", files / "targets.jsonl", out, **more)  # noqa: E731
    found = ask(tmp_path / "a", level="token", baselines=["bm25"], log=lines.append)
    assert any("passes over 12 texts" in line and "MB" in line for line in lines)
    top = found.top(3)
    assert top.height == 3 and top["score"].is_sorted(descending=True) and top["score"][0] > 0
    assert found.page.read_text().startswith("<!doctype html>")
    again = ask(tmp_path / "a", level="token", baselines=["bm25"])
    assert file_digest(again.table) == file_digest(ask(tmp_path / "b", level="token", baselines=["bm25"]).table)
    refined = ask(tmp_path / "c", top=2, refine=2, single=True, modules="linear")
    assert refined.page is None and refined.top(9).height == 3 * 4
    report = json.loads((tmp_path / "c" / "report.json").read_text())
    assert report["method"] == "ekfac+krylov" and max(report["refined"]["residual"]) < 1


def test_wrong_input_is_named(files, tmp_path):
    with pytest.raises(DataError, match="nothing.jsonl"):
        attribute(files / "model", files / "nothing.jsonl", files / "targets.jsonl", tmp_path)
    out = tmp_path / "untouched"
    for wrong in ({"level": "words"}, {"modules": "attention"}, {"dtype": "fp16"}, {"top": -3}, {"refine": -1}):
        with pytest.raises(StudyError, match=f"--{next(iter(wrong))}: expected .* found"):
            attribute(files / "model", files / "train.jsonl", files / "targets.jsonl", out, **wrong)
    with pytest.raises(DataError, match="--model"):
        attribute(files / "modle", files / "train.jsonl", files / "targets.jsonl", out)
    assert not out.exists()


def test_influence_is_averaged_over_labels_of_the_rows(files, tmp_path):
    rows = [json.loads(line) for line in (files / "train.jsonl").read_text().splitlines()]
    told = [
        r | {"domain": "sums" if r["instruction"].startswith("add") else "greetings", "level": f"Level {1 + k % 2}"}
        for k, r in enumerate(rows)
    ]
    train = tmp_path / "labelled.jsonl"
    train.write_text("".join(json.dumps(r) + "\n" for r in [*told, {"instruction": "", "response": "x"}]))
    lines: list[str] = []
    found = attribute(
        files / "model", train, files / "targets.jsonl", tmp_path / "a", level="token", by=["difficulty=level"], log=lines.append
    )
    assert any("12 of 13 rows used" in line and "line 13" in line for line in lines)
    table, means = pl.read_parquet(found.table), {(r["by"], r["within"], r["group"]): r for r in found.groups.iter_rows(named=True)}
    scores = table.filter(level="instance").sort("example")["score"].to_numpy()
    assert means["domain", "", "sums"]["mean"] == pytest.approx(scores[:8].mean())
    assert means["domain", "", "greetings"]["n"] == 4
    assert means["difficulty", "sums", "2"]["mean"] == pytest.approx(scores[1:8:2].mean())
    low, high = stats.t.interval(0.95, 7, scores[:8].mean(), stats.sem(scores[:8]))
    assert (means["domain", "", "sums"]["low"], means["domain", "", "sums"]["high"]) == pytest.approx((low, high), rel=1e-6)
    assert {"kind", "token_class"} <= {by for by, _, _ in means}
    assert "begins" in found.top(3).columns and found.top(3)["begins"][0].startswith("add")
    refined = attribute(files / "model", train, files / "targets.jsonl", tmp_path / "c", refine=2)
    assert set(found.groups["method"]) == {"ekfac"} and set(refined.groups["method"]) == {"ekfac+krylov"}
    for wrong, said in (("topic", "LABEL"), ("domian", "Did you mean 'domain'")):
        with pytest.raises(StudyError, match=said):
            attribute(files / "model", train, files / "targets.jsonl", tmp_path / "b", by=[wrong])
    with pytest.raises(DataError, match="Did you mean 'level'"):
        attribute(files / "model", train, files / "targets.jsonl", tmp_path / "b", by=["difficulty=levle"])
    with pytest.raises(StudyError, match="--top"):
        attribute(files / "model", train, files / "targets.jsonl", tmp_path / "b", by=["domain"], top=2)
