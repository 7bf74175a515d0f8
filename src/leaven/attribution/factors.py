"""Training texts -> EK-FAC factors of each linear layer, and the damped inverse applied to gradients.

Per layer (Grosse et al. 2023, "Studying Large Language Model Generalization with Influence Functions", section 3.1;
George et al. 2018): A = E[a a^T], S = E[g g^T] over positions with loss; A = Q_A diag Q_A^T, S = Q_S diag Q_S^T;
eigenvalues are refitted as Lambda_jk = E[(Q_S^T G Q_A)_jk^2] over texts with G the gradient of a whole text; then (H
+ d)^-1 V = Q_S [(Q_S^T V Q_A) / (Lambda + d)] Q_A^T. Layers are independent (Kou et al. 2025 use MLP layers only).
The Fisher is "true" (labels drawn from the model with a named stream, so every pass sees the same labels) or
"empirical" (data labels). Lambda rotates tokens or gradients, whichever takes fewer products: T(i^2 + o^2 + oi)
against Toi + oi(i + o) per text. Padding and prompt positions contribute to neither A nor S; the text gradient in
Lambda is exact, so it keeps what flows back through prompts. Not covered: coupling between layers (refine.py),
several devices.

Shapes: D texts of a batch, o outputs, i inputs (with bias column), Q vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leaven.attribution.passes import Seen, Tracked, Vectors
from leaven.attribution.texts import BATCH_TOKENS, Text, label_draws, make_batches
from leaven.core.step import StepContext
from leaven.errors import DataError, StudyError

Fisher = Literal["true", "empirical"]
_HELD = 1 << 26
"""Most numbers of one layer's text gradients held at once."""


@dataclass(frozen=True, slots=True)
class Damping:
    """`relative`: value x mean eigenvalue of each layer (0.1 in Grosse et al. 2023); `constant`: value itself."""

    rule: Literal["relative", "constant"] = "relative"
    value: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be inverted."""
        if self.rule not in ("relative", "constant") or not self.value > 0:
            raise StudyError(
                f"damping: expected rule relative or constant and a value above 0, found {self.rule!r}, {self.value!r}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One layer: eigenvectors in columns, q_out [o,o] and q_in [i,i]; eigenvalues [o,i] refitted, of the mean loss
    per text."""

    q_out: Tensor
    q_in: Tensor
    eigenvalues: Tensor

    def rotate(self, v_oi: Tensor) -> Tensor:
        """Return Q_S^T V Q_A."""
        return self.q_out.t() @ v_oi @ self.q_in

    def unrotate(self, v_oi: Tensor) -> Tensor:
        """Return Q_S V Q_A^T."""
        return self.q_out @ v_oi @ self.q_in.t()


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """EK-FAC of the mean loss per text over `n_texts` texts."""

    blocks: dict[str, Block]
    n_texts: int
    fisher: Fisher
    seed: int

    def damping(self, rule: Damping) -> dict[str, float]:
        """Return the number added to each layer's eigenvalues."""
        if rule.rule == "constant":
            return dict.fromkeys(self.blocks, rule.value)
        found = {n: rule.value * float(b.eigenvalues.mean(dtype=torch.float64)) for n, b in self.blocks.items()}
        dead = [n for n, d in found.items() if not d > 0]
        if dead:
            raise DataError(
                f"damping: expected layers with gradients, found {len(dead)} whose eigenvalues are all 0, "
                f"first {dead[0]}; leave them out"
            )
        return found

    def precondition(self, vectors: Vectors, damping: Mapping[str, float]) -> Vectors:
        """Return (H + d)^-1 V for V [o,i] or [Q,o,i] per layer."""
        return {n: b.unrotate(b.rotate(vectors[n]) / (b.eigenvalues + damping[n])) for n, b in self.blocks.items()}

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {
            f"{n}|{part}": getattr(b, part).cpu().contiguous()
            for n, b in self.blocks.items()
            for part in ("q_out", "q_in", "eigenvalues")
        }
        facts = {"n_texts": self.n_texts, "fisher": self.fisher, "seed": self.seed}
        save_file(tensors, path, metadata={"facts": json.dumps(facts, sort_keys=True)})

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Factors:
        """Read what `save` wrote; raise DataError when it is absent or something else."""
        try:
            tensors = load_file(path, device=device)
            with safe_open(path, framework="pt") as handle:
                facts = json.loads(handle.metadata()["facts"])
        except Exception as error:  # safetensors raises its own bare types
            raise DataError(
                f"{path}: expected factors written by leaven, {type(error).__name__}: {error}; delete the file "
                "and run again"
            ) from error
        names = sorted({key.split("|")[0] for key in tensors})
        return cls({n: Block(*(tensors[f"{n}|{p}"] for p in ("q_out", "q_in", "eigenvalues"))) for n in names}, **facts)


