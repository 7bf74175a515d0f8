"""The references: dense curvature against finite differences and loops, and matrix-free solutions against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leaven.attribution import exact, reference
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import query_gradients, single_queries
from leaven.errors import BackendError


@pytest.fixture(scope="module")
def small(make_model, make_texts):
    """Return a lightly trained model, its texts, and query gradients."""
    texts = make_texts(24)
    tracked = Tracked(make_model(texts, steps=40), "linear")
    return tracked, texts, query_gradients(tracked, single_queries(make_texts(3, seed=4)))


def test_gauss_newton_is_the_sum_of_weighted_softmax_curvatures(small):
    tracked, texts, _ = small
    theta, step = exact.parameters(tracked), 1e-3
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(len(theta), generator=draw) for _ in range(2))
    x, y = x / x.norm(), y / y.norm()
    wanted = 0.0
    for text in texts:
        weights = text.token_weights()
        learned = np.flatnonzero(weights)
        with exact._plain(tracked):
            at = [exact._logits(tracked, text, theta + s * d).detach()[learned - 1] for d in (x, y) for s in (step, -step)]
            p = exact._logits(tracked, text, theta).detach()[learned - 1].softmax(-1).double()
        u, v = ((at[k] - at[k + 1]).double() / (2 * step) for k in (0, 2))
        each = (p * u * v).sum(1) - (p * u).sum(1) * (p * v).sum(1)
        wanted += float((each * torch.from_numpy(weights[learned])).sum())
    matrix = exact.curvature(tracked, texts)
    assert float(x @ matrix @ y) == pytest.approx(wanted / len(texts), rel=0.02, abs=1e-4)
    assert torch.equal(matrix, matrix.t())
    assert float(torch.linalg.eigvalsh(matrix.double()).min()) > -1e-4 * float(matrix.diagonal().max())


def test_matrix_free_solution_is_the_dense_one(small):
    tracked, texts, gradients = small
    factors = fit_factors(tracked, texts)
    damping = factors.damping(Damping("relative", 1.0))
    found = reference.solve(tracked, texts, gradients, factors, damping, residual=1e-5)
    added = {n: torch.full(tracked.shape(n), damping[n]) for n in tracked.names()}
    matrix = exact.curvature(tracked, texts) + exact.flatten(tracked, added).diag()
    wanted = torch.linalg.solve(matrix.double(), exact.flatten(tracked, gradients).double().t()).t()
    x = exact.flatten(tracked, found.vectors)
    assert x.dtype == torch.float64 and (found.residual <= 1e-5).all()
    torch.testing.assert_close(x, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    with pytest.raises(BackendError, match="most_passes"):
        reference.solve(tracked, texts, gradients, factors, damping, residual=1e-6, most_passes=2)
