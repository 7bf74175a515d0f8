"""The chunked loss against torch's own cross-entropy: values, gradients, extreme logits, several chunks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from leaven.lm import loss


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("numbers", [1 << 23, 60])
def test_equals_cross_entropy(monkeypatch, scale, numbers):
    monkeypatch.setattr(loss, "CHUNK_NUMBERS", numbers)
    monkeypatch.setattr(loss, "CACHE_NUMBERS", max(1, numbers // 2))
    draw = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(s, generator=draw, dtype=torch.float32) for s in ((23, 8), (11, 8)))
    hidden = (hidden * scale).requires_grad_()
    head.requires_grad_()
    targets = torch.randint(11, (23,), generator=draw)
    weights = torch.rand(23, generator=draw)
    expected = (F.cross_entropy(hidden @ head.t(), targets, reduction="none") * weights).sum()
    found = loss.weighted_loss(hidden, head, targets, weights)
    assert torch.isfinite(found) and torch.allclose(found, expected, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(2 * found, (hidden, head)), torch.autograd.grad(2 * expected, (hidden, head)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4 * scale, rtol=1e-4)
    logprobs = loss.target_logprobs(hidden.detach(), head.detach(), targets)
    assert torch.allclose(-(logprobs * weights).sum(), expected.detach(), rtol=1e-5)
