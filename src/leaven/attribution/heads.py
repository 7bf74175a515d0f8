"""Hidden states and the output projection -> losses and their gradients with respect to the hidden states, by blocks.

Logits of a whole batch are the largest thing a pass over a model holds (tokens x vocabulary, several times over in
log-softmax and its derivative). Here a block of positions goes through projection, softmax, and back before the next
begins: the block stays in the processor's cache and no tensor of the whole vocabulary is kept, unless the projection
itself is tracked and asks for the gradient of the logits. d loss / d logits = weight x (softmax - one-hot). Products
have the dtype asked for, softmax and losses are fp32. Not covered: label smoothing, soft caps on logits.

Shapes: M positions with loss, D hidden width, V vocabulary, R positions of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leaven.attribution.steady import Weight

_NUMBERS = 1 << 19
"""Logits of a block on a CPU (2 MB of fp32)."""
_NUMBERS_ON_DEVICE = 1 << 27
_FEWEST_ROWS = 128


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What is learned at each position: `targets` int64[M], or labels drawn from the model itself by the uniform
    numbers `draws` float[M]; weights float32[M] multiply the losses."""

    weights: Tensor
    targets: Tensor | None = None
    draws: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """Losses in nats [M], unweighted, and the gradients of their weighted sum: hidden [M,D], logits [M,V] or None."""

    losses: Tensor
    hidden: Tensor
    logits: Tensor | None


@torch.no_grad()
def learn(
    hidden_MD: Tensor,
    weight_VD: Tensor,
    wanted: Sequence[Labels],
    dtype: torch.dtype,
    logits: bool = False,
    *,
    laid_out: Weight | None = None,
) -> list[Learned]:
    """Return losses and gradients under every set of labels, with the logits computed once.

    Args:
        hidden_MD: hidden states of the positions with loss.
        weight_VD: the output projection.
        wanted: sets of labels.
        dtype: of the products.
        logits: also return the gradients of the logits.
        laid_out: the projection laid out in that dtype, where it is.
    """
    weight, rows = weight_VD.to(dtype), _block_rows(hidden_MD, len(weight_VD))
    found: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = [([], [], []) for _ in wanted]
    for begin in range(0, len(hidden_MD), rows):
        part = slice(begin, begin + rows)
        h = hidden_MD[part].to(dtype)
        z = (h @ weight.t() if laid_out is None else laid_out.there.after(h)).float()
        of_targets = [None if w.targets is None else z.gather(1, w.targets[part, None]) for w in wanted]
        top = z.amax(1, keepdim=True)
        e = z.sub_(top).exp_()
        total = e.sum(1, keepdim=True)
        for k, (labels, given) in enumerate(zip(wanted, of_targets, strict=True)):
            last = k + 1 == len(wanted)
            if given is None:
                target = _drawn(e, labels.draws[part])
                losses = total.log() - e.gather(1, target).log()
            else:
                target = labels.targets[part, None]
                losses = total.log() + top - given
            scale = labels.weights[part, None].float()
            g = e.mul_(scale / total) if last else e * (scale / total)
            g.scatter_add_(1, target, -scale)
            low = g.to(dtype)
            found[k][0].append(losses[:, 0])
            found[k][1].append((low @ weight if laid_out is None else laid_out.back.after(low)).to(hidden_MD.dtype))
            if logits:
                found[k][2].append(low)
    return [Learned(torch.cat(a), torch.cat(b), torch.cat(c) if logits else None) for a, b, c in found]


def _block_rows(hidden_MD: Tensor, vocabulary: int) -> int:
    return max(_FEWEST_ROWS, (_NUMBERS_ON_DEVICE if hidden_MD.is_cuda else _NUMBERS) // vocabulary)


def _drawn(e_RV: Tensor, draws_R: Tensor) -> Tensor:
    """Return labels [R,1] drawn with probabilities proportional to e, by inverting their cumulative sum."""
    total = e_RV.cumsum(-1)
    return torch.searchsorted(total, draws_R[:, None] * total[:, -1:]).clamp(max=e_RV.shape[1] - 1)
