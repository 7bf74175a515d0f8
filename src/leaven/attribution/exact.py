"""Exact influence on tiny models: the references that approximations are measured against.

Gradients by one backward pass of the whole model per text, curvature as a dense matrix over all tracked parameters:
the Gauss-Newton matrix (1/N) sum_n sum_t w_t J_t^T (diag(p_t) - p_t p_t^T) J_t, the Hessian of the same mean loss,
and the layer blocks of either. Influence is g_q^T (C + D)^-1 g_n / N (Koh & Liang 2017, eq. 2; sign: positive = the
text helps the target). Nothing here shares code with passes.py beyond the list of layers. Memory is P^2: for a few
thousand parameters. Not covered: models whose forward call needs more than token ids.

Shapes: P tracked parameters (layers in order, rows of [o,i] with bias column), N texts, Q queries, M positions with
loss, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from leaven.attribution.passes import HEAD, Tracked, Vectors
from leaven.attribution.texts import Text

Curvature = Literal["ggn", "block_ggn", "hessian", "block_hessian"]


def flatten(tracked: Tracked, vectors: Mapping[str, Tensor]) -> Tensor:
    """Return [.., P] from one [.., o, i] per layer."""
    return torch.cat([vectors[n].flatten(-2) for n in tracked.names()], -1)


def unflatten(tracked: Tracked, flat: Tensor) -> Vectors:
    """Return one [.., o, i] per layer from [.., P]."""
    shapes = [tracked.shape(n) for n in tracked.names()]
    pieces = flat.split([o * i for o, i in shapes], -1)
    return {n: p.unflatten(-1, s) for n, p, s in zip(tracked.names(), pieces, shapes, strict=True)}


def parameters(tracked: Tracked) -> Tensor:
    """Return the tracked parameters, [P]."""
    result = {}
    for name in tracked.names():
        weight = tracked.weight(name).detach()
        bias = None if name == HEAD else tracked.layers[name].bias
        result[name] = weight if bias is None else torch.cat([weight, bias.detach()[:, None]], 1)
    return flatten(tracked, result).clone()


def gradients(tracked: Tracked, texts: Sequence[Text]) -> Tensor:
    """Return the gradient of each text's weighted summed loss, [N,P]."""
    theta = parameters(tracked)
    with _plain(tracked):
        return torch.stack([torch.func.grad(_loss_of(tracked, t))(theta).detach() for t in texts])


def token_gradients(tracked: Tracked, text: Text) -> Tensor:
    """Return the gradient of each token's weighted loss, [tokens with loss, P]."""
    with _plain(tracked):
        return jacrev(_loss_of(tracked, text, reduce=False))(parameters(tracked)).detach()


def losses(tracked: Tracked, texts: Sequence[Text], theta: Tensor) -> Tensor:
    """Return each text's weighted summed loss at the parameters `theta` [P], [N]."""
    with _plain(tracked):
        return torch.stack([_loss_of(tracked, t)(theta).detach() for t in texts])


def curvature(tracked: Tracked, texts: Sequence[Text], kind: Curvature = "ggn") -> Tensor:
    """Return the curvature of the mean loss per text, [P,P]."""
    theta = parameters(tracked)
    total = theta.new_zeros(len(theta), len(theta))
    with _plain(tracked):
        for text in texts:
            if kind.endswith("ggn"):
                _add_gram(total, _ggn_rows(tracked, text, theta).detach())
            else:
                total += hessian(_loss_of(tracked, text))(theta).detach()
    if kind.endswith("ggn"):
        total = total.triu() + total.triu(1).t()
    total /= len(texts)
    return layer_blocks(tracked, total) if kind.startswith("block") else total


def layer_blocks(tracked: Tracked, matrix: Tensor) -> Tensor:
    """Return the matrix with everything outside the layers' diagonal blocks set to 0."""
    sizes = [o * i for o, i in map(tracked.shape, tracked.names())]
    return torch.block_diag(*(matrix[e - s : e, e - s : e] for e, s in zip(np.cumsum(sizes).tolist(), sizes, strict=True)))


