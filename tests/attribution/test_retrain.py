"""Retrained copies: equal to the ordinary loop with weight 0, the same subsets for every seed, resumed where stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from leaven.attribution.retrain import retrain
from leaven.attribution.subsets import plan_copies, top_name, weights_of
from leaven.core.rng import rng
from leaven.core.step import Resources, StepContext
from leaven.core.tables import INFLUENCE, LENGTHS, ORDER, RETRAINED, SUBSETS, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.data.packing import pack_steps
from leaven.data.tokenise import load_tokens, tokenise
from leaven.data.tokenizer import train_tokenizer
from leaven.errors import BackendError, DataError, Interrupted, StudyError
from leaven.lm.checkpoints import load_tiny
from leaven.lm.loop import train

QUIET = StepContext(runtime=Resources(threads=1, checkpoint_seconds=1e9))
FORM = "thought_code"
SPEC = {
    "model": {"kind": "tiny", "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn": 24, "max_tokens": 64},
    "train": {"lr": 4e-3, "schedule": "cosine", "warmup_steps": 2, "clip": 0.5, "weight_decay": 0.1, "dtype": "fp32"},
    "stage": "sft",
    "seed": 3,
    "subsets": {"kind": "half", "n": 3, "fraction": 0.5, "seed": 7},
    "checkpoints": 3,
    "queries": "single",
}


def examples(n, first=0):
    draw = rng(first, "retrain-examples")
    return [
        Example(
            id=f"e{k:02d}",
            source="toy",
            question=f"add {int(draw.integers(10))} to {int(draw.integers(10))}",
            thought="then carry\n" * int(draw.integers(1, 4)),
            code=f"{int(draw.integers(19))}",
            group=f"g{k % 3}",
        )
        for k in range(first, first + n)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return inputs of training and a function that writes an order with the given weight of every example."""
    root = tmp_path_factory.mktemp("retrain")
    for name, rows in (("train", examples(12)), ("asked", examples(3, 40))):
        (root / f"{name}-examples").mkdir()
        write_examples(root / f"{name}-examples" / "examples.parquet", rows)
    for name in ("tokenizer", "train", "asked"):
        (root / name).mkdir()
    form = {"kind": "word", "vocab_size": 96, "formats": [FORM]}
    train_tokenizer(form, {"s": root / "train-examples"}, root / "tokenizer", QUIET)
    for name in ("train", "asked"):
        inputs = {"examples": root / f"{name}-examples", "tokenizer": root / "tokenizer"}
        tokenise({"source": "toy", "format": FORM}, inputs, root / name, QUIET)
    lengths = read_table(root / "train" / "lengths.parquet", LENGTHS).sort("example")

    def write(name, *, steps=12, batch=5, left_out=(), packed=False, chosen=None):
        chosen = rng(1, "toy-order").integers(lengths.height, size=steps * batch) if chosen is None else np.asarray(chosen)
        rows, number = lengths[chosen.tolist()], np.arange(steps * batch)
        step, slot = number // batch, number % batch
        frame = rows.select("source", "example", "format", "n_tokens", "n_learned_tokens").with_columns(
            stage=pl.lit("sft"),
            step=pl.Series(step),
            slot=pl.Series(slot),
            weight=pl.Series(np.where(np.isin(chosen, left_out), 0.0, 1.0 + 0.5 * (chosen % 2))),
            start_token=pl.lit(0),
            pack=pl.Series(pack_steps(step, rows["n_tokens"].to_numpy(), 60) if packed else slot),
        )
        (root / name).mkdir(exist_ok=True)
        write_table(root / name / "order.parquet", frame, ORDER)
        return root / name

    inputs = {"tokenizer": root / "tokenizer", "tokens:toy": root / "train", "queries:asked": root / "asked"}
    return root, inputs | {"examples:toy": root / "train-examples"}, write


def values(folder):
    return read_table(folder / "retrained.parquet", RETRAINED)


def loop_values(folder, asked):
    """Return the log-likelihood of every query text under a trained model folder, by the obvious loop."""
    model, tokens = load_tiny(folder), load_tokens(asked)
    found = {}
    for name in tokens.lengths["example"]:
        ids = torch.tensor(np.array(tokens.ids(name)), dtype=torch.long)
        logp = torch.log_softmax(model(ids[None])[0, :-1].detach().double(), -1).gather(1, ids[1:, None])[:, 0]
        found[name] = float((logp.numpy() * tokens.learn(name)[1:]).sum())
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_copies_are_ordinary_runs_whose_order_has_weight_0_there(world, tmp_path, packed):
    root, inputs, write = world
    order = write(f"order-{packed}", packed=packed)
    retrain(SPEC, inputs | {"order": order}, tmp_path / "r", QUIET)
    found = values(tmp_path / "r")
    subsets = read_table(tmp_path / "r" / "subsets.parquet", SUBSETS)
    assert found["step"].unique().sort().to_list() == [4, 8, 12]
    for copy in range(4):
        out = [int(e[1:]) for e in subsets.filter(copy=copy)["example"]]
        assert len(out) == (6 if copy else 0) == found.filter(copy=copy)["n_left_out"][0]
        ordinary = tmp_path / f"model-{copy}"
        weighted = write(f"order-{packed}-{copy}", left_out=out, packed=packed)
        spec = SPEC | {"train": SPEC["train"] | {"checkpoints": 3}}
        train(spec, inputs | {"order": weighted}, ordinary, QUIET)
        for step, folder in ((8, ordinary / "checkpoints" / "step-000008"), (12, ordinary)):
            wanted = loop_values(folder, root / "asked")
            ours = dict(found.filter(copy=copy, step=step).select("query", "value").iter_rows())
            assert ours.keys() == wanted.keys()
            assert np.allclose([ours[q] for q in wanted], list(wanted.values()), rtol=2e-5, atol=2e-4)


