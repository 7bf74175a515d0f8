"""Query gradients -> solutions of (G + D) x = g in fp64, where the full Gauss-Newton matrix is too large to be formed.

Block conjugate gradients (O'Leary 1980) preconditioned by EK-FAC, on products in fp64 (products.py): directions of all
queries are shared, and a block that loses rank is made smaller. The residual |H x - g| / |g| of what is returned is
measured by one more product, so a reference states how exact it is. For models of about 10^4 to 10^6 parameters;
below, exact.py forms the matrix. Not covered: solutions within a budget of passes (refine.py).

Shapes: Q queries, P tracked parameters (flat, layers in order).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from leaven.attribution.exact import flatten, unflatten
from leaven.attribution.factors import Block, Factors
from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.products import gauss_newton, in_fp64
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.core.step import StepContext
from leaven.errors import BackendError


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Solutions [Q,o,i] per layer in fp64, |H x - g| / |g| of each query, and passes over the data."""

    vectors: Vectors
    residual: np.ndarray
    passes: int


def solve(
    tracked: Tracked,
    texts: Sequence[Text],
    gradients: Vectors,
    factors: Factors,
    damping: Mapping[str, float],
    *,
    residual: float = 1e-3,
    most_passes: int = 400,
    near: Callable[[Tensor], Tensor] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    resume: Path | None = None,
    ctx: StepContext | None = None,
) -> Reference:
    """Solve (G + D) x = g for query gradients [Q,o,i] per layer to a relative residual.

    `near`, a symmetric linear function of [Q,P] near (G + D)^-1, takes EK-FAC's place as preconditioner: it decides how
    many passes are needed, not what is returned. With `resume`, a file of the caller's naming keeps the state after
    every pass, and the same call goes on from it.

    Raises:
        BackendError: the residual is not reached, or a product cannot be formed.
    """
    ctx, model = ctx or StepContext(), in_fp64(tracked)
    exact = Factors({n: _fp64(b) for n, b in factors.blocks.items()}, factors.n_texts, factors.fisher, factors.seed)
    added = flatten(model, {n: torch.full(model.shape(n), damping[n], dtype=torch.float64) for n in model.names()})
    added = added.to(tracked.device)

    def apply(x_QP: Tensor) -> Tensor:
        total, directions = torch.zeros_like(x_QP), unflatten(model, x_QP)
        for batch in make_batches(texts, model.model.max_tokens, batch_tokens, device=model.device):
            ctx.check_stop()
            total += flatten(model, gauss_newton(model, batch, directions))
        return total / len(texts) + added * x_QP

    def precondition(r_QP: Tensor) -> Tensor:
        if near is not None:
            return near(r_QP)
        return flatten(model, exact.precondition(unflatten(model, r_QP), damping))

    right = flatten(model, gradients).double()
    size = right.norm(dim=1)
    x, left, passes = torch.zeros_like(right), right.clone(), 0
    block, true = _orthonormal(precondition(left)), torch.ones_like(size)
    if resume is not None and resume.is_file():
        state = load_file(resume)
        x, left, block, passes = state["x"], state["left"], state["block"], int(state["passes"])
    while passes < most_passes and bool((true > residual).any()):  # again where rounding kept it from the true residual
        while passes < most_passes and bool((left.norm(dim=1) > 0.5 * residual * size).any()):
            image = apply(block)
            passes += 1
            small = torch.linalg.pinv(block @ image.t(), hermitian=True)
            weights = left @ block.t() @ small
            x, left = x + weights @ block, left - weights @ image
            z = precondition(left)
            block = _orthonormal(z - (z @ image.t()) @ small @ block)
            ctx.progress(passes, most_passes, f"reference: residual {float((left.norm(dim=1) / size).max()):.1e}")
            if resume is not None:
                _save(resume, {"x": x, "left": left, "block": block, "passes": torch.tensor(passes)})
        left = right - apply(x)
        passes, true, block = passes + 1, left.norm(dim=1) / size, _orthonormal(precondition(left))
    if float(true.max()) > residual:
        raise BackendError(
            f"reference: expected a residual of at most {residual:g} within {most_passes} passes, found "
            f"{float(true.max()):.2g}; raise most_passes or the damping"
        )
    return Reference(unflatten(model, x), true.cpu().numpy(), passes)


def _save(path: Path, state: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def _orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the rows, each scaled first so that small ones count."""
    block = block / block.norm(dim=1, keepdim=True).clamp(min=torch.finfo(block.dtype).tiny)
    _, values, rows = torch.linalg.svd(block, full_matrices=False)
    return rows[values > 1e-8 * values[0]]


def _fp64(block: Block) -> Block:
    return Block(block.q_out.double(), block.q_in.double(), block.eigenvalues.double())
