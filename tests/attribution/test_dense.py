"""Fast products, Gram matrices and eigenvectors against plain ones; a model with weights laid out against the model itself;
stores filled with either are equal, killed or not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from leaven.attribution import dense, steady
from leaven.attribution.coding import Coding
from leaven.attribution.dense import Constant, add_gram, eigenvectors
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.filling import fill
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.store import Identity, Store
from leaven.attribution.texts import label_draws, make_batches
from leaven.core.step import StepContext
from leaven.errors import Interrupted

MAKE = torch.Generator().manual_seed(0)
WIDE = {"width": 128, "ffn": 192, "layers": 2}
"""Wide enough for the fast routines, narrow enough for a test."""


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=MAKE)


@pytest.mark.parametrize("shape", [(5, 7), (200, 130), (128, 300)])
@pytest.mark.parametrize("rows", [(1,), (33,), (3, 50)])
def test_products_with_a_constant_are_products(shape, rows):
    matrix = drawn(*shape)
    for x in (drawn(*rows, shape[0]), drawn(shape[0], *rows).movedim(0, -1)):  # the second has other strides
        torch.testing.assert_close(Constant(matrix).after(x), x @ matrix, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Constant(matrix.t().contiguous().t()).after(x), x @ matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [20, 128, 300])
def test_gram_matrices_are_summed_in_the_upper_triangle(dtype, columns):
    total, wanted = torch.zeros(columns, columns), torch.zeros(columns, columns, dtype=torch.float64)
    for rows in (1, 64, 17):
        x = drawn(rows, columns).to(dtype)
        add_gram(total, x)
        wanted += x.double().t() @ x.double()
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(total.double().triu(), wanted.triu(), rtol=tolerance / 10, atol=tolerance)
    with_stride = drawn(50, 2 * columns)[:, ::2]
    total.zero_()
    add_gram(total, with_stride)
    torch.testing.assert_close(total.triu(), (with_stride.t() @ with_stride).triu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["full", "rank", "clusters", "zero", "steep"])
def test_eigenvectors_rebuild_the_matrix(case):
    n = 520
    spectrum = {
        "full": torch.rand(n, generator=MAKE),
        "rank": torch.cat([torch.rand(40, generator=MAKE), torch.zeros(n - 40)]),
        "clusters": torch.tensor([1.0, 2.0, 2.0, 2.0]).repeat(n // 4),
        "zero": torch.zeros(n),
        "steep": torch.logspace(-12, 0, n),
    }[case]
    basis = torch.linalg.qr(drawn(n, n).double())[0]
    whole = ((basis * spectrum.double()) @ basis.t()).float()
    upper = whole.triu() + torch.full((n, n), float("nan")).tril(-1)  # nothing below the diagonal is read
    values, vectors = eigenvectors(upper)
    assert bool((values[1:] >= values[:-1]).all())
    torch.testing.assert_close(vectors.t() @ vectors, torch.eye(n), rtol=0, atol=2e-5)
    torch.testing.assert_close((vectors * values) @ vectors.t(), whole, rtol=0, atol=3e-6 * float(spectrum.max().clamp(min=1e-9)) * 10)


def test_large_matrices_get_eigenvectors_of_double_precision(monkeypatch):
    monkeypatch.setattr(dense, "_MOST_SINGLE", 519)
    spectrum, basis = torch.logspace(-6, 0, 520, dtype=torch.float64), torch.linalg.qr(drawn(520, 520).double())[0]
    whole = ((basis * spectrum) @ basis.t()).float()
    values, vectors = eigenvectors(whole)
    exact = torch.linalg.eigvalsh(whole.double())
    assert vectors.dtype == values.dtype == torch.float32
    torch.testing.assert_close(values.double(), exact, rtol=1e-6, atol=1e-12)  # fp32 leaves 1e-7 of the largest: all of the smallest
    kept = vectors.double()
    torch.testing.assert_close((kept * values.double()) @ kept.t(), whole.double(), rtol=0, atol=2e-7)


def test_eigenvectors_that_are_not_orthonormal_are_found_another_way(monkeypatch):
    x = drawn(520, 520)
    x = x @ x.t()
    monkeypatch.setattr(dense, "_orthonormal", lambda q: False)
    plain = eigenvectors(x)
    monkeypatch.undo()
    torch.testing.assert_close(eigenvectors(x)[0], plain[0], rtol=1e-4, atol=1e-2)
    q = torch.eye(520)
    assert dense._orthonormal(q)
    q[3] = q[4]
    assert not dense._orthonormal(q) and not dense._orthonormal(q * float("nan"))


@pytest.mark.parametrize("modules", ["mlp", "linear", "linear+head"])
@pytest.mark.parametrize("pack_tokens", [0, 40])
def test_a_steady_model_passes_back_the_same(make_model, make_texts, modules, pack_tokens):
    texts = make_texts(12)  # prompts without loss
    tracked = Tracked(make_model(**WIDE), modules)
    for batch in make_batches(texts, 32, 64, pack_tokens):
        for draws in (None, label_draws(texts, batch, 0)):
            plain = tracked.backward(batch, draws)
            with tracked.steady():
                assert len(tracked._weights) >= 10
                found = tracked.backward(batch, draws)
            torch.testing.assert_close(found.losses, plain.losses, rtol=1e-4, atol=1e-4)
            for name in tracked.names():
                for a, b in ((found.inputs[name], plain.inputs[name]), (found.grads[name], plain.grads[name])):
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
    assert not any("forward" in vars(m) for m in tracked.model.module.modules())


def test_weights_may_change_between_steady_passes(make_model, make_texts):
    texts, tracked = make_texts(4), Tracked(make_model(**WIDE), "mlp")
    (batch,) = make_batches(texts, 32)
    with tracked.steady():
        before = tracked.backward(batch)
    with torch.no_grad():
        for parameter in tracked.model.module.parameters():
            parameter.mul_(0.9)
    with tracked.steady():
        after = tracked.backward(batch)
    assert not torch.allclose(after.losses, before.losses, rtol=1e-3)
    torch.testing.assert_close(after.losses, tracked.backward(batch).losses, rtol=1e-4, atol=1e-4)


def test_large_models_keep_plain_products(make_model, make_texts, monkeypatch):
    monkeypatch.setattr(steady, "MOST_WEIGHTS", 1000)
    tracked = Tracked(make_model(**WIDE), "mlp")
    assert steady.extra_bytes(tracked.model.module, tracked.head_weight) == 0
    with tracked.steady():
        assert not tracked._weights


def filled(folder, tracked, texts, keep_batches=True, stop_after=None):
    """Fill a store, stopping after so many checks each time."""
    store = Store.create(folder, Identity("m", tracked.modules, "fp32", "empirical", 0), Coding(), 4)
    while True:
        calls = []
        ctx = StepContext(stop=lambda calls=calls: calls.append(0) or (stop_after is not None and len(calls) > stop_after))
        try:
            fill(store, tracked, texts, keep_batches=keep_batches, batch_tokens=300, ctx=ctx)
            return store
        except Interrupted:
            store = Store.open(folder)


def test_stores_are_equal_with_and_without_and_after_stops(make_model, make_texts, tmp_path, monkeypatch):
    texts, queries = make_texts(90, longest=24), make_texts(3, seed=4)  # more tokens than directions: one eigenbasis
    texts = [dataclasses.replace(t, weight=1 + 0.1 * k) for k, t in enumerate(texts)]
    tracked = Tracked(make_model(**WIDE), "mlp")
    whole, stopped = filled(tmp_path / "whole", tracked, texts), filled(tmp_path / "stopped", tracked, texts, stop_after=2)
    again = filled(tmp_path / "again", tracked, texts, keep_batches=False)
    for other in (stopped, again):
        assert (other.folder / "rows.bin").read_bytes() == (whole.folder / "rows.bin").read_bytes()
        assert (other.folder / "bases.safetensors").read_bytes() == (whole.folder / "bases.safetensors").read_bytes()
    streamed = fit_factors(tracked, texts, fisher="empirical", batch_tokens=300)
    fast = scored(whole, tracked, queries)
    monkeypatch.setattr(dense, "_SMALL", 10**9)
    monkeypatch.setattr(dense, "packs", lambda x: False)
    monkeypatch.setattr(steady, "packs", lambda x: False)
    plain = scored(filled(tmp_path / "plain", tracked, texts), tracked, queries)
    assert np.abs(fast - plain).max() <= 2e-2 * np.abs(plain).max()  # rows are bf16
    for name, block in streamed.blocks.items():
        torch.testing.assert_close(block.eigenvalues, whole.factors().blocks[name].eigenvalues, rtol=1e-4, atol=0)


def scored(store, tracked, queries):
    factors = store.factors()
    turned = query_gradients(tracked, single_queries(queries), bases=store.bases)
    weighted = factors.weigh(turned, factors.damping(Damping()))
    return np.concatenate([block for _, block in store.score(weighted)], 1)
