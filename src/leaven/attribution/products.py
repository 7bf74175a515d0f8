"""Batches and directions in parameter space -> products with the Gauss-Newton matrix, which is never formed.

G x = sum over texts of J^T S J x with J the Jacobian of the logits at positions with loss and S = weight x (diag(p) -
p p^T) of each (Schraudolph 2002): forward-mode differentiation, the curvature of softmax, a backward pass. All
directions of a batch share one forward pass and its graph; tangents and cotangents are batched (torch.vmap) as far as
memory goes, so that many directions cost few calls. Numbers are those of the model, whatever the dtype of other passes:
fp32, or fp64 of `in_fp64`, which the references use. Not covered: which directions (refine.py), dense matrices (exact.py).

Shapes: Q directions, R rows of a layer, M positions with loss, V vocabulary, o outputs, i inputs (with bias column).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from leaven.attribution.passes import HEAD, Tracked, Vectors, plain_kernels
from leaven.attribution.texts import Batch
from leaven.errors import BackendError

HELD_NUMBERS = 1 << 25
"""Numbers of tangents held at once (128 MB of fp32)."""
_NO_DERIVATIVE = ("forward AD", "forward-mode", "functorch", "atching rule", "jvp")
"""What torch says of operations that have no forward-mode derivative or cannot be batched."""


def gauss_newton(tracked: Tracked, batch: Batch, directions: Vectors) -> Vectors:
    """Return sum over the batch's texts of J^T S J x for every direction x [Q,o,i] per layer.

    Raises:
        BackendError: an operation of this architecture has no forward-mode derivative, or cannot be batched.
    """
    n = len(next(iter(directions.values())))
    if tracked.dtype != "fp32":  # curvature needs the digits; the weights have them
        tracked = copy.copy(tracked)
        tracked.dtype = "fp32"
    with sdpa_kernel(SDPBackend.MATH), plain_kernels(tracked.model.module, True):
        logits, inputs, outputs = tracked.forward(batch)
        rows = {name: x.flatten(0, -2) for name, x in inputs.items()}
        per_direction = logits.numel() * 4 + batch.ids.numel() * sum(2 * sum(tracked.shape(m)) for m in rows)
        chunk = max(1, min(n, HELD_NUMBERS // per_direction))
        p = logits.detach().softmax(-1)
        scale = batch.weights.clamp(min=0)[:, None].to(p.dtype)
        result = {name: torch.empty_like(v) for name, v in directions.items()}
        for begin in range(0, n, chunk):
            part = slice(begin, begin + chunk)
            change_QMV = _changes(tracked, batch, {name: v[part] for name, v in directions.items()})
            curved = p * (change_QMV - (p * change_QMV).sum(-1, keepdim=True)) * scale
            grads = torch.autograd.grad(logits, list(outputs.values()), curved, is_grads_batched=True, retain_graph=begin + chunk < n)
            for name, g in zip(outputs, grads, strict=True):
                g_QRo, found = g.flatten(1, -2), result[name][part]
                found[..., : rows[name].shape[1]] = torch.einsum("qro,ri->qoi", g_QRo, rows[name])
                if found.shape[2] > rows[name].shape[1]:
                    found[..., -1] = g_QRo.sum(1)
    return result


def in_fp64(tracked: Tracked) -> Tracked:
    """Return a copy of the model in fp64 with the same layers tracked, for references."""
    model = copy.copy(tracked.model)
    model.module = copy.deepcopy(tracked.model.module).double()
    if hasattr(model, "head"):
        model.head = model.module.get_output_embeddings()
    found = Tracked(model, tracked.modules)
    found.layers = {n: found.layers[n] for n in tracked.layers}
    return found


@torch.no_grad()
def _changes(tracked: Tracked, batch: Batch, directions: Vectors) -> Tensor:
    """Return the change of the logits per unit of every direction, [Q,M,V]."""
    try:
        return torch.vmap(lambda d: _change(tracked, batch, d))(directions)
    except RuntimeError as error:  # NotImplementedError is one; memory is another matter
        if isinstance(error, torch.OutOfMemoryError) or not any(word in str(error) for word in _NO_DERIVATIVE):
            raise
        raise BackendError(
            f"{type(tracked.model.module).__name__}: expected forward-mode derivatives of all its operations, "
            f"found: {error}. Refine a model whose attention is ordinary operations (attn_implementation eager), or "
            "leave refinement out"
        ) from error


def _change(tracked: Tracked, batch: Batch, direction: Mapping[str, Tensor]) -> Tensor:
    """Return the change of the logits along one direction, [M,V].

    The function below has no input: tangents enter at the layers, where W a gains D a, so that the product of D with
    the tangent of a, which is of second order, is never formed. torch.func.jvp lends the level that torch.vmap accepts.
    """

    def tilt(name: str, a: Tensor, out: Tensor) -> Tensor:
        primal, tangent = forward_ad.unpack_dual(out)
        rows, d = forward_ad.unpack_dual(a).primal, direction[name]
        moved = rows @ d[:, : rows.shape[-1]].t()
        if d.shape[1] > rows.shape[-1]:
            moved = moved + d[:, -1]
        return forward_ad.make_dual(primal, moved if tangent is None else tangent + moved)

    def logits(nothing: Tensor) -> Tensor:
        hidden = tracked.model.hidden(batch.ids, batch.positions, batch.document, batch.at)
        found = F.linear(hidden, tracked.head_weight)
        return tilt(HEAD, hidden, found) if tracked.with_head else found

    handles = [layer.register_forward_hook(lambda _, a, out, n=name: tilt(n, a[0], out)) for name, layer in tracked.layers.items()]
    nothing = torch.zeros((), device=tracked.device)
    try:
        return torch.func.jvp(logits, (nothing,), (nothing,))[1]
    finally:
        for handle in handles:
            handle.remove()
