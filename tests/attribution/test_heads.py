"""Losses and gradients by blocks of positions against autograd over all of them; labels drawn from the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from leaven.attribution import heads
from leaven.attribution.heads import Labels, learn


@pytest.fixture
def case(monkeypatch):
    """Return hidden states, projection, targets and weights that take several blocks."""
    monkeypatch.setattr(heads, "_NUMBERS", 10)
    monkeypatch.setattr(heads, "_FEWEST_ROWS", 3)
    make = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(10, 6, generator=make) * 3, torch.randn(7, 6, generator=make)
    return hidden, weight, torch.randint(7, (10,), generator=make), torch.rand(10, generator=make)


def by_autograd(hidden, weight, targets, weights):
    hidden = hidden.clone().requires_grad_()
    logits = hidden @ weight.t()
    losses = F.cross_entropy(logits, targets, reduction="none")
    grads = torch.autograd.grad((losses * weights).sum(), [hidden, logits])
    return losses, *grads


def test_given_labels_are_learned_as_by_autograd(case):
    hidden, weight, targets, weights = case
    (found,) = learn(hidden, weight, [Labels(weights, targets=targets)], torch.float32, logits=True)
    for a, b in zip((found.losses, found.hidden, found.logits), by_autograd(*case), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_drawn_labels_follow_the_model_and_leave_the_others_alone(case):
    hidden, weight, targets, weights = case
    probabilities = (hidden @ weight.t()).softmax(-1)
    draws = torch.rand(10, generator=torch.Generator().manual_seed(1))
    wanted = torch.searchsorted(probabilities.cumsum(-1), draws[:, None])[:, 0]
    of_data, drawn = learn(hidden, weight, [Labels(weights, targets=targets), Labels(weights, draws=draws)], torch.float32)
    assert not torch.equal(wanted, targets)
    for found, labels in ((of_data, targets), (drawn, wanted)):
        losses, of_hidden, _ = by_autograd(hidden, weight, labels, weights)
        torch.testing.assert_close(found.losses, losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.hidden, of_hidden, rtol=1e-4, atol=1e-6)


def test_a_target_that_the_model_excludes_has_a_finite_loss():
    hidden, weight = torch.tensor([[200.0]]), torch.tensor([[1.0], [-1.0]])
    (found,) = learn(hidden, weight, [Labels(torch.ones(1), targets=torch.tensor([1]))], torch.float32)
    assert found.losses.item() == pytest.approx(400.0) and torch.isfinite(found.hidden).all()