def spec_with(**subsets):
    return SPEC | {"subsets": subsets, "checkpoints": 1}


def test_stopping_anywhere_and_going_on_gives_the_same_values(world, tmp_path):
    _, inputs, write = world
    inputs = inputs | {"order": write("order-stop")}
    retrain(SPEC, inputs, tmp_path / "whole", QUIET)
    for calls in (0, 6, 10):
        left = iter(range(calls))
        stopping = replace(QUIET, stop=lambda left=left: next(left, None) is None)
        out = tmp_path / f"stopped-{calls}"
        with pytest.raises(Interrupted, match=f"step {calls + 1}; run the same command"):
            retrain(SPEC, inputs, out, stopping)
        assert not (out / "retrained.parquet").exists()
        retrain(SPEC, inputs, out, QUIET)
        assert values(out).equals(values(tmp_path / "whole"))


def test_finished_chunks_are_not_trained_again(world, tmp_path, monkeypatch):
    _, inputs, write = world
    inputs = inputs | {"order": write("order-chunks")}
    retrain(SPEC, inputs, tmp_path / "at-once", QUIET)
    monkeypatch.setattr("leaven.attribution.retrain.copies_at_once", lambda model, order: 3)
    left = iter(range(15))  # 11 questions whether to stop in the first chunk of 3 copies, then 1 copy
    with pytest.raises(Interrupted, match="copy 3 of 4"):
        retrain(SPEC, inputs, tmp_path / "r", replace(QUIET, stop=lambda: next(left, None) is None))
    seen = []
    retrain(SPEC, inputs, tmp_path / "r", replace(QUIET, progress=lambda done, total, note="": seen.append((done, total))))
    assert seen[0] == (3 * 12 + 6, 4 * 12) and seen[-1] == (48, 48)
    a, b = values(tmp_path / "at-once"), values(tmp_path / "r")
    assert a.drop("value").equals(b.drop("value")) and np.allclose(a["value"], b["value"], atol=2e-4)


def test_same_examples_left_out_for_every_seed(world, tmp_path):
    _, inputs, write = world
    for seed, order in ((3, write("order-s3")), (4, write("order-s4", chosen=rng(9, "other").integers(12, size=60)))):
        retrain(SPEC | {"seed": seed}, inputs | {"order": order}, tmp_path / str(seed), QUIET)
    tables = [read_table(tmp_path / s / "subsets.parquet", SUBSETS) for s in ("3", "4")]
    assert tables[0].equals(tables[1])
    assert values(tmp_path / "4")["seed"].unique().to_list() == [4]
    assert not np.allclose(values(tmp_path / "3")["value"], values(tmp_path / "4")["value"], atol=1e-2)


def test_aggregate_and_mean_queries_are_means_of_single_ones(world, tmp_path):
    root, inputs, write = world
    inputs = inputs | {"order": write("order-queries")}
    found = {}
    for how in ("single", "aggregate"):
        for reduce in ("sum", "mean"):
            retrain(SPEC | {"queries": how, "reduce": reduce}, inputs, tmp_path / f"{how}-{reduce}", QUIET)
            found[how, reduce] = values(tmp_path / f"{how}-{reduce}").filter(step=12, copy=1)
    tokens = load_tokens(root / "asked")
    sizes = {e: tokens.learn(e)[1:].sum() for e in tokens.lengths["example"]}
    single = dict(found["single", "sum"].select("query", "value").iter_rows())
    means = dict(found["single", "mean"].select("query", "value").iter_rows())
    assert all(np.isclose(means[e], single[e] / sizes[e], atol=1e-5) for e in sizes)
    assert np.isclose(found["aggregate", "sum"]["value"].item(), np.mean(list(single.values())), atol=1e-4)
    assert found["aggregate", "mean"]["query"].item() == "asked"
    assert np.isclose(found["aggregate", "mean"]["value"].item(), np.mean(list(means.values())), atol=1e-5)


