"""Gradients -> small projected gradients, and influence among them (LoGra, TrackStar): [Q,N] scores.

Per layer the gradient G [o,i] becomes L^T G R [r,r]. Random sides (entries N(0, 1/r), TrackStar: Chang et al. 2024,
section 3) keep inner products in expectation; PCA sides (LoGra: Choe et al. 2024, section 4.1) are the leading eigenvectors of the
covariances of g and a. Tokens are projected before they are multiplied, so no gradient of full size is formed. Scores
are <q, (F + d)^-1 n> / N with F the second moment of the projected training gradients, one block per layer, and d =
damping x its mean eigenvalue; `unit` divides by the norms of both in the same metric (TrackStar eq. 2).
Not covered: TrackStar's mixture of F with target gradients and its Adam correction.

Shapes: Q queries, N texts, D texts of a batch, K projected numbers of a layer, o outputs, i inputs (with bias column).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from leaven.attribution.passes import Seen, Tracked, Vectors
from leaven.attribution.queries import Query, query_gradients
from leaven.attribution.sums import Covariances
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.core.rng import rng
from leaven.core.step import StepContext
from leaven.errors import StudyError

HELD_NUMBERS = 1 << 27
"""Projected numbers kept between both uses (512 MB); more texts are projected twice."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Sides per layer: left [o,r] or None, right [i,r] or None (None = that side as it is)."""

    left: dict[str, Tensor | None]
    right: dict[str, Tensor | None]

    @classmethod
    def random(cls, tracked: Tracked, dims: int, seed: int) -> Projection:
        """Draw sides so that all layers together keep about `dims` numbers; layers that fit stay whole."""
        if dims < len(tracked.names()):
            raise StudyError(f"projection: expected at least one number per layer ({len(tracked.names())}), found {dims}")
        share = dims / len(tracked.names())
        left: dict[str, Tensor | None] = {}
        right: dict[str, Tensor | None] = {}
        for name in tracked.names():
            o, i = tracked.shape(name)
            side = max(1, math.isqrt(int(share)))
            whole = o * i <= share
            left[name], right[name] = (
                None if whole or side >= size else _gaussian(seed, name, part, size, side).to(tracked.device)
                for part, size in (("out", o), ("in", i))
            )
        return cls(left, right)

    @classmethod
    def pca(
        cls, tracked: Tracked, texts: Sequence[Text], dims: int, batch_tokens: int = BATCH_TOKENS, ctx: StepContext | None = None
    ) -> Projection:
        """Use the leading eigenvectors of each layer's input and gradient covariances: one pass over the texts."""
        ctx, covariances = ctx or StepContext(), Covariances()
        for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, device=tracked.device):
            ctx.check_stop()
            covariances.add(tracked.backward(batch))
        side = max(1, math.isqrt(max(1, dims // len(tracked.names()))))
        bases = covariances.bases()
        left, right = (
            {n: q[:, -side:].contiguous() if side < len(q) else None for n in tracked.names() for q in [pick(bases[n])]}
            for pick in (lambda b: b.q_out, lambda b: b.q_in)
        )
        return cls(left, right)

    def layer(self, name: str, g_Doi: Tensor) -> Tensor:
        """Return projected gradients of one layer, [D,K]."""
        left, right = self.left[name], self.right[name]
        g_Doi = g_Doi if left is None else left.t() @ g_Doi
        return (g_Doi if right is None else g_Doi @ right).flatten(1)

    def project(self, vectors: Vectors) -> Tensor:
        """Return projected gradients [Q,o,i] of all layers side by side."""
        return torch.cat([self.layer(n, v) for n, v in vectors.items()], 1)

    def texts(self, seen: Seen, name: str) -> Tensor:
        """Return projected gradients of a batch's texts, [D,K], by projecting tokens first."""
        a, g = seen.inputs[name].float(), seen.grads[name].float()
        left, right = self.left[name], self.right[name]
        a, g = a if right is None else a @ right, g if left is None else g @ left
        return Seen(seen.batch, {name: a}, {name: g}, seen.losses).text_gradients(name).flatten(1)


def projected(
    tracked: Tracked,
    texts: Sequence[Text],
    queries: Sequence[Query],
    *,
    basis: Literal["random", "pca"] = "random",
    unit: bool = False,
    dims: int = 4096,
    damping: float = 0.1,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    ctx: StepContext | None = None,
) -> np.ndarray:
    """Return influence among projected gradients, [Q,N].

    Args:
        tracked: model and layers.
        texts: training texts.
        queries: targets.
        basis: how sides are chosen.
        unit: divide by both norms: directions alone count.
        dims: projected numbers of all layers together.
        damping: as a multiple of each layer's mean eigenvalue.
        seed: of random sides.
        batch_tokens: most padded tokens per batch.
        ctx: progress and stop.

    Raises:
        StudyError: an unknown basis, fewer dims than layers, or damping of 0.
    """
    if basis not in ("random", "pca") or not damping > 0:
        raise StudyError(f"projected: expected basis random or pca and damping above 0, found {basis!r} and {damping!r}")
    ctx = ctx or StepContext()
    if basis == "pca":
        projection = Projection.pca(tracked, texts, dims, batch_tokens, ctx)
    else:
        projection = Projection.random(tracked, dims, seed)
    wanted = {n: projection.layer(n, v) for n, v in query_gradients(tracked, queries).items()}
    kept: list[tuple[list[int], Vectors]] = []
    moments: Vectors = {}
    hold = len(texts) * sum(v.shape[1] for v in wanted.values()) <= HELD_NUMBERS
    for numbers, found in _features(tracked, texts, projection, batch_tokens, ctx):
        for name, x in found.items():
            moments[name] = moments[name] + x.t() @ x if name in moments else x.t() @ x
        if hold:
            kept.append((numbers, found))
    inverse = {n: _damped_inverse(f / len(texts), damping) for n, f in moments.items()}
    solved = {n: q @ inverse[n] for n, q in wanted.items()}
    scores, square = np.zeros((len(queries), len(texts))), np.zeros(len(texts))
    for numbers, found in kept or _features(tracked, texts, projection, batch_tokens, ctx):
        for name, x in found.items():
            scores[:, numbers] += (solved[name] @ x.t()).double().cpu().numpy()
            if unit:
                square[numbers] += ((x @ inverse[name]) * x).sum(1).double().cpu().numpy()
    if not unit:
        return scores / len(texts)
    of_query = sum((solved[n] * q).sum(1).double().cpu().numpy() for n, q in wanted.items())
    scale = np.sqrt(np.outer(of_query, square))
    return np.divide(scores, scale, out=np.zeros_like(scores), where=scale > 0)


def _features(
    tracked: Tracked, texts: Sequence[Text], projection: Projection, batch_tokens: int, ctx: StepContext
) -> Iterator[tuple[list[int], Vectors]]:
    """Yield which texts, and their projected gradients [D,K] per layer, batch by batch."""
    done = 0
    for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, device=tracked.device):
        ctx.check_stop()
        seen = tracked.backward(batch)
        yield batch.numbers, {n: projection.texts(seen, n) for n in tracked.names()}
        done += len(batch.numbers)
        ctx.progress(done, len(texts), "projected gradients")


def _damped_inverse(moment_KK: Tensor, damping: float) -> Tensor:
    """Return (F + damping x mean eigenvalue)^-1 by fp64 Cholesky."""
    f = moment_KK.double()
    added = damping * float(f.diagonal().mean())
    f = f + max(added, torch.finfo(torch.float32).tiny) * torch.eye(len(f), dtype=f.dtype, device=f.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(f)).float()


def _gaussian(seed: int, name: str, part: str, size: int, side: int) -> Tensor:
    draws = rng(seed, "projection", name, part).standard_normal((size, side)) / math.sqrt(side)
    return torch.from_numpy(draws.astype(np.float32))
