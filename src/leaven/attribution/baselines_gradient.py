"""Gradients along training -> TracIn, plain and scaled by Adam, and LESS-style scores, [Q,N] each.

TracIn: sum over checkpoints of learning rate x <g_q, g_n> (Pruthi et al. 2020, eq. 3), per training text. Adam-scaled:
the inner product is g_q^T diag(1 / (sqrt(v) + eps)) g_n with Adam's bias-corrected second moment v, since that is how
far a step along g_n moves the weights. LESS (Xia et al. 2024, eq. 2-4): sum of learning rate x cos(P g_q, P u_n) with u_n the
Adam update that the text alone would cause, (b1 m + (1-b1) g_n) / (1-b1^t) over sqrt((b2 v + (1-b2) g_n^2) / (1-b2^t)
+ eps), gradients of the mean loss per token, and P a random projection. P is two-sided per layer
(projections.py), which forms no dims x parameters matrix; layers that fit are kept exactly.
Not covered: the maximum over target subtasks, warm-up training and low-rank adapters of LESS: scores use the run's own
checkpoints.

Shapes: Q queries, N texts, D texts of a batch, o outputs, i inputs (with bias column).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from leaven.attribution.baselines import gradient_scores
from leaven.attribution.passes import Tracked
from leaven.attribution.projections import Projection
from leaven.attribution.queries import Query, query_gradients
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.attribution.trajectory import Checkpoint, Moments
from leaven.core.step import StepContext
from leaven.errors import StudyError

BETAS, EPS = (0.9, 0.95), 1e-8
"""What train.betas and train.eps are unless set."""


def tracin(
    checkpoints: Sequence[Checkpoint], texts: Sequence[Text], queries: Sequence[Query], *, ctx: StepContext | None = None
) -> np.ndarray:
    """Return TracIn, [Q,N].

    Raises:
        StudyError: no checkpoint.
    """
    _refuse_none("tracin", checkpoints)
    total = np.zeros((len(queries), len(texts)))
    for checkpoint in checkpoints:
        tracked = checkpoint.open()
        found = gradient_scores(tracked, texts, query_gradients(tracked, queries), ctx=ctx)
        total += checkpoint.rate * found["gradient_dot"]
    return total


def tracin_adam(
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[Text],
    queries: Sequence[Query],
    *,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
    ctx: StepContext | None = None,
) -> np.ndarray:
    """Return TracIn with Adam's scale per weight, [Q,N].

    Raises:
        StudyError: no checkpoint, or one without moments.
    """
    _refuse_none("tracin_adam", checkpoints)
    total = np.zeros((len(queries), len(texts)))
    for checkpoint in checkpoints:
        tracked = checkpoint.open()
        moments = _moments("tracin_adam", checkpoint, tracked)
        correction = 1 - betas[1] ** moments.updates
        gradients = {n: g / ((moments.second[n] / correction).sqrt() + eps) for n, g in query_gradients(tracked, queries).items()}
        total += checkpoint.rate * gradient_scores(tracked, texts, gradients, ctx=ctx)["gradient_dot"]
    return total


def less(
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[Text],
    queries: Sequence[Query],
    *,
    dims: int = 8192,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    ctx: StepContext | None = None,
) -> np.ndarray:
    """Return LESS-style scores, [Q,N], between -1 and 1 times the sum of learning rates.

    Raises:
        StudyError: no checkpoint, or one without moments.
    """
    _refuse_none("less", checkpoints)
    ctx, total = ctx or StepContext(), np.zeros((len(queries), len(texts)))
    for checkpoint in checkpoints:
        tracked = checkpoint.open()
        moments = _moments("less", checkpoint, tracked)
        projection = Projection.random(tracked, dims, seed)
        wanted = _unit(projection.project(query_gradients(tracked, queries, "mean")))
        done = 0
        for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, device=tracked.device):
            ctx.check_stop()
            seen = tracked.backward(batch)
            weights = [abs(float(texts[n].token_weights().sum())) for n in batch.numbers]
            tokens = torch.tensor(weights, device=tracked.device)
            parts = []
            for name in tracked.names():
                mean = seen.text_gradients(name).float() / tokens[:, None, None]
                parts.append(projection.layer(name, adam_update(mean, name, moments, betas, eps)))
            found = _unit(torch.cat(parts, 1))
            total[:, batch.numbers] += checkpoint.rate * (wanted @ found.t()).double().cpu().numpy()
            done += len(batch.numbers)
            ctx.progress(done, len(texts), f"less, step {checkpoint.step}")
    return total


def adam_update(g_Doi: Tensor, name: str, moments: Moments, betas: tuple[float, float], eps: float) -> Tensor:
    """Return the Adam update (without the rate) that each gradient would cause next, [D,o,i] (Xia et al. 2024, eq. 3)."""
    step = moments.updates + 1
    first = betas[0] * moments.first[name] + (1 - betas[0]) * g_Doi
    second = betas[1] * moments.second[name] + (1 - betas[1]) * g_Doi.square()
    return first / (1 - betas[0] ** step) / (second / (1 - betas[1] ** step) + eps).sqrt()


def _unit(x_NK: Tensor) -> Tensor:
    """Return rows of norm 1 (rows of zeros stay)."""
    return x_NK / x_NK.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x_NK.dtype).tiny)


def refuse_without_moments(method: str, checkpoint: Checkpoint) -> None:
    """Raise StudyError where a checkpoint has no moments."""
    if checkpoint.moments is None:
        raise StudyError(
            f"{method}, checkpoint {checkpoint.step}: expected Adam's moments (state.safetensors) in its folder, in the "
            "model folder or in the input `moments`, found none; train with leaven or choose tracin"
        )


def _moments(method: str, checkpoint: Checkpoint, tracked: Tracked) -> Moments:
    refuse_without_moments(method, checkpoint)
    found = checkpoint.moments(tracked)  # type: ignore[misc]
    if found.updates < 1:
        raise StudyError(f"{method}, checkpoint {checkpoint.step}: expected moments after at least one step, found 0 steps")
    return found


def _refuse_none(method: str, checkpoints: Sequence[Checkpoint]) -> None:
    if not checkpoints:
        raise StudyError(f"{method}: expected at least one checkpoint, found none; keep some while training (train.checkpoints)")
