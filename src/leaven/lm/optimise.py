"""Gradients of any module -> AdamW steps on one flat fp32 master vector, with schedules in closed form.

All trained parameters become views of one flat vector (decayed weights first), so that zeroing, clipping and the fused
AdamW kernel are a handful of passes whatever the number of tensors. With dtype bf16 the model computes in bf16 views
while the master, both moments and the accumulated gradient stay fp32. Weight decay spares vectors (norm gains, biases).
Not covered: sharding over devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leaven.errors import StudyError

SCHEDULES = ("constant", "cosine", "linear")


def learning_rate(train: Mapping[str, Any], step: int, n_steps: int) -> float:
    """Return the learning rate of 0-based `step` of `n_steps`.

    Linear warm-up to `lr`, then constant, or cosine or linear down to `min_lr`. Warm-up is `warmup_steps`, or
    `warmup_ratio` of all steps, rounded up; step w-1 of w warm-up steps has the full rate.

    Raises:
        StudyError: the schedule has another name.
    """
    peak, low, kind = float(train["lr"]), float(train.get("min_lr") or 0.0), train.get("schedule", "constant")
    warmup = train.get("warmup_steps")
    warmup = math.ceil(float(train.get("warmup_ratio") or 0.0) * n_steps) if warmup is None else int(warmup)
    if kind not in SCHEDULES:
        raise StudyError(f"train.schedule: expected one of {', '.join(SCHEDULES)}, found {kind!r}")
    if step < warmup:
        return peak * (step + 1) / warmup
    if kind == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, n_steps - 1 - warmup))
    fall = 0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done
    return low + (peak - low) * fall


class FlatAdamW:
    """AdamW over the trained parameters of a model as one vector; moves the parameters into it when constructed."""

    def __init__(self, model: nn.Module, train: Mapping[str, Any], dtype: torch.dtype) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        # matrices first: the first `split` numbers are decayed, the rest (norm gains, biases) are not
        named.sort(key=lambda pair: pair[1].dim() < 2)
        self.named = named
        self.clip = float(train.get("clip") or 0.0)
        self.split = sum(p.numel() for _, p in named if p.dim() >= 2)
        device = named[0][1].device
        self.master = torch.cat([p.detach().reshape(-1).float() for _, p in named]).to(device)
        self.work = self.master if dtype == torch.float32 else self.master.to(dtype)
        self.work_grad = torch.zeros_like(self.work)
        self.gradient = self.work_grad if dtype == torch.float32 else torch.zeros_like(self.master)
        self._point(self.work, self.work_grad)
        self.decay = float(train.get("weight_decay") or 0.0)
        self.betas = tuple(float(b) for b in train.get("betas") or (0.9, 0.95))
        self.eps = float(train.get("eps") or 1e-8)
        self.first, self.second = torch.zeros_like(self.master), torch.zeros_like(self.master)
        self.updates = torch.zeros((), device=device)

    def _point(self, values: Tensor, gradients: Tensor) -> None:
        """Make every parameter and its gradient a view of the flat vectors."""
        at = 0
        for _, parameter in self.named:
            end = at + parameter.numel()
            parameter.data = values[at:end].view_as(parameter)
            parameter.grad = gradients[at:end].view_as(parameter)
            at = end

    def collect(self, first: bool) -> None:
        """Add one micro-batch's bf16 gradients to the fp32 ones (fp32 training accumulates in place)."""
        if self.gradient is self.work_grad:
            return
        if first:
            self.gradient.copy_(self.work_grad)
        else:
            self.gradient.add_(self.work_grad)
        self.work_grad.zero_()

    def step(self, rate: float) -> float:
        """Clip, update, zero the gradients; return the gradient norm before clipping."""
        norm = float(torch.linalg.vector_norm(self.gradient))
        if self.clip > 0 and norm > self.clip:
            self.gradient.mul_(self.clip / norm)
        self.updates += 1
        for part, decay in ((slice(0, self.split), self.decay), (slice(self.split, None), 0.0)):
            vectors = ([v[part]] for v in (self.master, self.gradient, self.first, self.second))
            # the kernel of torch.optim.AdamW(fused=True) without its class, whose first step imports torch._dynamo (1
            # CPU-second)
            torch._fused_adamw_(
                *vectors,
                [],
                [self.updates],
                lr=rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )
        if self.work is not self.master:
            self.work.copy_(self.master)
        else:
            self.gradient.zero_()
        return norm

    def weights(self) -> dict[str, Tensor]:
        """Return fp32 views of the trained parameters under their names."""
        result, at = {}, 0
        for name, parameter in self.named:
            result[name] = self.master[at : at + parameter.numel()].view(parameter.shape)
            at += parameter.numel()
        return result

    def state(self) -> dict[str, Tensor]:
        """Return master weights and moments as flat vectors."""
        return {
            "master": self.master,
            "exp_avg": self.first,
            "exp_avg_sq": self.second,
            "updates": self.updates.reshape(1),
        }

    def load_moments(self, state: Mapping[str, Tensor]) -> None:
        """Restore the moments and the update count of `state` (bias correction goes on where it was)."""
        self.first.copy_(state["exp_avg"])
        self.second.copy_(state["exp_avg_sq"])
        self.updates.copy_(state["updates"][0])

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore master weights and moments."""
        self.master.copy_(state["master"])
        if self.work is not self.master:
            self.work.copy_(self.master)
        self.load_moments(state)
