"""EK-FAC solutions -> better solutions of (G + D) x = g with the full Gauss-Newton matrix G, which is never formed.

EK-FAC treats layers as independent; that costs more than its Kronecker form (agreement with the full damped matrix
0.36-0.46 against 0.81-0.83 with its layer blocks, tests and docs/log). Products G x (forward-mode, softmax curvature,
backward) put the coupling back:
  krylov      least residual r^T P r in a growing subspace: start P g of all queries, then P (g - H x) per pass
              (P = EK-FAC's damped inverse; right-hand sides share their directions). Whole-data products only.
  stochastic  x <- x - eta P (H_B x - g) over reshuffled minibatches B, mean of the last half (ASTRA-like; Wang et al.
  2025); eta is the
              inverse of the largest eigenvalue of P H_B over several minibatches: the full-data value is unsafe. Cost
              does not grow with N.
Guard: on texts not used in the last step, the residual r^T P r of the result must not exceed EK-FAC's; otherwise the
best point on the line between both is returned, which is never worse. D is the damping of EK-FAC, the same number per
layer in every method. Not covered: Hessians with negative curvature; how many passes a larger model needs (more).

Shapes: Q queries, P tracked parameters (flat, layers in order).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from leaven.attribution.factors import Factors
from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.core.rng import rng
from leaven.core.step import StepContext
from leaven.errors import StudyError

MOST_RESTARTS = 5
"""How often the stochastic solver halves its step before EK-FAC's solution is returned as it is."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """How to refine: `passes` over the data (krylov), or `steps` of `batch_texts` texts each (stochastic)."""

    solver: Literal["krylov", "stochastic"] = "krylov"
    passes: int = 4
    steps: int = 64
    batch_texts: int = 16
    guard_texts: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what does nothing."""
        if (
            self.solver not in ("krylov", "stochastic")
            or min(self.passes, self.steps, self.batch_texts, self.guard_texts) < 1
        ):
            raise StudyError(f"refinement: expected solver krylov or stochastic and counts of at least 1, found {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Solutions [Q,o,i] per layer; residual norms relative to EK-FAC's on the guard's texts; the share of the
    refinement kept
    (1 = all, 0 = EK-FAC's own solution); passes over the data spent, guard and step size included."""

    vectors: Vectors
    residual: np.ndarray
    kept: np.ndarray
    passes: float


def refine(
    tracked: Tracked,
    texts: Sequence[Text],
    gradients: Vectors,
    factors: Factors,
    damping: dict[str, float],
    how: Refinement,
    *,
    batch_tokens: int = BATCH_TOKENS,
    ctx: StepContext | None = None,
) -> Refined:
    """Solve (G + D) x = g for query gradients [Q,o,i] per layer, starting from EK-FAC.

    Raises:
        BackendError: an operation of the architecture has no forward-mode derivative.
    """
    system = _System(tracked, texts, factors, damping, batch_tokens, ctx or StepContext())
    right = system.flat(gradients)
    start = system.precondition(right)
    if how.solver == "krylov":
        candidates = [_krylov(system, right, start, how.passes)]
    else:
        candidates = _stochastic(system, right, start, how)
    draw = rng(how.seed, "refine-guard").permutation(len(texts))[: how.guard_texts].tolist()
    result, residual, kept = _guarded(system, right, start, candidates, draw)
    return Refined(system.unflat(result), residual, kept, system.products / len(texts))


