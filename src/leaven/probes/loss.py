"""Model x held-out examples -> the validation loss of every example, as training weighs it, and of each of its parts.

`loss` with part `response` is sum(learn x nats) / sum(learn) over everything learned, markers and end token included: the
loss that training lowers, on the model's own format (Liu et al. 2025, figure 4 right). Parts are means over their own tokens.
Not covered: the distribution over examples and its comparison (analysis/order.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leaven.core.step import StepContext, step
from leaven.probes.held_out import RESPONSE, Shown, open_held_out, token_losses, value_row, write_values


@step(version=1)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write the loss in nats per token of every example's response and parts; arguments as for perplexity.measure."""
    held = open_held_out("loss", spec, inputs, ctx)
    rows: list[dict[str, Any]] = []
    for block in held.blocks(ctx, "validation loss"):
        for shown, losses in zip(block, token_losses(held.backend, block), strict=True):
            rows += loss_rows(shown, losses)
    write_values(out, "loss", rows, held.counts, held.began)


def loss_rows(shown: Shown, losses: np.ndarray) -> list[dict[str, Any]]:
    """Return the rows of one example from the nats of its tokens, float64[N]."""
    rows = []
    for part in (RESPONSE, *shown.learned_parts()):
        at = shown.learned(part)
        if at.any():
            rows.append(
                value_row(shown.example, part, "loss", np.average(losses[at], weights=shown.learn[at]), int(at.sum()))
            )
    return rows
