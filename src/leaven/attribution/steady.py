"""A model whose weights do not change for many passes -> the same passes with every weight laid out once for its products.

Weights [o,i] of linear layers are multiplied with in both directions (outputs, and gradients of inputs); dense.py says why
laying them out pays. That takes twice their memory, so large models keep their plain products. The layers' own forward is
lent to a pass and given back. Only fp32 on a CPU, only nn.Linear, no gradients of weights and no second derivatives.
Not covered: weights that change in between (the caller says when they do not, Tracked.steady).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from leaven.attribution.dense import Constant, packs

MOST_WEIGHTS = 1 << 25
"""Weights of linear layers up to which a model is laid out (256 MiB more)."""


class Weight:
    """A weight [o,i] laid out in both directions."""

    __slots__ = ("back", "there")

    def __init__(self, weight_oi: Tensor) -> None:
        """Lay it out."""
        self.there, self.back = Constant(weight_oi.detach().t()), Constant(weight_oi.detach())


def laid_out(module: nn.Module, head_weight: Tensor) -> dict[str, Weight]:
    """Return the weights of a model's linear layers by name, its output projection as "head"; none where it does not pay."""
    layers = {n: m for n, m in module.named_modules() if type(m) is nn.Linear and packs(m.weight) and m.weight is not head_weight}
    weights = {n: m.weight for n, m in layers.items()} | ({"head": head_weight} if packs(head_weight) else {})
    if sum(w.numel() for w in weights.values()) > MOST_WEIGHTS or any(w.dtype != torch.float32 for w in weights.values()):
        return {}
    return {n: Weight(w) for n, w in weights.items()}


def extra_bytes(module: nn.Module, head_weight: Tensor) -> int:
    """Return the memory that laying out a model takes."""
    weights = [m.weight for m in module.modules() if type(m) is nn.Linear and packs(m.weight) and m.weight is not head_weight]
    total = sum(w.numel() for w in [*weights, head_weight])
    return 2 * 4 * total if total <= MOST_WEIGHTS else 0


@contextmanager
def lent(module: nn.Module, weights: Mapping[str, Weight]) -> Iterator[None]:
    """Let the linear layers with these names use them for the passes inside."""
    named = dict(module.named_modules()) if weights else {}
    changed = [(named[n], w) for n, w in weights.items() if n in named and "forward" not in vars(named[n])]
    for layer, weight in changed:
        layer.forward = partial(_forward, weight, layer.bias)
    try:
        yield
    finally:
        for layer, _ in changed:
            del layer.forward


def _forward(weight: Weight, bias: Tensor | None, x: Tensor) -> Tensor:
    found = _Through.apply(x, weight)
    return found if bias is None else found + bias


class _Through(torch.autograd.Function):
    """x W^T, and g W on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight) -> Tensor:
        ctx.weight = weight
        return weight.there.after(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.weight.back.after(g), None