class _System:
    """The matrix H = G + D on all texts or some of them, and EK-FAC's inverse P, acting on flat vectors [Q,P]."""

    def __init__(
        self,
        tracked: Tracked,
        texts: Sequence[Text],
        factors: Factors,
        damping: dict[str, float],
        batch_tokens: int,
        ctx: StepContext,
    ) -> None:
        self.tracked, self.texts, self.factors, self.damping = tracked, texts, factors, damping
        self.batch_tokens, self.ctx, self.products = batch_tokens, ctx, 0
        self.shapes = {n: tracked.shape(n) for n in tracked.names()}
        self.added = self.flat(
            {n: torch.full((1, *s), damping[n], device=tracked.device) for n, s in self.shapes.items()}
        )

    def flat(self, vectors: Vectors) -> Tensor:
        return torch.cat([vectors[n].flatten(1) for n in self.shapes], 1)

    def unflat(self, x_QP: Tensor) -> Vectors:
        pieces = x_QP.split([o * i for o, i in self.shapes.values()], 1)
        return {n: p.unflatten(1, s) for (n, s), p in zip(self.shapes.items(), pieces, strict=True)}

    def precondition(self, x_QP: Tensor) -> Tensor:
        return self.flat(self.factors.precondition(self.unflat(x_QP), self.damping))

    def apply(self, x_QP: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        """Return H x with the Gauss-Newton matrix of all texts, or of those given."""
        chosen = self.texts if numbers is None else [self.texts[n] for n in numbers]
        directions = self.unflat(x_QP)
        total = torch.zeros_like(x_QP)
        for batch in make_batches(chosen, self.tracked.model.max_tokens, self.batch_tokens, device=self.tracked.device):
            self.ctx.check_stop()
            total += self.flat(self.tracked.gauss_newton(batch, directions))
        self.products += len(chosen)
        self.ctx.progress(self.products, 0, "refining")
        return total / len(chosen) + self.added * x_QP

    def norm(self, r_QP: Tensor) -> Tensor:
        """Return r^T P r, [Q]."""
        return (r_QP * self.precondition(r_QP)).sum(1)


def _krylov(system: _System, right: Tensor, start: Tensor, passes: int) -> Tensor:
    """Return what minimises r^T P r in the span of `passes` blocks of directions, each costing one pass over the data.

    Minimising the residual ranks training texts better than the Galerkin (conjugate gradient) solution of the same
    subspace: the error's energy lies mostly in directions that no training gradient has, which the residual discounts.
    """
    basis = images = solved = right.new_zeros(0, right.shape[1])
    x, block = torch.zeros_like(right), start
    for _ in range(passes):
        block = _orthonormal(block, basis)
        if not len(block):
            break
        image = system.apply(block)
        basis, images = torch.cat([basis, block]), torch.cat([images, image])
        solved = torch.cat([solved, system.precondition(image)])
        small = (solved @ images.t()).double()
        small = (small + small.t()) / 2
        weights = torch.linalg.lstsq(small, (solved @ right.t()).double(), driver="gelsd").solution.to(right.dtype)
        x = weights.t() @ basis
        block = system.precondition(right - weights.t() @ images)
    return x


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """Return an orthonormal basis of what `block` adds to the rows of `basis` (two sweeps, for rounding)."""
    block = block / block.norm(dim=1, keepdim=True).clamp(min=torch.finfo(block.dtype).tiny)
    for _ in range(2):
        block = block - (block @ basis.t()) @ basis
    _, values, rows = torch.linalg.svd(block, full_matrices=False)
    fresh = rows[values > 1e-5]
    return fresh - (fresh @ basis.t()) @ basis


def _stochastic(system: _System, right: Tensor, start: Tensor, how: Refinement) -> list[Tensor]:
    """Return the mean of the last half of the steps, and the last iterate."""
    minibatches = _minibatches(len(system.texts), how)
    probes = [next(minibatches) for _ in range(4)]
    rate = 1 / max(_largest(system, numbers, how.seed) for numbers in probes)
    # minibatch residuals are mostly noise around EK-FAC's; only growth far beyond the largest of them is divergence
    limit = 16 * torch.stack([system.norm(system.apply(start, numbers) - right) for numbers in probes]).amax(0)
    for _ in range(MOST_RESTARTS):
        x, total, n = start.clone(), torch.zeros_like(start), 0
        for k in range(how.steps):
            r = system.apply(x, next(minibatches)) - right
            if not bool((system.norm(r) <= limit).all()):
                break
            x = x - rate * system.precondition(r)
            if 2 * (k + 1) > how.steps:
                total, n = total + x, n + 1
        else:
            return [total / n, x]
        rate /= 2
    return [start]


def _minibatches(n_texts: int, how: Refinement) -> Iterator[list[int]]:
    """Yield minibatches of text numbers for ever, reshuffled every epoch."""
    epoch, size = 0, min(how.batch_texts, n_texts)
    while True:
        order = rng(how.seed, "refine-batches", epoch).permutation(n_texts).tolist()
        yield from (order[i : i + size] for i in range(0, n_texts - size + 1, size))
        epoch += 1


def _largest(system: _System, numbers: Sequence[int], seed: int, iterations: int = 10) -> float:
    """Return the largest eigenvalue of P H_B by power iteration."""
    size = system.added.shape[1]
    x = torch.from_numpy(rng(seed, "refine-power").standard_normal((1, size)).astype(np.float32)).to(
        system.added.device
    )
    value = 1.0
    for _ in range(iterations):
        x = system.precondition(system.apply(x / x.norm(), numbers))
        value = float(x.norm())
    return value


def _guarded(
    system: _System, right: Tensor, start: Tensor, candidates: Sequence[Tensor], numbers: Sequence[int]
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return per query the candidate of least residual, or the best point between EK-FAC and it; its residual; the
    share kept."""
    residual = system.apply(start, numbers) - right
    before = system.norm(residual)
    result, best, kept = start.clone(), before.clone(), torch.zeros_like(before)
    for candidate in candidates:
        after = system.apply(candidate, numbers) - right
        change = after - residual
        along, curved = (system.precondition(change) * residual).sum(1), system.norm(change)
        share = (-along / curved.clamp(min=torch.finfo(curved.dtype).tiny)).clamp(0, 1)
        share = torch.where(system.norm(after) <= before, torch.ones_like(share), share)
        found = before + 2 * share * along + share.square() * curved
        better = (found < best) & torch.isfinite(found)
        mixed = start + share[:, None] * (candidate - start)
        result[better], best[better], kept[better] = mixed[better], found[better], share[better]
    relative = (best.clamp(min=0) / before.clamp(min=torch.finfo(before.dtype).tiny)).sqrt()
    return result, relative.cpu().numpy(), kept.cpu().numpy()