def fit_factors(
    tracked: Tracked,
    texts: Sequence[Text],
    *,
    fisher: Fisher = "true",
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    pack_tokens: int = 0,
    ctx: StepContext | None = None,
) -> Factors:
    """Fit EK-FAC in two passes over `texts` (covariances, then eigenvalues).

    Args:
        tracked: model and layers.
        texts: training texts; all of them define the mean loss whose curvature this is.
        fisher: where labels come from.
        seed: of the label draws.
        batch_tokens: most padded tokens per batch.
        pack_tokens: rows of several texts when above 0 (layout only).
        ctx: progress and stop.

    Raises:
        DataError: a text does not fit the model or has no loss.
        StudyError: `fisher` is unknown.
    """
    if fisher not in ("true", "empirical"):
        raise StudyError(f"fisher: expected true or empirical, found {fisher!r}")
    ctx = ctx or StepContext()

    def each_batch(use: Callable[[Seen], None], note: str) -> None:
        done = 0
        for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, pack_tokens, tracked.device):
            ctx.check_stop()
            use(tracked.backward(batch, label_draws(texts, batch, seed) if fisher == "true" else None))
            done += len(batch.numbers)
            ctx.progress(done, len(texts), note)

    covariances = _Covariances()
    each_batch(covariances.add, "covariances")
    bases = covariances.bases()
    eigenvalues = {n: torch.zeros(tracked.shape(n), device=tracked.device) for n in tracked.names()}

    def refit(seen: Seen) -> None:
        rotated: dict[int, Tensor] = {}
        for name, total in eigenvalues.items():
            _add_squares(total, seen, name, *bases[name], rotated)

    each_batch(refit, "eigenvalues")
    blocks = {n: Block(*bases[n], eigenvalues[n] / len(texts)) for n in tracked.names()}
    return Factors(blocks, len(texts), fisher, seed)


class _Covariances:
    """Running sums of a a^T per distinct input and g g^T per layer, over positions with loss."""

    def __init__(self) -> None:
        self.inner: dict[str, Tensor] = {}
        self.outer: dict[str, Tensor] = {}
        self.leader: dict[str, str] = {}

    def add(self, seen: Seen) -> None:
        """Add one batch; layers with the same input share one sum."""
        first: dict[int, str] = {}
        for name, a in seen.inputs.items():
            leader = self.leader[name] = first.setdefault(id(a), name)
            if leader == name:
                _add_gram(self.inner, name, seen.with_loss(a))
            _add_gram(self.outer, name, seen.with_loss(seen.grads[name]))

    def bases(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (Q_S, Q_A) per layer."""
        inner = {n: _eigenvectors(c) for n, c in self.inner.items()}
        return {n: (_eigenvectors(c), inner[self.leader[n]]) for n, c in self.outer.items()}


def _add_gram(sums: dict[str, Tensor], name: str, x_Rn: Tensor) -> None:
    if name not in sums:
        sums[name] = x_Rn.new_zeros(x_Rn.shape[1], x_Rn.shape[1])
    sums[name].addmm_(x_Rn.t(), x_Rn)


def _eigenvectors(gram: Tensor) -> Tensor:
    """Return eigenvectors in columns; scale does not matter, so a unit mean keeps the numbers in range."""
    scale = gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    return torch.linalg.eigh(((gram + gram.t()) / (2 * scale)).double())[1].to(gram.dtype)


def _add_squares(
    total_oi: Tensor, seen: Seen, name: str, q_out: Tensor, q_in: Tensor, rotated: dict[int, Tensor]
) -> None:
    """Add (Q_S^T G Q_A)^2 of every text of the batch."""
    a, g = seen.inputs[name], seen.grads[name]
    (o, i), texts = total_oi.shape, len(seen.batch.numbers)
    by_token = len(a) * (i * i + o * o) <= texts * o * i * (o + i)
    if by_token:
        key = id(a)
        if key not in rotated:
            rotated[key] = a @ q_in
        a, g = rotated[key], g @ q_out
    g_DTo, a_DTi = seen.batch.by_document(g).transpose(1, 2), seen.batch.by_document(a)
    step = max(1, _HELD // (o * i))
    for begin in range(0, texts, step):
        part = g_DTo[begin : begin + step] @ a_DTi[begin : begin + step]
        part = part if by_token else q_out.t() @ part @ q_in
        total_oi += part.square_().sum(0)
