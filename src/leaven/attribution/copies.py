"""One order table x a weight per example and copy -> all copies of the embedded model trained together, as one batch.

Every copy sees the same slots in the same steps; what it leaves out has weight 0. The loss of a copy is the loop's
(lm/loop.py): sum of weight x learn x token loss over the sum of weight x learn of the whole step, with that
copy's weights. Parameters are stacked along a first dimension and the model is called through torch.func (vmap), so
that thousands of retrainings of a small model cost a few large products per step instead of thousands of small ones.
A copy whose step has nothing left takes it with a gradient of 0. Always fp32; copies do not influence each other.
Not covered: GPUs, Hugging Face models, dropout, which examples a copy leaves out (subsets.py).

Shapes: C copies, E examples, B rows, T tokens, M targets of a micro-batch, V vocabulary, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from leaven.attribution.texts import Batch as TextBatch
from leaven.errors import BackendError
from leaven.lm.batches import Batch, TrainingOrder
from leaven.lm.optimise import learning_rate
from leaven.lm.tiny_model import TinyModel, document_mask

MEMORY_BYTES = 1 << 29
"""What the activations of the copies trained at once may take."""


class NumberedOrder(TrainingOrder):
    """The slots of an order with the number of its example in place of every token: its batches, laid out alike, say
    whose loss each target is."""

    @classmethod
    def of(cls, order: TrainingOrder, numbers: Mapping[tuple[str, str], int]) -> NumberedOrder:
        """Number the examples of `order`; (source, example) -> number.

        Raises:
            KeyError: an example has no number.
        """
        of_slot = np.array([numbers[key] for key in order._rows.select("source", "example").iter_rows()], np.int64)
        flat = np.full(len(order._ids), -1, np.int64)
        source, _, slot = order._flat(np.arange(len(of_slot)))
        flat[source] = of_slot[slot]
        return cls(order._rows, order._start, flat, order._learn, -1)


class Copies:
    """C copies of a model: stacked parameters in one flat vector (decayed weights first) and their AdamW moments."""

    def __init__(self, model: TinyModel, count: int, train: Mapping[str, Any]) -> None:
        """Start all copies from the weights of `model`."""
        self.count, self.train, self.one = count, train, _Losses(model)
        model.kernels = "plain"  # hand-written backward passes cannot be batched
        named = sorted(model.named_parameters(), key=lambda pair: pair[1].dim() < 2)
        sizes = [count * p.numel() for _, p in named]
        self.split = sum(s for s, (_, p) in zip(sizes, named, strict=True) if p.dim() >= 2)
        self.flat = torch.cat([p.detach().float().expand(count, *p.shape).reshape(-1) for _, p in named])
        self.gradient, self.first, self.second = (torch.zeros_like(self.flat) for _ in range(3))
        self.updates = torch.zeros((), device=self.flat.device)
        self.stacked: dict[str, Tensor] = {}
        places = zip(named, self.flat.split(sizes), self.gradient.split(sizes), strict=True)
        for (name, parameter), values, gradients in places:
            leaf = values.view(count, *parameter.shape).requires_grad_()
            leaf.grad = gradients.view(count, *parameter.shape)
            self.stacked[name] = leaf

    def losses(self, ids: Tensor, positions: Tensor | None, document: Tensor | None, at: Tensor, targets: Tensor) -> Tensor:
        """Return the loss in nats of every target in every copy, [C,M]."""
        mask = None if document is None else document_mask(document, torch.float32)

        def of_one(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(self.one, parameters, (ids, positions, mask, at, targets))

        return vmap(of_one)({f"model.{n}": p for n, p in self.stacked.items()})

    def step(self, batches: Sequence[Batch], numbers: Sequence[np.ndarray], weights_CE: Tensor, rate: float) -> np.ndarray:
        """Take one optimiser step; return which copies had nothing left in it, bool[C].

        Args:
            batches: the micro-batches of the step, whose weights sum to 1.
            numbers: the example of every target of each micro-batch, int64[M].
            weights_CE: the weight of every example in every copy.
            rate: learning rate.
        """
        shares = [weights_CE[:, torch.from_numpy(n)] * torch.from_numpy(b.weights) for b, n in zip(batches, numbers, strict=True)]
        total = torch.stack([s.sum(1, dtype=torch.float64) for s in shares]).sum(0)
        scale = torch.where(total > 0, 1 / total, torch.zeros_like(total)).float()
        for batch, share in zip(batches, shares, strict=True):
            if len(batch.target_at):
                tensors = (batch.ids, batch.positions, batch.document, batch.target_at, batch.target_ids)
                losses = self.losses(*(None if x is None else torch.from_numpy(x) for x in tensors))
                (losses * share * scale[:, None]).sum().backward()
        self._update(rate)
        return (total <= 0).numpy()

    @torch.no_grad()
    def _update(self, rate: float) -> None:
        clip = float(self.train.get("clip") or 0.0)
        if clip > 0:
            squares = torch.stack([p.grad.flatten(1).square().sum(1) for p in self.stacked.values()]).sum(0)
            shrink = (clip / squares.sqrt()).clamp(max=1.0)
            for p in self.stacked.values():
                p.grad.mul_(shrink.view(-1, *[1] * (p.dim() - 1)))
        self.updates += 1
        decay = float(self.train.get("weight_decay") or 0.0)
        beta1, beta2 = (float(b) for b in self.train.get("betas") or (0.9, 0.95))
        for part, own in ((slice(0, self.split), decay), (slice(self.split, None), 0.0)):
            vectors = ([v.detach()[part]] for v in (self.flat, self.gradient, self.first, self.second))
            torch._fused_adamw_(
                *vectors, [], [self.updates], lr=rate, beta1=beta1, beta2=beta2, weight_decay=own,
                eps=float(self.train.get("eps") or 1e-8), amsgrad=False, maximize=False,
            )  # fmt: skip
        self.gradient.zero_()

    @torch.no_grad()
    def values(self, batches: Sequence[TextBatch], count: int) -> np.ndarray:
        """Return the weighted log-likelihood of `count` texts in every copy, float64[C,texts]."""
        result = np.zeros((self.count, count))
        for batch in batches:
            nats = -self.losses(batch.ids, batch.positions, batch.document, batch.at, batch.targets).double() * batch.weights
            total = nats.new_zeros(self.count, len(batch.numbers)).index_add_(1, batch.owner, nats)
            result[:, batch.numbers] = total.numpy()
        return result

    def weights(self, copy: int) -> dict[str, Tensor]:
        """Return the parameters of one copy under the model's names."""
        return {n: p.detach()[copy].clone() for n, p in self.stacked.items()}

    def moments(self, copy: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return both AdamW moments of one copy under the model's names."""
        sizes = [p.numel() for p in self.stacked.values()]
        first, second = (
            {n: v.view(p.shape)[copy].clone() for (n, p), v in zip(self.stacked.items(), vector.split(sizes), strict=True)}
            for vector in (self.first, self.second)
        )
        return first, second

    def state(self) -> dict[str, Tensor]:
        """Return weights, moments and the update count."""
        return {"flat": self.flat.detach(), "first": self.first, "second": self.second, "updates": self.updates.reshape(1)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` returned."""
        for name, vector in (("flat", self.flat), ("first", self.first), ("second", self.second)):
            vector.copy_(state[name])
        self.updates.copy_(state["updates"][0])


class _Losses(torch.nn.Module):
    """The model with the loss of each target as its output, so that functional_call reaches head and layers alike."""

    def __init__(self, model: TinyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, positions: Tensor | None, mask: Tensor | None, at: Tensor, targets: Tensor) -> Tensor:
        hidden = self.model.hidden(ids, positions, mask, at=at)
        logits = torch.nn.functional.linear(hidden, self.model.head_weight)
        return logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]


def train_copies(
    copies: Copies,
    order: TrainingOrder,
    numbered: NumberedOrder,
    weights_CE: np.ndarray,
    *,
    first: int = 0,
    after: Callable[[int, np.ndarray], None],
) -> None:
    """Run the steps of an order from step `first` on.

    Args:
        copies: as many as rows of `weights_CE`; changed in place.
        order: the slots; `numbered` the same slots numbered.
        numbered: whose examples they are.
        weights_CE: the weight of every example in every copy.
        first: the step to go on from.
        after: called after every step with (steps done, copies that had nothing left in it).

    Raises:
        BackendError: weights are no longer finite.
    """
    weights = torch.from_numpy(np.ascontiguousarray(weights_CE, np.float32))
    for index in range(first, order.n_steps):
        rows, of = order.step(index), numbered.step(index)
        rate = learning_rate(copies.train, index, order.n_steps)
        empty = copies.step(rows.batches, [b.target_ids for b in of.batches], weights, rate)
        if not bool(torch.isfinite(copies.flat.detach().sum())):
            raise BackendError(f"retraining, step {index}: expected finite weights, found others; lower train.lr or set train.clip")
        after(index + 1, empty)


def copies_at_once(model: TinyModel, order: TrainingOrder, most: int = 64) -> int:
    """Return how many copies are trained together: by the memory of one copy's activations in its largest micro-batch."""
    c = model.config
    per_token = c.layers * (12 * c.width + 4 * c.ffn + 2 * c.heads * order.longest()) + 3 * c.vocab
    widest = max(b.ids.size for i in range(min(order.n_steps, 8)) for b in order.step(i).batches)
    parameters = 16 * c.n_parameters()
    return max(1, min(most, MEMORY_BYTES // (4 * per_token * widest + parameters)))
