"""EK-FAC solutions -> better solutions of (G + D) x = g with the full Gauss-Newton matrix G, which is never formed.

EK-FAC treats layers as independent; that costs more than its Kronecker form (agreement with the full damped matrix
0.36-0.46 against 0.81-0.83 with its layer blocks, tests and docs/log). Products G x (products.py) put the coupling
back. With P = EK-FAC's damped inverse, everything happens in the coordinates y = P^-1/2 x, where the system is A y = b,
A = P^1/2 (G + D) P^1/2, b = P^1/2 g, and EK-FAC's solution is y = b:
  krylov      least residual |A y - b| in a growing subspace: b of all queries, then per pass the residuals of all
              queries through the inverse of a low-rank approximation, which the products of groups of texts give for
              nothing (Space); right-hand sides share their directions. Whole-data products only.
  stochastic  per step the product of the current solutions with one minibatch of texts; low-rank approximations of
              the minibatches' matrices, one per minibatch, grow by what the product shows (incremental quasi-Newton;
              Mokhtari et al. 2018), and the system of their mean is solved again. Cost does not grow with N.
Guard: the residual on the guard's texts must not exceed EK-FAC's; otherwise the best point on the line between both is
returned, which is never worse there. krylov fits its subspace once more without these texts, whose products are kept
apart: no further product. stochastic draws them last, so they are fresh where the steps end before all texts were
drawn, and else texts like all others of a system that is theirs too; two new products with them judge the very
solution that is returned. D is the damping of EK-FAC, the same number per layer in every method. Not covered: Hessians
with negative curvature (text weights below 0 count as 0); how many passes a larger model needs (more).

Shapes: Q queries, K directions, P tracked parameters (flat, layers in order, eigenbasis).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leaven.attribution.factors import Factors
from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.products import gauss_newton
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.core.rng import rng
from leaven.core.step import StepContext
from leaven.errors import StudyError

FILL = 2.0
"""Share of EK-FAC's eigenvalues that fills what minibatches have not shown yet: solutions go where least is known of A,
and there 1 is too little (set on one seed outside the benchmark: 1, 2 and 4 are .79, .81 and .80 after 8 passes)."""
RESOLVED = 1e-5
"""What a product shows beyond what is known, relative to the whole, above rounding in fp32."""
HELD_PRODUCTS = 1 << 26
"""Numbers of products kept apart by groups of texts (256 MB of fp32): more groups, fewer passes to the same agreement."""
MOST_ROWS, MOST_GROUPS = 1536, 20
"""Most directions x groups (a matrix of that size is factorised once per pass), and most groups (smaller batches cost)."""
COLUMNS = 1 << 14


@dataclass(frozen=True, slots=True)
class Refinement:
    """How to refine: `passes` over the data (krylov), or `steps` of `batch_texts` texts each (stochastic)."""

    solver: Literal["krylov", "stochastic"] = "krylov"
    passes: int = 4
    steps: int = 160
    batch_texts: int = 6
    guard_texts: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what does nothing."""
        if self.solver not in ("krylov", "stochastic") or min(self.passes, self.steps, self.batch_texts, self.guard_texts) < 1:
            raise StudyError(f"refinement: expected solver krylov or stochastic and counts of at least 1, found {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Solutions [Q,o,i] per layer; residual norms relative to EK-FAC's on the guard's texts; the share of the
    refinement kept (1 = all, 0 = EK-FAC's own solution); passes spent: products of one direction with one text,
    guard and step size included, over texts x queries."""

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
    resume: Path | None = None,
    ctx: StepContext | None = None,
) -> Refined:
    """Solve (G + D) x = g for query gradients [Q,o,i] per layer, starting from EK-FAC.

    Args:
        tracked: model and layers.
        texts: training texts that define G.
        gradients: right-hand sides.
        factors: EK-FAC of the same texts.
        damping: number added to each layer's eigenvalues.
        how: solver and budget.
        batch_tokens: most padded tokens per batch.
        resume: folder where the work so far is kept; the same call goes on after its last pass (krylov) or its last
            save (stochastic; saved as often as ctx.runtime.checkpoint_seconds says).
        ctx: progress, stop and resources.

    Raises:
        BackendError: an operation of the architecture has no forward-mode derivative.
    """
    system = System(tracked, texts, factors, damping, batch_tokens, ctx or StepContext())
    b = system.whiten(gradients)
    saved = Saved(resume, how, b, len(texts), system.ctx)
    if how.solver == "krylov":
        y, residual, kept = krylov(system, b, how, saved)
    else:
        y, residual, kept = stochastic(system, b, how, saved)
    saved.forget()
    return Refined(system.solution(y), residual, kept, system.products / (len(texts) * len(b)))


class System:
    """A = P^1/2 (G + D) P^1/2 on all texts or some of them, acting on vectors [K,P] in EK-FAC's eigenbasis."""

    def __init__(
        self,
        tracked: Tracked,
        texts: Sequence[Text],
        factors: Factors,
        damping: dict[str, float],
        batch_tokens: int,
        ctx: StepContext,
    ) -> None:
        self.tracked, self.texts, self.factors = tracked, texts, factors
        self.batch_tokens, self.ctx, self.products, self.planned = batch_tokens, ctx, 0, 0
        self.shapes = {n: tracked.shape(n) for n in tracked.names()}
        scales = {n: factors.blocks[n].eigenvalues + damping[n] for n in self.shapes}
        self.root = torch.cat([s.flatten() for s in scales.values()]).rsqrt()
        self.added = torch.cat([(damping[n] / s).flatten() for n, s in scales.items()])

    def whiten(self, vectors: Vectors) -> Tensor:
        """Return P^1/2 of gradients [Q,o,i] per layer, [Q,P]."""
        return torch.cat([self.factors.blocks[n].rotate(vectors[n]).flatten(1) for n in self.shapes], 1) * self.root

    def solution(self, y_KP: Tensor) -> Vectors:
        """Return x = P^1/2 y, [K,o,i] per layer."""
        pieces = (y_KP * self.root).split([o * i for o, i in self.shapes.values()], 1)
        named = zip(self.shapes.items(), pieces, strict=True)
        return {n: self.factors.blocks[n].unrotate(p.unflatten(1, s)) for (n, s), p in named}

    def total(self, y_KP: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the sum over these texts of P^1/2 G_n P^1/2 y."""
        directions = self.solution(y_KP)
        sums = {n: torch.zeros_like(v) for n, v in directions.items()}
        chosen = [self.texts[n] for n in numbers]
        for batch in make_batches(chosen, self.tracked.model.max_tokens, self.batch_tokens, device=self.tracked.device):
            self.ctx.check_stop()
            for name, found in gauss_newton(self.tracked, batch, directions).items():
                sums[name] += found
            self.products += len(batch.numbers) * len(y_KP)
            self.ctx.progress(min(self.products, self.planned), self.planned, "refining")
        return self.whiten(sums)

    def apply(self, y_KP: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return A y with the Gauss-Newton matrix of these texts."""
        return self.total(y_KP, numbers) / len(numbers) + self.added * y_KP


class Saved:
    """The work so far of one refinement, in one file named by what it solves; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None, how: Refinement, b: Tensor, n_texts: int, ctx: StepContext) -> None:
        state = hashlib.sha256(f"{how}\x1f{n_texts}\x1fgroups of minibatches".encode() + b.cpu().numpy().tobytes())
        self.path = None if folder is None else Path(folder) / f"refine-{state.hexdigest()[:16]}.safetensors"
        self.seconds, self.at, self.device = ctx.runtime.checkpoint_seconds, time.monotonic(), b.device

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what was saved, or two empty mappings."""
        if self.path is None or not self.path.is_file():
            return {}, {}
        with safe_open(self.path, framework="pt") as handle:
            facts = json.loads(handle.metadata()["facts"])
        return load_file(self.path, device=str(self.device)), facts

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the work so far through a temporary name, unless the last time was a moment ago."""
        if self.path is None or time.monotonic() - self.at < self.seconds:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata={"facts": json.dumps(facts)})
        os.replace(part, self.path)
        self.at = time.monotonic()

    def forget(self) -> None:
        """Delete the file of a refinement that is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def krylov(system: System, b: Tensor, how: Refinement, saved: Saved) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return what minimises |A y - b| in the span of `passes` blocks of directions, each costing one pass over the
    data; residuals on the guard's texts; shares kept.

    Minimising the residual ranks training texts better than the Galerkin (conjugate gradient) solution of the same
    subspace: the error's energy lies mostly in directions that no training gradient has, which the residual discounts.
    """
    order = rng(how.seed, "refine-guard").permutation(len(system.texts)).tolist()
    size = min(how.guard_texts, len(order) // 3)
    space = Space(system, order[:size], order[size:], b, how.passes)
    system.planned = how.passes * len(order) * len(b)
    before, facts = saved.load()
    if before:
        space.restore(before["basis"], before["products"])
    system.products = facts.get("products", 0)
    for done in range(facts.get("passes", 0), how.passes):
        if not space.grow(orthonormal(space.remaining(b), space.basis)):
            break
        saved.save({"basis": space.basis, "products": space.products}, {"passes": done + 1, "products": system.products})
    fitted = space.images(slice(None), len(order))
    weights = _least(fitted, b)
    y = weights @ space.basis
    if not size:
        return y, *_ones(b, (weights @ fitted - b).norm(dim=1) / ((b @ space.basis.t()) @ fitted - b).norm(dim=1))
    apart, without = space.images(slice(0, space.guards), size), space.images(slice(space.guards, None), len(order) - size)
    start, trial = (b @ space.basis.t()) @ apart - b, _least(without, b) @ apart - b
    share, residual = _line(start, trial)
    result = torch.where(share[:, None] > 0, b + share[:, None] * (y - b), b)  # what is refused may hold no numbers
    return result, residual.cpu().numpy(), share.cpu().numpy()


class Space:
    """Orthonormal directions [K,P] and their products with the Gauss-Newton matrices of groups of texts [K,groups,P].

    A text's matrix has low rank, so a few directions say nearly all of it, while they say little of the sum over all
    texts. Summing approximations of groups, F_g^T (F_g V^T)^-1 F_g (Nystroem), hence gives a matrix much nearer to A
    than EK-FAC for no further product; EK-FAC's eigenvalues fill what the diagonal misses. Its inverse finds the
    directions of the next pass.
    """

    def __init__(self, system: System, guard: list[int], rest: list[int], b: Tensor, passes: int) -> None:
        self.system, self.n_texts, self.most = system, len(guard) + len(rest), passes * len(b)
        count = max(2, min(HELD_PRODUCTS // (self.most * b.shape[1]), MOST_ROWS // self.most, MOST_GROUPS, self.n_texts))
        self.guards = max(1, round(count * len(guard) / self.n_texts)) if guard else 0
        self.guards, others = min(self.guards, len(guard)), min(max(1, count - self.guards), len(rest))
        self.groups = [guard[g :: self.guards] for g in range(self.guards)] + [rest[g::others] for g in range(others)]
        self.size = 0
        self.all_basis = b.new_zeros(self.most, b.shape[1])
        self.all_products = b.new_zeros(self.most, len(self.groups), b.shape[1])

    @property
    def basis(self) -> Tensor:
        """Directions so far, [K,P]."""
        return self.all_basis[: self.size]

    @property
    def products(self) -> Tensor:
        """Their products with the sum over each group's texts, [K,groups,P]."""
        return self.all_products[: self.size]

    def restore(self, basis: Tensor, products: Tensor) -> None:
        """Go on from these."""
        self.size = len(basis)
        self.basis.copy_(basis)
        self.products.copy_(products)

    def grow(self, block: Tensor) -> bool:
        """Add directions and their products; return False where there are none."""
        if not len(block):
            return False
        end = self.size + len(block)
        for number, texts in enumerate(self.groups):
            self.all_products[self.size : end, number] = self.system.total(block, texts)
        self.all_basis[self.size : end] = block
        self.size = end
        return True

    def images(self, groups: slice, n_texts: int) -> Tensor:
        """Return A v of every direction v with the matrix of some groups, [K,P]."""
        return self.products[:, groups].sum(1) / n_texts + self.system.added * self.basis

    def remaining(self, b: Tensor) -> Tensor:
        """Return new directions for b: what the subspace leaves of it, through the inverse of the approximation."""
        if not self.size:
            return b
        images = self.images(slice(None), self.n_texts)
        return self.inverse()(b - _least(images, b) @ images)

    def inverse(self) -> Callable[[Tensor], Tensor]:
        """Return the inverse of the approximation as a function of [Q,P] (Woodbury identity; small matrices in fp64)."""
        rows = self.products.flatten(0, 1)
        small_gKK = torch.einsum("kgp,lp->gkl", self.products, self.basis).double()
        small_gKK = (small_gKK + small_gKK.transpose(1, 2)) / 2 * self.n_texts
        largest = small_gKK.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
        small_gKK = small_gKK + 1e-6 * largest.clamp(min=1e-30) * torch.eye(self.size, dtype=torch.float64, device=rows.device)
        seen = torch.zeros_like(self.system.added)
        for number, small in enumerate(small_gKK):
            part = self.products[:, number]
            seen += (part * torch.linalg.solve(small, torch.eye(len(small)).to(small)).to(part).matmul(part)).sum(0)
        diagonal = self.system.added + (1 - self.system.added - seen).clamp(min=0)
        small = torch.zeros(self.size, len(self.groups), self.size, len(self.groups), dtype=torch.float64, device=rows.device)
        every = torch.arange(len(self.groups), device=rows.device)
        small[:, every, :, every] = small_gKK
        small = small.flatten(2).flatten(0, 1)
        for begin in range(0, rows.shape[1], COLUMNS):  # a scaled copy of all rows would double the memory
            part = rows[:, begin : begin + COLUMNS]
            small += ((part / diagonal[begin : begin + COLUMNS]) @ part.t()).double()
        parts = torch.linalg.lu_factor(small)

        def solve(r_QP: Tensor) -> Tensor:
            scaled = r_QP / diagonal
            found = torch.linalg.lu_solve(*parts, (rows @ scaled.t()).double()).to(r_QP)
            return scaled - (found.t() @ rows) / diagonal

        return solve


def _ones(b: Tensor, residual: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return residual.cpu().numpy(), np.ones(len(b), np.float32)


def _least(images_KP: Tensor, b_QP: Tensor) -> Tensor:
    """Return the weights [Q,K] of the images that come nearest to b."""
    if not len(images_KP):
        return b_QP.new_zeros(len(b_QP), 0)
    small = (images_KP @ images_KP.t()).double()
    found = torch.linalg.lstsq(small.cpu(), (images_KP @ b_QP.t()).double().cpu(), driver="gelsd").solution
    return found.t().to(b_QP)


def orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """Return an orthonormal basis of what `block` adds to the rows of `basis` (two sweeps, for rounding)."""
    block = block / block.norm(dim=1, keepdim=True).clamp(min=torch.finfo(block.dtype).tiny)
    for _ in range(2):
        block = block - (block @ basis.t()) @ basis
    _, values, rows = torch.linalg.svd(block, full_matrices=False)
    fresh = rows[values > 1e-5]
    return fresh - (fresh @ basis.t()) @ basis


def _line(start_QP: Tensor, trial_QP: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of the way from residual `start` to `trial` that is kept: all of it where that is not longer,
    else up to the shortest point; and its length relative to the start."""
    tiny = torch.finfo(start_QP.dtype).tiny
    before, change = start_QP.square().sum(1), trial_QP - start_QP
    along, curved = (change * start_QP).sum(1), change.square().sum(1)
    share = (-along / curved.clamp(min=tiny)).clamp(0, 1)
    share = torch.where(trial_QP.square().sum(1) <= before, torch.ones_like(share), share)
    found = before + 2 * share * along + share.square() * curved
    better = torch.isfinite(found) & (found < before)
    share, found = share.where(better, torch.zeros_like(share)), found.where(better, before)
    return share, (found.clamp(min=0) / before.clamp(min=tiny)).sqrt()


def stochastic(system: System, b: Tensor, how: Refinement, saved: Saved) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return the solution of what `steps` minibatches said of A; residuals on the guard's texts; shares kept.

    A step multiplies the current solutions with one minibatch's Gauss-Newton matrix (a product per query and text of
    the minibatch), adds what that shows to the approximation of A, and solves it again: cost and memory grow with the
    steps taken, not with the data. No step size has to be safe: each minibatch's part lies below its own matrix, so
    what is solved stays between D and A plus the fill, and its solution bounded. Steps that end before all texts were
    drawn solve for the texts that were. Beyond 0.8 with the full matrix at 50,000 parameters and 128 texts it needs
    every text drawn six to eight times (docs/log); the fill stays in directions that no product showed, so more steps
    approach the solution slowly there: krylov is the solver for digits.
    """
    known = Minibatches(system, b, how)
    system.planned = sum(len(known.groups[known.at(k)]) for k in range(known.steps)) * len(b) + 2 * len(known.guard) * len(b)
    before, facts = saved.load()
    if before:
        known.restore(before["rows"], before["origin"], before["diagonal"], facts["fresh"], facts["steps"])
    system.products = facts.get("products", 0)
    for k in range(facts.get("steps", 0), known.steps):
        known.learn(known.at(k), known.solve(b))
        state = {"rows": known.rows, "origin": torch.tensor(known.origin), "diagonal": known.diagonal}
        saved.save(state, {"steps": k + 1, "products": system.products, "fresh": known.fresh})
    y = known.solve(b)
    share, residual = _line(system.apply(b, known.guard) - b, system.apply(y, known.guard) - b)
    result = torch.where(share[:, None] > 0, b + share[:, None] * (y - b), b)  # what is refused may hold no numbers
    return result, residual.cpu().numpy(), share.cpu().numpy()


class Minibatches:
    """Minibatches of texts and low-rank parts of their Gauss-Newton matrices: rows U [R,P] with U^T U below the sum
    over the minibatch's texts, and equal to it on what it was multiplied with (Nystroem, one block of rows at a time).

    The texts are divided once, at random; an epoch draws every minibatch in a new order, so that products of a
    minibatch drawn again add to what is known of it. `steps` and their size are those asked for, or, where memory or
    the small systems set a limit, fewer steps with more texts each and as many products.
    """

    def __init__(self, system: System, b: Tensor, how: Refinement) -> None:
        self.system, self.seed, n_texts = system, how.seed, len(system.texts)
        most = max(2, min(HELD_PRODUCTS // b.numel(), MOST_ROWS // len(b)))
        self.steps = min(how.steps, most)
        size = -(-how.steps * how.batch_texts // self.steps)
        count = max(min(3, n_texts), n_texts // size)
        order = rng(how.seed, "refine-minibatches").permutation(n_texts).tolist()
        self.groups = [order[g::count] for g in range(count)]
        held = max(1, min(how.guard_texts // len(self.groups[0]), count // 3))
        self.guard = [n for group in self.groups[-held:] for n in group]
        self.all_rows, self.size = b.new_zeros(self.steps * len(b), b.shape[1]), 0
        self.origin: list[int] = []
        self.done = 0
        self.diagonal, self.fresh = torch.ones_like(b[0]), 0
        self.gram = torch.zeros(0, 0, dtype=torch.float64, device=b.device)

    @property
    def rows(self) -> Tensor:
        """Rows so far, [R,P]."""
        return self.all_rows[: self.size]

    def at(self, step: int) -> int:
        """Return the minibatch of a step; those of the guard come last in the first epoch."""
        epoch, place = divmod(step, len(self.groups))
        return place if not epoch else int(rng(self.seed, "refine-epoch", epoch).permutation(len(self.groups))[place])

    def restore(self, rows: Tensor, origin: Tensor, diagonal: Tensor, fresh: int, done: int) -> None:
        """Go on from these after `done` steps; `fresh` rows came after the diagonal."""
        self.size, self.origin, self.diagonal, self.fresh, self.done = len(rows), origin.tolist(), diagonal, fresh, done
        self.rows.copy_(rows)
        self.gram = self._products(rows)

    def learn(self, group: int, y: Tensor) -> None:
        """Multiply y with a minibatch's matrix and add what its rows do not say yet."""
        v = y / y.norm(dim=1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
        found = self.system.total(v, self.groups[group])
        scale = (v * found).sum(1).max()
        known = self.rows[[r for r, origin in enumerate(self.origin) if origin == group]]
        found = found - (v @ known.t()) @ known
        small = (v @ found.t()).double()
        values, vectors = torch.linalg.eigh((small + small.t()) / 2)
        clear = values > RESOLVED * scale
        rows = (vectors[:, clear] / values[clear].sqrt()).t().to(found) @ found
        self.all_rows[self.size : self.size + len(rows)] = rows
        self.size += len(rows)
        self.origin += [group] * len(rows)
        self.done += 1
        self._grow(len(rows))

    def solve(self, b: Tensor) -> Tensor:
        """Return the solution for b of what is known (Woodbury identity; small matrix in fp64)."""
        scaled = b / self.diagonal
        if not self.size:
            return scaled
        small = self.gram + self._drawn() * torch.eye(self.size).to(self.gram)
        weights = torch.cholesky_solve((self.rows @ scaled.t()).double(), torch.linalg.cholesky(small)).to(b)
        return scaled - (weights.t() @ self.rows) / self.diagonal

    def _drawn(self) -> int:
        return sum(len(group) for group in self.groups[: self.done])  # the first epoch goes through them in order

    def _grow(self, fresh: int) -> None:
        """Bring the small matrix up to date; now and then the diagonal, which changes all of it."""
        self.fresh += fresh
        if 4 * self.fresh > self.size:
            added, seen = self.system.added, torch.einsum("rp,rp->p", self.rows, self.rows) / self._drawn()
            self.diagonal = added + FILL * (1 - added - seen).clamp(min=0)
            self.gram, self.fresh = self._products(self.rows), 0
            return
        last = self._products(self.rows[self.size - fresh :])
        self.gram = torch.cat([torch.cat([self.gram, last[:-fresh]], 1), last.t()]) if fresh else self.gram

    def _products(self, some: Tensor) -> Tensor:
        """Return all rows times some of them through the diagonal's inverse, [R,some]."""
        found = torch.zeros(self.size, len(some), dtype=torch.float64, device=some.device)
        for begin in range(0, some.shape[1], COLUMNS):  # a scaled copy of all rows would double the memory
            part = slice(begin, begin + COLUMNS)
            found += (self.rows[:, part] @ (some[:, part] / self.diagonal[part]).t()).double()
        return found
