"""The step from folders to a table: levels, baselines, resuming with fitted factors, equal content on every run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from leaven.attribution import run
from leaven.attribution.run import attribute
from leaven.attribution.texts import fit_to, load_texts
from leaven.core.hashing import file_digest
from leaven.core.step import Resources, StepContext
from leaven.core.tables import INFLUENCE, read_table, write_examples
from leaven.core.types import Example
from leaven.data.tokenise import tokenise
from leaven.data.tokenizer import Tokenizer, train_tokenizer
from leaven.errors import DataError
from leaven.lm.checkpoints import copy_tokenizer, save_tiny
from leaven.lm.tiny_model import TinyConfig, init_tiny

QUIET = StepContext(runtime=Resources(threads=1))
SPEC = {
    "modules": "mlp",
    "fisher": "true",
    "damping": {"rule": "relative", "value": 0.1},
    "reduce": "sum",
    "queries": "aggregate",
    "level": "token",
    "decompositions": ["position", "loss"],
    "keep": 0,
    "baselines": ["gradient_dot", "gradient_cosine", "bm25", "loss", "length", "random"],
    "seed": 0,
}


def examples(n, first):
    return [
        Example(
            id=f"e{k}",
            source="s",
            question=f"add {k % 5} to {k % 3}",
            thought=f"{k % 5} plus {k % 3}\n",
            code=f"{k % 5 + k % 3}",
        )
        for k in range(first, first + n)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return inputs of the step: a random tiny model, 10 training texts, 4 and 2 target texts."""
    root = tmp_path_factory.mktemp("attribution")
    names = ("train-examples", "a-examples", "b-examples", "tokenizer", "tokens", "a", "b", "model")
    made = {n: root / n for n in names}
    for folder in made.values():
        folder.mkdir()
    for name, rows in (("train", examples(10, 0)), ("a", examples(4, 20)), ("b", examples(2, 30))):
        write_examples(made[f"{name}-examples"] / "examples.parquet", rows)
    form = {"kind": "word", "vocab_size": 64, "formats": ["thought_code"]}
    train_tokenizer(form, {"s": made["train-examples"]}, made["tokenizer"], QUIET)
    for name, folder in (("train", "tokens"), ("a", "a"), ("b", "b")):
        inputs = {"examples": made[f"{name}-examples"], "tokenizer": made["tokenizer"]}
        tokenise({"source": name, "format": "thought_code"}, inputs, made[folder], QUIET)
    vocab = Tokenizer.load(made["tokenizer"]).vocab_size
    config = TinyConfig(vocab=vocab, width=16, layers=1, heads=2, kv_heads=2, ffn=16, max_tokens=64)
    model = init_tiny(config, 0)
    save_tiny(made["model"], model, dict(model.named_parameters()))
    copy_tokenizer(made["tokenizer"], made["model"])
    return {"model": made["model"], "tokens:train": made["tokens"], "queries:a": made["a"], "queries:b": made["b"]}


def test_levels_and_baselines_in_one_table(folders, tmp_path):
    attribute(SPEC, folders, tmp_path, QUIET)
    table = read_table(tmp_path / "influence.parquet", INFLUENCE)
    whole = table.filter(level="instance")
    assert whole.group_by("method", "query").len()["len"].to_list() == [10] * 14
    ours = whole.filter(method="ekfac").sort("query", "example")
    for split in ("position", "loss"):
        tokens = (
            table.filter(level="token", decomposition=split)
            .group_by("query", "example")
            .agg(score=pl_sum())
            .sort("query", "example")
        )
        np.testing.assert_allclose(tokens["score"], ours["score"], rtol=1e-4, atol=1e-6 * abs(ours["score"]).max())
    segments = table.filter(level="segment", decomposition="loss", query="a", example="e0")
    assert segments["segment"].to_list() == sorted(segments["segment"].to_list()) and segments.height >= 4
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n_texts"] == 10 and report["n_queries"] == 2 and report["n_parameters"] == 3 * 16 * 16


def test_leave_out_rows_stand_beside_sums(folders, tmp_path):
    attribute(
        SPEC | {"level": "segment", "keep": 2, "decompositions": ["position", "leave_out"]}, folders, tmp_path, QUIET
    )
    table = read_table(tmp_path / "influence.parquet", INFLUENCE).filter(level="segment", query="a")
    splits = [table.filter(decomposition=d).sort("example", "segment") for d in ("position", "leave_out")]
    key = ["example", "segment", "n_learned_tokens"]
    assert splits[0].select(key).equals(splits[1].select(key)) and splits[0]["example"].n_unique() == 4
    assert not np.allclose(splits[0]["score"], splits[1]["score"])


def pl_sum():
    import polars as pl

    return pl.col("score").sum()


def test_resumes_with_fitted_factors_and_repeats_exactly(folders, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    attribute(SPEC, folders, first, QUIET)
    attribute(SPEC, folders, second, QUIET)
    assert file_digest(first / "influence.parquet") == file_digest(second / "influence.parquet")
    monkeypatch.setattr(run, "fit_factors", lambda *a, **k: pytest.fail("factors were fitted again"))
    attribute(SPEC, folders, second, QUIET)
    assert file_digest(first / "influence.parquet") == file_digest(second / "influence.parquet")
    monkeypatch.undo()
    attribute(SPEC | {"seed": 1}, folders, second, QUIET)  # other labels: not the saved factors
    assert file_digest(first / "influence.parquet") != file_digest(second / "influence.parquet")


def test_single_queries_keep_extremes(folders, tmp_path):
    attribute(SPEC | {"queries": "single", "keep": 2, "level": "instance"}, folders, tmp_path, QUIET)
    table = read_table(tmp_path / "influence.parquet", INFLUENCE)
    assert table["level"].unique().to_list() == ["instance"]
    assert set(table.group_by("method", "query").len()["len"]) == {4} and table["query"].n_unique() == 6


def test_texts_are_cut_like_training_and_counted(folders, tmp_path):
    texts = load_texts(folders["tokens:train"])
    short = min(int(np.flatnonzero(t.token_weights())[0]) for t in texts)
    kept, cut, dropped = fit_to(texts, short + 1)
    assert cut == 10 and len(kept) + dropped == 10 and all(len(t.ids) <= short + 1 for t in kept)
    with pytest.raises(DataError, match="queries:NAME"):
        attribute(SPEC, {k: v for k, v in folders.items() if not k.startswith("queries")}, tmp_path, QUIET)
