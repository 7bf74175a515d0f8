"""Hidden states of target tokens + head -> weighted cross-entropy, without ever holding all logits.

The value is sum_m weight_m x (-log p(target_m)); callers pass weights that already sum to a micro-batch's share of 1.
The fast form computes gradients in the forward pass, chunk by chunk, so logits [M,V] exist for at most `chunk` targets.
Not covered: soft targets, second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_NUMBERS = 1 << 23
"""Most logits held at once."""
CACHE_NUMBERS = 1 << 18
"""Logits turned into gradients at once: 1 MB in fp32, which stays in a core's cache over the passes."""


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
        chunk = max(1, CHUNK_NUMBERS // head_VD.shape[0])
        grad_hidden = torch.empty_like(hidden_MD)
        grad_head = torch.zeros_like(head_VD, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_MD.device)
        for begin in range(0, hidden_MD.shape[0], chunk):
            part = slice(begin, begin + chunk)
            logits = hidden_MD[part] @ head_VD.t()
            loss += _logits_to_gradients(logits, targets_M[part], weights_M[part])
            torch.mm(logits, head_VD, out=grad_hidden[part])
            if grad_head.dtype == logits.dtype:
                grad_head.addmm_(logits.t(), hidden_MD[part])
            else:
                grad_head += logits.t() @ hidden_MD[part]
        ctx.save_for_backward(grad_hidden, grad_head.to(head_VD.dtype))
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        if float(grad) != 1.0:
            grad_hidden, grad_head = grad_hidden * grad, grad_head * grad
        return grad_hidden, grad_head, None, None


def _logits_to_gradients(logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
    """Overwrite logits with the gradients of the weighted loss; return the loss."""
    rows = len(logits_MV) if logits_MV.is_cuda else max(1, CACHE_NUMBERS // logits_MV.shape[1])
    loss = torch.zeros((), dtype=torch.float32, device=logits_MV.device)
    for begin in range(0, len(logits_MV), rows):
        logits = logits_MV[begin : begin + rows]
        target, weight = targets_M[begin : begin + rows, None], weights_M[begin : begin + rows, None]
        below = logits.gather(1, target).float() - logits.amax(1, keepdim=True).float()
        share = torch.softmax(logits, 1, dtype=torch.float32)
        # log p(target) from the largest probability: exact where p(target) itself would round to 0
        loss -= ((below + share.amax(1, keepdim=True).log()) * weight).sum()
        logits.copy_(share.mul_(weight).scatter_add_(1, target, -weight))
    return loss


def weighted_loss(hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
    """Return sum_m weights_m x cross-entropy_m as an fp32 scalar."""
    return _ChunkedLoss.apply(hidden_MD, head_VD, targets_M, weights_M)


def target_logprobs(hidden_MD: Tensor, head_VD: Tensor, targets_M: Tensor) -> Tensor:
    """Return log p(target_m) in nats, fp32 [M], chunk by chunk."""
    chunk = max(1, CHUNK_NUMBERS // head_VD.shape[0])
    pieces = [
        torch.log_softmax(F.linear(hidden_MD[i : i + chunk], head_VD).float(), -1).gather(
            1, targets_M[i : i + chunk, None]
        )[:, 0]
        for i in range(0, hidden_MD.shape[0], chunk)
    ]
    return torch.cat(pieces) if pieces else hidden_MD.new_zeros(0, dtype=torch.float32)
