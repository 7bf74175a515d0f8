"""EK-FAC against explicit per-example gradients and explicit Kronecker matrices; layout and label draws change
nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from leaven.attribution import exact
from leaven.attribution.factors import Damping, Factors, fit_factors
from leaven.attribution.passes import Tracked
from leaven.attribution.texts import label_draws, make_batches
from leaven.errors import BackendError, DataError, StudyError


def text_gradients(tracked, texts, **layout):
    """Return [N,P] from a and g."""
    found = torch.zeros(len(texts), len(exact.parameters(tracked)))
    for batch in make_batches(texts, 32, **layout):
        seen = tracked.backward(batch)
        found[batch.numbers] = exact.flatten(tracked, {n: seen.text_gradients(n) for n in tracked.names()})
    return found


@pytest.mark.parametrize("modules", ["mlp", "linear", "linear+head"])
@pytest.mark.parametrize("layout", [{}, {"batch_tokens": 20}, {"pack_tokens": 21}])
def test_text_gradients_equal_one_backward_pass_per_text(make_model, make_texts, modules, layout):
    texts = [dataclasses.replace(t, weight=1 + 0.5 * k) for k, t in enumerate(make_texts(9))]
    tracked = Tracked(make_model(), modules)
    torch.testing.assert_close(
        text_gradients(tracked, texts, **layout), exact.gradients(tracked, texts), rtol=2e-4, atol=2e-5
    )


def explicit_factors(tracked, texts):
    """EK-FAC with the empirical Fisher from explicit loops over texts and positions, in fp64."""
    sums, per_text = {}, exact.unflatten(tracked, exact.gradients(tracked, texts).double())
    for text in texts:
        (batch,) = make_batches([text], 32)
        seen = tracked.backward(batch)
        for name in tracked.names():
            for a, g in zip(
                seen.with_loss(seen.inputs[name]).double(), seen.with_loss(seen.grads[name]).double(), strict=True
            ):
                for side, x in (("in", a), ("out", g)):
                    sums[name, side] = sums.get((name, side), 0) + torch.outer(x, x)
    blocks = {}
    for name in tracked.names():
        q_in, q_out = torch.linalg.eigh(sums[name, "in"])[1], torch.linalg.eigh(sums[name, "out"])[1]
        blocks[name] = q_out, q_in, torch.stack([(q_out.t() @ g @ q_in) ** 2 for g in per_text[name]]).mean(0)
    return blocks


def test_inverse_equals_explicit_kronecker_matrices(tracked, make_texts):
    texts = make_texts(12)
    factors = fit_factors(tracked, texts, fisher="empirical", batch_tokens=30)
    damping = factors.damping(Damping("relative", 0.1))
    vectors = exact.unflatten(tracked, exact.gradients(tracked, make_texts(3, seed=5)))
    found = factors.precondition(vectors, damping)
    for name, (q_out, q_in, eigenvalues) in explicit_factors(tracked, texts).items():
        added = 0.1 * float(eigenvalues.mean())
        assert damping[name] == pytest.approx(added, rel=1e-4)
        basis = torch.kron(q_out, q_in)  # rows of V one after the other: vec(Q_S V Q_A^T) = kron(Q_S, Q_A) vec(V)
        inverse = basis @ torch.diag(1 / (eigenvalues.flatten() + added)) @ basis.t()
        wanted = (vectors[name].double().flatten(1) @ inverse).view_as(vectors[name])
        torch.testing.assert_close(found[name].double(), wanted, rtol=2e-2, atol=2e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("rotate", ["tokens", "gradients"])
def test_both_orders_of_rotation_give_the_same_eigenvalues(make_model, make_texts, rotate):
    # long texts rotate gradients, short ones tokens; one position of loss or many, the definition is the same
    texts = make_texts(6, longest=9 if rotate == "tokens" else 30)
    tracked = Tracked(make_model(), "mlp")
    factors = fit_factors(tracked, texts, fisher="empirical")
    gradients = exact.unflatten(tracked, exact.gradients(tracked, texts))
    for name, block in factors.blocks.items():
        wanted = torch.stack([block.rotate(g) ** 2 for g in gradients[name]]).mean(0)
        torch.testing.assert_close(block.eigenvalues, wanted, rtol=1e-3, atol=1e-6 * float(wanted.max()))
        torch.testing.assert_close(block.q_in.t() @ block.q_in, torch.eye(len(block.q_in)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fisher", ["true", "empirical"])
def test_layout_and_batch_size_change_nothing(tracked, make_texts, fisher):
    texts = make_texts(10)
    vectors = exact.unflatten(tracked, exact.gradients(tracked, make_texts(1, seed=3))[0])
    results = []
    for layout in ({}, {"batch_tokens": 12}, {"pack_tokens": 25}):
        factors = fit_factors(tracked, texts, fisher=fisher, seed=3, **layout)
        results.append(exact.flatten(tracked, factors.precondition(vectors, factors.damping(Damping()))))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=5e-3, atol=2e-4 * float(results[0].abs().max()))


def test_tokens_without_loss_contribute_nothing(tracked, make_texts):
    texts = make_texts(8)
    longer = [
        dataclasses.replace(
            t, ids=np.append(t.ids, [3, 5, 7]), learn=np.append(t.learn, [0, 0, 0]).astype(np.float32), segment=None
        )
        for t in texts
    ]
    one, two = (fit_factors(tracked, t, fisher="empirical") for t in (texts, longer))
    for name in tracked.names():
        torch.testing.assert_close(one.blocks[name].eigenvalues, two.blocks[name].eigenvalues, rtol=1e-3, atol=1e-6)


def test_covariances_hold_positions_with_loss_only(make_model, make_texts):
    tracked = Tracked(make_model(), "linear")
    text = make_texts(1, longest=9)[0]
    learn = np.zeros(len(text.ids), np.float32)
    learn[-1] = 1
    factors = fit_factors(tracked, [dataclasses.replace(text, learn=learn)], fisher="empirical")
    (batch,) = make_batches([dataclasses.replace(text, learn=learn)], 32)
    name = "layers.0.gate"
    a = tracked.backward(batch).inputs[name][
        len(text.ids) - 2
    ]  # one position: A has rank 1 and its top eigenvector is that input
    assert abs(float(factors.blocks[name].q_in[:, -1] @ a) / float(a.norm())) == pytest.approx(1, abs=1e-4)


def test_sampled_labels_repeat_have_mean_zero_gradient_and_approach_the_exact_gauss_newton_diagonal(
    make_model, make_texts
):
    tracked = Tracked(make_model(), "mlp", layers=[1])
    text = make_texts(1, seed=2)[0]
    copies = [dataclasses.replace(text, example=f"c{k}") for k in range(600)]
    (batch,) = make_batches(copies, 32, batch_tokens=1 << 20)
    draws = label_draws(copies, batch, 0)
    assert torch.equal(draws, label_draws(copies, batch, 0)) and not torch.equal(draws, label_draws(copies, batch, 1))
    seen = tracked.backward(batch, draws)
    gradients = exact.flatten(tracked, {n: seen.text_gradients(n) for n in tracked.names()})
    error = gradients.std(0) / len(copies) ** 0.5
    assert float((gradients.mean(0).abs() < 4 * error + 1e-6).float().mean()) > 0.99
    wanted = exact.curvature(tracked, [text], "ggn").diagonal()
    assert float(gradients.square().mean(0).sum()) == pytest.approx(float(wanted.sum()), rel=0.15)
    assert float(torch.corrcoef(torch.stack([gradients.square().mean(0), wanted]))[0, 1]) > 0.95


def test_exact_when_the_curvature_is_a_kronecker_product(make_model, make_texts):
    # one text with one position of loss: G = g a^T, so the empirical block is (a a^T) x (g g^T) exactly
    tracked = Tracked(make_model(), "mlp", layers=[1])
    text = make_texts(1)[0]
    learn = np.zeros(len(text.ids), np.float32)
    learn[-1] = 1
    text = dataclasses.replace(text, learn=learn)
    factors = fit_factors(tracked, [text], fisher="empirical")
    gradient = exact.gradients(tracked, [text])[0]
    damping = factors.damping(Damping("constant", 0.05))
    found = exact.flatten(tracked, factors.precondition(exact.unflatten(tracked, gradient), damping))
    blocks = exact.layer_blocks(tracked, torch.outer(gradient, gradient)).double()
    wanted = torch.linalg.solve(blocks + 0.05 * torch.eye(len(blocks)), gradient.double())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_damping_limits(tracked, make_texts):
    factors = fit_factors(tracked, make_texts(8))
    vectors = exact.unflatten(tracked, exact.gradients(tracked, make_texts(1, seed=9))[0])
    huge = factors.precondition(vectors, factors.damping(Damping("constant", 1e9)))
    for name in tracked.names():
        torch.testing.assert_close(huge[name] * 1e9, vectors[name], rtol=1e-3, atol=1e-4)
    tiny = factors.precondition(vectors, factors.damping(Damping("constant", 1e-8)))
    assert all(torch.isfinite(v).all() for v in tiny.values())
    for rule, value in (("constant", 0.0), ("often", 1.0)):
        with pytest.raises(StudyError, match="damping"):
            Damping(rule, value)


def test_factors_survive_disk(tracked, make_texts, tmp_path):
    factors = fit_factors(tracked, make_texts(4), seed=7)
    factors.save(tmp_path / "factors.safetensors")
    again = Factors.load(tmp_path / "factors.safetensors")
    assert (again.n_texts, again.fisher, again.seed) == (4, "true", 7)
    assert all(torch.equal(again.blocks[n].eigenvalues, b.eigenvalues) for n, b in factors.blocks.items())
    with pytest.raises(DataError, match="expected factors"):
        Factors.load(tmp_path / "none.safetensors")


def test_refusals(make_model, make_texts):
    with pytest.raises(BackendError, match="tied to the embedding"):
        Tracked(make_model(tie=True), "linear+head")
    with pytest.raises(StudyError, match="modules"):
        Tracked(make_model(), "attention")
    text = make_texts(1)[0]
    with pytest.raises(DataError, match="with loss"):
        list(make_batches([dataclasses.replace(text, learn=text.learn * 0)], 32))
    with pytest.raises(DataError, match="at most 3 tokens"):
        list(make_batches([text], 3))


def test_parameters_learn_again_afterwards(make_model, make_texts):
    model = make_model()
    tracked = Tracked(model, "linear")
    fit_factors(tracked, make_texts(3))
    assert all(p.requires_grad for p in model.module.parameters())
