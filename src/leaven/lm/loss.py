"""Hidden states of target tokens + head -> weighted cross-entropy, without ever holding all logits.

The value is sum_m weight_m x (-log p(target_m)); callers pass weights that already sum to a micro-batch's share of 1. The fast form
computes gradients in the forward pass, chunk by chunk, so logits [M,V] exist for at most `chunk` targets.
Not covered: soft targets, second derivatives (`kernels="plain"` gives those).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_NUMBERS = 1 << 20
"""Logits held at once: 4 MB in fp32, about one core's L2."""


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
        targets, vocab = hidden_MD.shape[0], head_VD.shape[0]
        chunk = max(64, CHUNK_NUMBERS // vocab)
        grad_hidden = torch.empty_like(hidden_MD)
        grad_head = torch.zeros_like(head_VD, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_MD.device)
        for begin in range(0, targets, chunk):
            part = slice(begin, begin + chunk)
            hidden, target, weight = hidden_MD[part], targets_M[part].unsqueeze(1), weights_M[part].unsqueeze(1)
            logp = torch.log_softmax(hidden @ head_VD.t(), -1, dtype=torch.float32)
            loss -= logp.gather(1, target).mul_(weight).sum()
            grad = logp.exp_().mul_(weight).scatter_add_(1, target, -weight).to(hidden.dtype)
            torch.mm(grad, head_VD, out=grad_hidden[part])
            if grad_head.dtype == grad.dtype:
                grad_head.addmm_(grad.t(), hidden)
            else:
                grad_head += grad.t() @ hidden
        ctx.save_for_backward(grad_hidden, grad_head.to(head_VD.dtype))
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        if float(grad) != 1.0:
            grad_hidden, grad_head = grad_hidden * grad, grad_head * grad
        return grad_hidden, grad_head, None, None


def weighted_loss(
    hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, weights_M: Tensor, kernels: str = "fast"
) -> Tensor:
    """Return sum_m weights_m x cross-entropy_m as an fp32 scalar."""
    if kernels == "fast":
        return _ChunkedLoss.apply(hidden_MD, head_VD, targets_M, weights_M)
    losses = F.cross_entropy(F.linear(hidden_MD, head_VD).float(), targets_M, reduction="none")
    return (losses * weights_M).sum()


def target_logprobs(hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor) -> Tensor:
    """Return log p(target_m) in nats, fp32 [M], chunk by chunk."""
    chunk = max(64, CHUNK_NUMBERS // head_VD.shape[0])
    pieces = [
        torch.log_softmax(F.linear(hidden_MD[i : i + chunk], head_VD).float(), -1).gather(
            1, targets_M[i : i + chunk, None]
        )[:, 0]
        for i in range(0, hidden_MD.shape[0], chunk)
    ]
    return torch.cat(pieces) if pieces else hidden_MD.new_zeros(0, dtype=torch.float32)
