"""Attention: the embedded model's weights against transformers', region masses against loops, resizing against torch."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from leaven.core.tables import PROBE_GRID, read_table
from leaven.core.types import Generate
from leaven.data.formats import question_prompt
from leaven.errors import BackendError
from leaven.lm.backend import open_backend
from leaven.probes import attention
from leaven.probes.attention import bilinear_weights, region_mass, resize, uniform_attention
from leaven.probes.held_out import show


def test_rows_sum_to_1_and_nobody_looks_ahead(measure, toy, kind, tmp_path):
    values = measure(attention.measure, {"model": toy.model(kind)}, layers="all", grid=8)
    mass = values.filter(pl.col("name") == "mass")
    sums = mass.group_by("example", "layer", "part").agg(pl.col("value").sum())["value"]
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5) and sorted(mass["layer"].unique()) == [0, 1]
    ahead = mass.filter((pl.col("part") == "thought") & (pl.col("other") == "code"))["value"]
    back = mass.filter((pl.col("part") == "code") & (pl.col("other") == "thought"))["value"]
    assert ahead.max() == 0 and back.min() > 0
    grid = read_table(tmp_path / "out" / "grid.parquet", PROBE_GRID)
    assert grid.height == 2 * 8 * 8 and set(grid["n"]) == {12}
    rows = grid.group_by("layer", "row").agg(pl.col("value").sum())["value"]
    assert rows.min() > 0 and grid.filter(pl.col("col") > pl.col("row") + 1)["value"].max() == pytest.approx(0, abs=1e-6)


def test_equals_explicit_loops(measure, toy):
    values = measure(attention.measure, limit=1)
    shown = show(toy.examples[:1], "thought_code", toy.tokenizer, 256)[0][0]
    share = open_backend(toy.model()).attention(shown.ids, [-1])[0].mean(0).numpy()
    for a in shown.parts:
        for b in shown.parts:
            who, whom = np.flatnonzero(shown.tokens(a)), np.flatnonzero(shown.tokens(b))
            wanted = np.mean([sum(share[i, j] for j in whom) for i in who])
            alike = np.mean([sum(1 / (i + 1) for j in whom if j <= i) for i in who])
            for name, value in (("mass", wanted), ("uniform", alike)):
                found = values.filter((pl.col("part") == a) & (pl.col("other") == b) & (pl.col("name") == name))
                assert found["value"][0] == pytest.approx(value, abs=1e-6)
    sink = values.filter((pl.col("part") == "code") & (pl.col("name") == "sink"))["value"][0]
    assert sink == pytest.approx(share[shown.tokens("code"), 0].mean(), abs=1e-6)


@pytest.mark.parametrize("layers", [[0], [1, 0], [-1]])
def test_the_embedded_model_looks_as_transformers_says(toy, layers):
    transformers = pytest.importorskip("transformers")
    folder = toy.model()
    ids = np.arange(2, 40)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    wanted = theirs(torch.from_numpy(ids)[None], output_attentions=True).attentions
    found = open_backend(folder).attention(ids, layers)
    for i, layer in enumerate(layers):
        torch.testing.assert_close(found[i], wanted[layer][0], atol=1e-5, rtol=1e-4)


def test_looking_changes_nothing(toy, kind):
    backend = open_backend(toy.model(kind))
    requests = [Generate(prompt=question_prompt(e.question), max_new_tokens=6) for e in toy.examples[:3]]
    before = backend.generate(requests, 0)
    backend.attention(np.arange(9), [0])
    assert backend.generate(requests, 0) == before
    with pytest.raises(BackendError, match="between -2 and 1, found 2"):
        backend.attention(np.arange(9), [2])


@pytest.mark.parametrize(("size", "cells"), [(5, 5), (7, 3), (64, 8), (100, 32), (3, 8)])
def test_resizing_is_torchs_antialiased_bilinear_and_keeps_constants(size, cells):
    torch.manual_seed(0)
    matrices = torch.rand(2, size, size, dtype=torch.float64)
    wanted = torch.nn.functional.interpolate(matrices[None], (cells, cells), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(resize(matrices, cells), wanted, atol=1e-9, rtol=1e-9)
    constant = torch.full((1, size, size), 0.37, dtype=torch.float64)
    torch.testing.assert_close(resize(constant, cells), torch.full((1, cells, cells), 0.37, dtype=torch.float64))
    assert bool((bilinear_weights(size, cells).sum(0) > 0).all())  # every token counts


def test_region_mass_by_hand():
    share = np.array([[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.2, 0.3]])
    assert region_mass(share, np.array([0, 1, 1]), 2) == pytest.approx(np.array([[1, 0], [0.375, 0.625]]))
    assert uniform_attention(3) == pytest.approx(np.array([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]))