def mean_diagonal_damping(tracked: Tracked, matrix: Tensor, value: float = 0.1) -> dict[str, float]:
    """Return value x mean diagonal of each layer's block: the same rule as EK-FAC's relative damping."""
    return {n: value * float(d.mean()) for n, d in unflatten(tracked, matrix.diagonal()).items()}


def exact_scores(tracked: Tracked, matrix: Tensor, damping: Mapping[str, float], queries_QP: Tensor, texts_NP: Tensor) -> Tensor:
    """Return g_q^T (C + D)^-1 g_n / N in nats per removed text, [Q,N], solved in fp64; queries are gradients of
    losses."""
    added = flatten(tracked, {n: torch.full(tracked.shape(n), damping[n]) for n in tracked.names()}).double()
    solved = torch.linalg.solve(matrix.double().cpu() + added.diag(), queries_QP.double().cpu().t())
    return solved.t() @ texts_NP.double().cpu().t() / len(texts_NP)


def _loss_of(tracked: Tracked, text: Text, reduce: bool = True) -> Callable[[Tensor], Tensor]:
    weights = text.token_weights()
    learned = np.flatnonzero(weights)
    targets, weight = torch.from_numpy(text.ids[learned]), torch.from_numpy(weights[learned]).float()

    def loss(theta: Tensor) -> Tensor:
        each = F.cross_entropy(_logits(tracked, text, theta)[learned - 1], targets, reduction="none") * weight
        return each.sum() if reduce else each

    return loss


def _add_gram(total_PP: Tensor, rows_RP: Tensor, columns: int = 8) -> None:
    """Add R^T R to the upper block triangle."""
    width = -(-total_PP.shape[0] // columns)
    for begin in range(0, total_PP.shape[0], width):
        total_PP[: begin + width, begin : begin + width].addmm_(rows_RP[:, : begin + width].t(), rows_RP[:, begin : begin + width])


def _ggn_rows(tracked: Tracked, text: Text, theta: Tensor) -> Tensor:
    """Return rows [M*V,P] whose Gram matrix is the text's Gauss-Newton matrix."""
    weights = text.token_weights()
    learned = np.flatnonzero(weights)
    jacobian = jacrev(lambda t: _logits(tracked, text, t)[learned - 1])(theta)
    p = _logits(tracked, text, theta)[learned - 1].softmax(-1)
    # diag(p) - p p^T = A A^T with A = diag(sqrt p) - p sqrt(p)^T, so one symmetric product gives the sum over positions
    scale = torch.from_numpy(weights[learned].clip(min=0) ** 0.5).float()
    root = (p.sqrt().diag_embed() - p[:, :, None] * p.sqrt()[:, None]) * scale[:, None, None]
    return (root.transpose(1, 2) @ jacobian).flatten(0, 1)


def _logits(tracked: Tracked, text: Text, theta: Tensor) -> Tensor:
    """Return logits [T,V] of one text at other parameters."""
    module, named = tracked.model.module, {}
    for name, value in unflatten(tracked, theta).items():
        if name == HEAD:
            named[next(n for n, p in module.named_parameters() if p is tracked.head_weight)] = value
            continue
        layer = tracked.layers[name]
        weight = value if layer.bias is None else value[:, :-1]
        named[f"{name}.weight"] = weight if isinstance(layer, nn.Linear) else weight.t()
        if layer.bias is not None:
            named[f"{name}.bias"] = value[:, -1]
    out = functional_call(module, named, (torch.from_numpy(text.ids.astype(np.int64))[None],))
    return (out if isinstance(out, Tensor) else out.logits)[0]


@contextmanager
def _plain(tracked: Tracked) -> Iterator[None]:
    """Use kernels that can be differentiated twice."""
    module = tracked.model.module
    kernels = getattr(module, "kernels", None)
    if kernels is not None:
        module.kernels = "plain"
    try:
        yield
    finally:
        if kernels is not None:
            module.kernels = kernels
