"""Model, the model it was trained from, segments -> how far training moved the next-token distributions, in nats.

Per example and part, the mean over its response tokens of KL(model || base) (`kl`) and KL(base || model) (`kl_reverse`), each over
the whole vocabulary at the place that predicts the token; part `response` takes everything learned, markers and end token
included (Liu et al. 2025, figure 4 left; direction and reduction are not given there, so both directions are reported).
Not covered: which base a study means (the plan passes the model that the stage started from).

Shapes: M tokens of the response, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leaven.core.step import StepContext, step
from leaven.errors import BackendError
from leaven.lm.backend import Backend, open_backend
from leaven.probes.held_out import RESPONSE, Shown, model_folder, open_held_out, value_row, write_values

CHUNK_NUMBERS = 1 << 22
"""Most logits held at once in double precision, per model."""


@step(version=1)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write both divergences of every example's response and parts.

    Args:
        spec: format, limit, options {by, markers}.
        inputs: `model`, `base`, `examples`, `plugin:*`.
        out: Receives values.parquet, report.json, timings.parquet.
        ctx: Progress, stop and resources.

    Raises:
        StudyError: no input `base`, or an unknown option or format.
        BackendError: the models do not share tokenizer and vocabulary.
        DataError: no example can be shown.
    """
    folder = model_folder("divergence", inputs, "base")
    held = open_held_out("divergence", spec, inputs, ctx)
    base = open_backend(folder, ctx.runtime)
    rows: list[dict[str, Any]] = []
    for block in held.blocks(ctx, "divergence from the base model"):
        for shown in block:
            _same_tokens(shown, base, Path(inputs["model"]), folder)
            rows += divergence_rows(held.backend, base, shown)
    write_values(out, "divergence", rows, held.counts, held.began)


def divergence_rows(model: Backend, base: Backend, shown: Shown) -> list[dict[str, Any]]:
    """Return the rows of one example."""
    learned = np.flatnonzero(shown.learned(RESPONSE))
    forward, reverse = token_divergences(model, base, shown.ids, learned - 1)
    rows = []
    for part in (RESPONSE, *shown.learned_parts()):
        chosen = shown.learned(part)[learned]
        for name, values in (("kl", forward), ("kl_reverse", reverse)):
            if chosen.any():
                rows.append(value_row(shown.example, part, name, values[chosen].mean(), int(chosen.sum())))
    return rows


def token_divergences(
    model: Backend, base: Backend, ids: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return KL(model || base) and KL(base || model) of the next token after each of the tokens `at`, float64[M] each.

    Raises:
        BackendError: the vocabularies differ in size.
    """
    forward, reverse = [], []
    chunk = max(1, CHUNK_NUMBERS // max(1, model.tokenizer.vocab_size))
    for begin in range(0, len(at), chunk):
        ours, theirs = (m.logits(ids, at[begin : begin + chunk]) for m in (model, base))
        if ours.shape != theirs.shape:
            raise BackendError(
                f"divergence: expected two models with one vocabulary, found {ours.shape[1]} and {theirs.shape[1]} tokens; "
                "compare a model with the one it was trained from"
            )
        a, b = kl_of_logits(ours, theirs), kl_of_logits(theirs, ours)
        forward.append(a.cpu().numpy())
        reverse.append(b.cpu().numpy())
    return np.concatenate(forward), np.concatenate(reverse)


def kl_of_logits(p_MV: Tensor, q_MV: Tensor) -> Tensor:
    """Return KL(softmax p || softmax q) in nats, float64 [M]; never below 0 by more than rounding."""
    log_p, log_q = torch.log_softmax(p_MV.double(), -1), torch.log_softmax(q_MV.double(), -1)
    share = log_p.exp()
    return torch.where(share > 0, share * (log_p - log_q), 0.0).sum(-1)


def _same_tokens(shown: Shown, base: Backend, model: Path, folder: Path) -> None:
    """Raise BackendError when the base cannot read an example's tokens."""
    if len(shown.ids) > base.max_tokens or int(shown.ids.max()) >= base.tokenizer.vocab_size:
        raise BackendError(
            f"divergence: {folder} (context {base.max_tokens}, {base.tokenizer.vocab_size} tokens) cannot read example "
            f"{shown.example!r} as {model} does; the base must share tokenizer and context with the model"
        )
