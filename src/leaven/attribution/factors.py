"""Training texts -> EK-FAC factors of each linear layer, and the damped inverse applied to gradients.

Per layer (Grosse et al. 2023, "Studying Large Language Model Generalization with Influence Functions", section 3.1;
George et al. 2018): A = E[a a^T], S = E[g g^T] over positions with loss; A = Q_A diag Q_A^T, S = Q_S diag Q_S^T;
eigenvalues are refitted as Lambda_jk = E[(Q_S^T G Q_A)_jk^2] over texts with G the gradient of a whole text; then (H
+ d)^-1 V = Q_S [(Q_S^T V Q_A) / (Lambda + d)] Q_A^T. Layers are independent (Kou et al. 2025 use MLP layers only).
The Fisher is "true" (labels drawn from the model with a named stream, so every pass sees the same labels) or
"empirical" (data labels). Padding and prompt positions contribute to neither A nor S; the text gradient in
Lambda is exact, so it keeps what flows back through prompts. Not covered: the sums themselves (sums.py), keeping the
gradients (store.py), coupling between layers (refine.py), several devices.

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
from leaven.attribution.sums import Covariances, add_squares, rotated, turns
from leaven.attribution.texts import BATCH_TOKENS, Text, label_draws, make_batches
from leaven.core.step import StepContext
from leaven.errors import DataError, StudyError

Fisher = Literal["true", "empirical"]


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

    def weigh(self, turned: Vectors, damping: Mapping[str, float]) -> Vectors:
        """Return V / (Lambda + d) of vectors in the eigenbasis, which take its place."""
        return {n: turned[n].div_(b.eigenvalues + damping[n]) for n, b in self.blocks.items()}

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors: dict[str, Tensor] = {}
        place: dict[int, str] = {}
        layers: dict[str, list[str]] = {}
        for name, block in self.blocks.items():
            layers[name] = []
            for part in ("q_out", "q_in", "eigenvalues"):
                x = getattr(block, part)
                if id(x) not in place:  # layers with one input share its eigenvectors
                    place[id(x)] = f"{name}|{part}"
                    tensors[place[id(x)]] = x.cpu().contiguous()
                layers[name].append(place[id(x)])
        facts = {"n_texts": self.n_texts, "fisher": self.fisher, "seed": self.seed}
        save_file(tensors, path, metadata={"facts": json.dumps(facts, sort_keys=True), "layers": json.dumps(layers)})

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Factors:
        """Read what `save` wrote; raise DataError when it is absent or something else."""
        try:
            tensors = load_file(path, device=device)
            with safe_open(path, framework="pt") as handle:
                facts, layers = (json.loads(handle.metadata()[k]) for k in ("facts", "layers"))
        except Exception as error:  # safetensors raises its own bare types
            raise DataError(
                f"{path}: expected factors written by leaven, {type(error).__name__}: {error}; delete the file "
                "and run again"
            ) from error
        return cls({n: Block(*(tensors[place] for place in places)) for n, places in layers.items()}, **facts)


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
        with tracked.steady():
            for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, pack_tokens, tracked.device):
                ctx.check_stop()
                use(tracked.backward(batch, label_draws(texts, batch, seed) if fisher == "true" else None))
                done += len(batch.numbers)
                ctx.progress(done, len(texts), note)

    covariances = Covariances()
    each_batch(covariances.add, "covariances")
    bases = covariances.bases()
    turning = turns(bases, tracked.numbers)
    eigenvalues = {n: torch.zeros(tracked.shape(n), device=tracked.device) for n in tracked.names()}

    def refit(seen: Seen) -> None:
        shared: dict[int, Tensor] = {}
        for name, total in eigenvalues.items():
            for _, found in rotated(seen, name, turning[name], shared):
                add_squares(total, found)

    each_batch(refit, "eigenvalues")
    blocks = {n: Block(bases[n].q_out, bases[n].q_in, eigenvalues[n] / len(texts)) for n in tracked.names()}
    return Factors(blocks, len(texts), fisher, seed)
