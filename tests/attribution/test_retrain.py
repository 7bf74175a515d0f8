"""Retrained copies: equal to the ordinary loop with weight 0, the same subsets for every seed, resumed where stopped."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from leaven.attribution.retrain import retrain
from leaven.core.rng import rng
from leaven.core.step import Resources, StepContext
from leaven.core.tables import LENGTHS, ORDER, RETRAINED, SUBSETS, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.data.packing import pack_steps
from leaven.data.tokenise import load_tokens, tokenise
from leaven.data.tokenizer import train_tokenizer
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
