"""Gradient norms: parts add up to the whole, norms are directional derivatives, fused weights are cut where they belong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from leaven.errors import BackendError
from leaven.lm.backend import Row, open_backend
from leaven.probes import attention, divergence, gradients, loss, perplexity, similarity
from leaven.probes.gradients import norm, part_gradients, projections
from leaven.probes.held_out import RESPONSE, show


def test_thought_code_and_template_add_up_to_the_response(toy, kind):
    backend = open_backend(toy.model(kind))
    shown = show(toy.examples[:1], "thought_code", toy.tokenizer, 256)[0][0]
    parts = [part_gradients(backend, shown, p) for p in ("thought", "code", "template")]
    whole = part_gradients(backend, shown, RESPONSE)
    assert sorted(whole) == [(layer, p) for layer in (0, 1) for p in "koqv"]
    for key, gradient in whole.items():
        torch.testing.assert_close(sum(p[key] for p in parts), gradient, atol=1e-3, rtol=1e-3)


def test_the_norm_is_the_slope_along_the_gradient(toy):
    """Numeric check: moving a weight along its own gradient changes the part's loss at the rate of the norm."""
    pytest.importorskip("transformers")
    backend = open_backend(toy.model("llama"))
    backend.model.module.double()
    shown = show(toy.examples[:1], "thought_code", toy.tokenizer, 256)[0][0]

    def part_loss(part):
        nats = -backend.token_logprobs([shown.ids])[0]
        return float(nats[shown.learned(part)[1:]].sum(dtype=np.float64))

    for part in ("thought", "code"):
        found = part_gradients(backend, shown, part)
        for (layer, module), name in {(0, "q"): "q_proj", (1, "k"): "k_proj", (0, "v"): "v_proj", (1, "o"): "o_proj"}.items():
            weight = getattr(backend.model.module.model.layers[layer].self_attn, name).weight
            size, step = norm(found[layer, module]), 1e-3
            direction = found[layer, module] / size
            with torch.no_grad():
                kept = weight.clone()
                weight.copy_(kept + step * direction)
                up = part_loss(part)
                weight.copy_(kept - step * direction)
                slope = (up - part_loss(part)) / (2 * step)
                weight.copy_(kept)
            assert slope == pytest.approx(size, rel=2e-2)


def test_rows_are_norms_of_mean_losses_and_of_all_examples_together(measure, toy, kind):
    folder = toy.model(kind)
    mean, total = (measure(gradients.measure, {"model": folder}, limit=2, reduce=r) for r in ("mean", "sum"))
    backend = open_backend(folder)
    shown = show(toy.examples[:2], "thought_code", toy.tokenizer, 256)[0]
    found = [part_gradients(backend, s, "code") for s in shown]
    tokens = [int(s.learned("code").sum()) for s in shown]

    def row(values, example, name, other=""):
        at = (pl.col("example") == example) & (pl.col("part") == "code") & (pl.col("layer") == 1)
        return values.filter(at & (pl.col("name") == name) & (pl.col("other") == other))["value"][0]

    for name in "qkvo":
        key = (1, name)
        assert row(total, "p00", name) == pytest.approx(norm(found[0][key]), rel=1e-5)
        assert row(mean, "p00", name) == pytest.approx(norm(found[0][key]) / tokens[0], rel=1e-5)
        assert row(mean, "", name) == pytest.approx(norm(found[0][key] + found[1][key]) / sum(tokens), rel=1e-4)
    cosines = mean.filter((pl.col("name") == "q_cosine") & (pl.col("example") != ""))
    assert set(cosines.select("part", "other").iter_rows()) == {("thought", "code")} and cosines["value"].abs().max() <= 1


def test_a_fused_weight_is_cut_into_its_three_projections(toy):
    pytest.importorskip("transformers")
    backend = open_backend(toy.model("gpt2"))
    shown = show(toy.examples[:1], "thought_code", toy.tokenizer, 256)[0][0]
    named = backend.gradients([Row(shown.ids, shown.learn)])
    fused, cut = named["transformer.h.1.attn.c_attn.weight"], projections(named)
    torch.testing.assert_close(torch.cat([cut[1, p] for p in "qkv"], 1), fused)
    assert torch.equal(cut[1, "o"], named["transformer.h.1.attn.c_proj.weight"])
    with pytest.raises(BackendError, match="layers.0.attention.wqkv"):
        projections({"layers.0.attention.wqkv.weight": fused})


@pytest.mark.parametrize("probe", [perplexity, loss, divergence, attention, gradients, similarity])
def test_both_backends_see_the_same_in_one_folder(measure, toy, tmp_path, probe):
    """A folder of the embedded model is a Llama folder: transformers must give every probe's values."""
    pytest.importorskip("transformers")
    folders = {}
    for seed, name in ((0, "model"), (1, "base")):
        folders[name] = tmp_path / name
        shutil.copytree(toy.model("tiny", seed), folders[name])
        config = json.loads((folders[name] / "config.json").read_text())
        del config["leaven"]
        (folders[name] / "config.json").write_text(json.dumps(config))
    ours = measure(probe.measure, {"model": toy.model("tiny", 0), "base": toy.model("tiny", 1)}, limit=2)
    theirs = measure(probe.measure, folders, limit=2, out="hf")
    keys = ["example", "part", "other", "layer", "name"]
    assert ours.select(*keys, "n_tokens").equals(theirs.select(*keys, "n_tokens"))
    assert np.allclose(ours["value"], theirs["value"], rtol=2e-3, atol=2e-4)
