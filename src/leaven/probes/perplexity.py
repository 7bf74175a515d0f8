"""Model x segments -> conditional perplexity of each part of the response, and the gap between the first and the second.

PPL(first | x) and PPL(second | x, first), perplexity = exp(mean nats per token of the part) (Liu et al. 2025, figure 3). With
thought before code the first part is the thought, with code before thought the code: `other` of every row says what the part was
conditioned on, so exchanging the order exchanges the roles. Rows per example: `perplexity` and `nats` (their logarithm) per
part; `gap` = PPL(first) - PPL(second) and `gap_nats` = the difference of logarithms, with part = first, other = second. The
mean of `gap` is the gap of the two distributions' means.
Not covered: histograms, Gaussian fits, contrasts (analysis/order.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leaven.core.step import StepContext, step
from leaven.probes.held_out import Shown, given_before, open_held_out, token_losses, value_row, write_values


@step(version=1)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write the perplexities of every example's parts (see the module).

    Args:
        spec: format, limit, options {by, markers}.
        inputs: `model`, `examples`, `plugin:*`.
        out: Receives values.parquet, report.json, timings.parquet.
        ctx: Progress, stop and resources.

    Raises:
        StudyError: an unknown option or format.
        DataError: no example can be shown.
    """
    held = open_held_out("perplexity", spec, inputs, ctx)
    rows: list[dict[str, Any]] = []
    for block in held.blocks(ctx, "perplexity"):
        for shown, losses in zip(block, token_losses(held.backend, block), strict=True):
            rows += perplexity_rows(shown, losses)
    write_values(out, "perplexity", rows, held.counts, held.began)


def perplexity_rows(shown: Shown, losses: np.ndarray) -> list[dict[str, Any]]:
    """Return the rows of one example from the nats of its tokens, float64[N]."""
    rows: list[dict[str, Any]] = []
    means: list[tuple[str, float, int]] = []
    for part in shown.learned_parts():
        at = shown.learned(part)
        nats, n = float(losses[at].mean()), int(at.sum())
        given = given_before(shown, part)
        rows.append(value_row(shown.example, part, "perplexity", math.exp(min(nats, 700.0)), n, other=given))
        rows.append(value_row(shown.example, part, "nats", nats, n, other=given))
        means.append((part, nats, n))
    if len(means) >= 2:
        (first, a, n_first), (second, b, n_second) = means[:2]
        gap = math.exp(min(a, 700.0)) - math.exp(min(b, 700.0))
        rows.append(value_row(shown.example, first, "gap", gap, n_first + n_second, other=second))
        rows.append(value_row(shown.example, first, "gap_nats", a - b, n_first + n_second, other=second))
    return rows