def test_groups_and_steps_with_nothing_left(world, tmp_path):
    _, inputs, write = world
    chosen = np.concatenate([[0, 3, 6], rng(2, "rest").integers(12, size=33)])  # all of g0 in the first step
    spec = spec_with(kind="groups", by="group", groups=["g0", "g2"])
    retrain(spec, inputs | {"order": write("order-groups", batch=3, chosen=chosen)}, tmp_path / "r", QUIET)
    subsets = read_table(tmp_path / "r" / "subsets.parquet", SUBSETS)
    assert subsets.group_by("copy", "group").agg(pl.len()).sort("copy").rows() == [(1, "g0", 4), (2, "g2", 4)]
    assert json.loads((tmp_path / "r" / "retrain.json").read_text())["empty_steps"] >= 1
    assert np.isfinite(values(tmp_path / "r")["value"].to_numpy()).all()


KEYS = [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("b", "3")]


def influence(folder, scores):
    rows = [
        dict.fromkeys(INFLUENCE)
        | {"model": "m", "step": -1, "method": m, "query": q, "source": s, "example": e, "format": "f", "window": 0, "level": "instance"}
        | {"score": float(v)}
        for (m, q), row in scores.items()
        for (s, e), v in zip(KEYS, row, strict=True)
    ]
    write_table(folder / "influence.parquet", rows, INFLUENCE)
    return folder


def test_top_copies_leave_out_the_most_helpful(tmp_path):
    folder = influence(tmp_path, {("ekfac", "p"): [5, 1, 4, 2, 3], ("ekfac", "q"): [0, 0, 0, 9, 8], ("bm25", "p"): [1, 2, 3, 4, 5]})
    spec = {"kind": "top", "counts": [1, 2], "queries": ["p", "q"], "controls": 2, "seed": 1}
    found = {c.group: c.left_out for c in plan_copies(spec, KEYS, {"influence": folder})}
    assert found[top_name("", "p", "helpful", 2)] == (0, 2) and found[top_name("", "q", "helpful", 1)] == (3,)
    assert {g: len(n) for g, n in found.items() if g.startswith("random")} == {f"random|{c}|{k}": c for c in (1, 2) for k in (0, 1)}
    harmful = plan_copies(spec | {"end": "harmful", "methods": ["bm25"], "queries": ["p"]}, KEYS, {"influence": folder})
    assert harmful[2].left_out == (0, 1) and harmful[0].left_out == ()
    mean = plan_copies(spec | {"queries": []}, KEYS, {"influence": folder})
    assert mean[1].left_out == (3,)  # mean over queries: 2.5, .5, 2, 5.5, 5.5, ties by place
    assert weights_of(mean[:2], 5).tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]]


@pytest.mark.parametrize(
    ("subsets", "error", "match"),
    [
        ({"kind": "halves"}, StudyError, "Did you mean 'half'"),
        ({"kind": "half", "n": 0}, StudyError, "n of at least 1"),
        ({"kind": "half", "fraction": 1.0}, StudyError, "fraction that leaves some"),
        ({"kind": "groups", "by": "grup"}, StudyError, "Did you mean 'group'"),
        ({"kind": "groups", "by": "group"}, DataError, "input examples:a"),
        ({"kind": "groups", "by": "source", "groups": ["c"]}, DataError, "no example of c. Known: a, b"),
        ({"kind": "top", "counts": []}, StudyError, "counts from 1 to 4"),
        ({"kind": "top", "counts": [5]}, StudyError, "counts from 1 to 4"),
        ({"kind": "top", "counts": [1], "end": "best"}, StudyError, "end 'best'"),
        ({"kind": "top", "counts": [1]}, DataError, "input influence"),
    ],
)
def test_refuses_subsets_that_mean_nothing(subsets, error, match):
    with pytest.raises(error, match=match):
        plan_copies(subsets, KEYS, {"order": None})


def test_refuses_what_it_cannot_train(world, tmp_path):
    _, inputs, write = world
    inputs = inputs | {"order": write("order-refused")}
    with pytest.raises(StudyError, match="found hf and fp32"):
        retrain(SPEC | {"model": {"kind": "hf"}}, inputs, tmp_path / "a", QUIET)
    with pytest.raises(StudyError, match="found tiny and bf16"):
        retrain(SPEC | {"train": SPEC["train"] | {"dtype": "bf16"}}, inputs, tmp_path / "b", QUIET)
    with pytest.raises(DataError, match="found none"):
        retrain(SPEC, {k: v for k, v in inputs.items() if not k.startswith("queries")}, tmp_path / "c", QUIET)
    with pytest.raises(DataError, match="distinct names"):
        retrain(SPEC, inputs | {"queries:more": inputs["queries:asked"]}, tmp_path / "d", QUIET)
    with pytest.raises(StudyError, match="reduce sum or mean"):
        retrain(SPEC | {"reduce": "max"}, inputs, tmp_path / "e", QUIET)
    with pytest.raises(BackendError, match="finite weights"):
        retrain(SPEC | {"train": {"lr": 1e30}}, inputs, tmp_path / "f", QUIET)
    with pytest.raises(DataError, match="leaves out all"):
        retrain(spec_with(kind="groups", by="source"), inputs, tmp_path / "g", QUIET)
