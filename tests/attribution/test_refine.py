"""Matrix-free products and solvers against dense matrices; the guard never returns a larger residual than
EK-FAC's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from leaven.attribution import exact, refine
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.refine import Refinement
from leaven.attribution.texts import make_batches
from leaven.errors import StudyError


@pytest.fixture(scope="module")
def problem(make_model, make_texts):
    """Return a trained model, texts, query gradients, factors, damping 1 x mean eigenvalue, and the dense matrix."""
    texts, queries = make_texts(96, prompts=False), make_texts(6, seed=4, prompts=False)
    tracked = Tracked(make_model(texts, steps=100), "linear")
    factors = fit_factors(tracked, texts)
    damping = factors.damping(Damping("relative", 1.0))
    ggn = exact.curvature(tracked, texts)
    return tracked, texts, query_gradients(tracked, single_queries(queries)), factors, damping, ggn


def matrix(tracked, ggn, damping):
    added = {n: torch.full(tracked.shape(n), damping[n]) for n in tracked.names()}
    return ggn + exact.flatten(tracked, added).diag()


def agreement(problem, vectors):
    """Mean Spearman over queries with exact full damped Gauss-Newton scores."""
    tracked, texts, gradients, _, damping, ggn = problem
    g_n = exact.gradients(tracked, texts)
    wanted = exact.exact_scores(tracked, ggn, damping, exact.flatten(tracked, gradients), g_n)
    found = exact.flatten(tracked, vectors) @ g_n.t()
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(found, wanted, strict=True)]))


@pytest.mark.parametrize("layout", [{}, {"pack_tokens": 30}, {"batch_tokens": 25}])
def test_products_equal_the_dense_matrix(make_model, make_texts, layout):
    texts = make_texts(6)
    tracked = Tracked(make_model(), "linear+head")
    x = torch.randn(3, len(exact.parameters(tracked)), generator=torch.Generator().manual_seed(0))
    total = sum(
        exact.flatten(tracked, tracked.gauss_newton(b, exact.unflatten(tracked, x)))
        for b in make_batches(texts, 32, **layout)
    )
    wanted = x @ exact.curvature(tracked, texts) * len(texts)
    torch.testing.assert_close(total, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_krylov_reaches_the_full_matrix_in_four_passes(problem):
    tracked, texts, gradients, factors, damping, _ = problem
    before = agreement(problem, factors.precondition(gradients, damping))
    after = refine.refine(tracked, texts, gradients, factors, damping, Refinement(passes=4))
    assert agreement(problem, after.vectors) >= 0.9 > before + 0.1
    assert (after.residual < 1).all() and (after.kept == 1).all()
    assert after.passes == pytest.approx(4 + 2 * 64 / 96)


def test_krylov_converges_to_the_dense_solution(problem):
    tracked, texts, gradients, factors, damping, ggn = problem
    wanted = torch.linalg.solve(
        matrix(tracked, ggn, damping).double(), exact.flatten(tracked, gradients).double().t()
    ).t()
    one = {n: g[:1] for n, g in gradients.items()}  # a single query: preconditioned conjugate gradients
    for vectors, rows in ((gradients, slice(None)), (one, slice(0, 1))):
        found = refine.refine(tracked, texts, vectors, factors, damping, Refinement(passes=16))
        error = (exact.flatten(tracked, found.vectors).double() - wanted[rows]).norm(dim=1) / wanted[rows].norm(dim=1)
        assert float(error.max()) < 0.05


def test_stochastic_steps_improve_and_repeat(problem):
    tracked, texts, gradients, factors, damping, _ = problem
    one = {n: g[:2] for n, g in gradients.items()}
    small = (tracked, texts, one, *problem[3:])
    how = Refinement("stochastic", steps=48, batch_texts=16)
    found = refine.refine(tracked, texts, one, factors, damping, how)
    assert agreement(small, found.vectors) > agreement(small, factors.precondition(one, damping)) + 0.1
    assert (found.residual < 1).all()
    again = refine.refine(tracked, texts, one, factors, damping, how)
    assert all(torch.equal(found.vectors[n], again.vectors[n]) for n in found.vectors)


@pytest.mark.parametrize("spoil", [0.0, -3.0, 100.0, float("nan")])
def test_guard_never_returns_more_than_the_first_residual(problem, monkeypatch, spoil):
    tracked, texts, gradients, factors, damping, _ = problem
    monkeypatch.setattr(refine, "_krylov", lambda system, right, start, passes: start * spoil)
    found = refine.refine(tracked, texts, gradients, factors, damping, Refinement())
    assert (found.residual <= 1 + 1e-5).all()
    system = refine._System(tracked, texts, factors, damping, 4096, refine.StepContext())
    right = system.flat(gradients)
    draw = refine.rng(0, "refine-guard").permutation(len(texts))[:64].tolist()
    norms = [
        system.norm(system.apply(x, draw) - right) for x in (system.flat(found.vectors), system.precondition(right))
    ]
    assert bool((norms[0] <= norms[1] * (1 + 1e-4)).all())


def test_refuses_nothing_to_do():
    with pytest.raises(StudyError, match="krylov or stochastic"):
        Refinement("newton")
    with pytest.raises(StudyError, match="at least 1"):
        Refinement(passes=0)
