"""Model x segments -> how strongly each part of the response pulls on each attention projection: gradient norms by layer.

For every example and part: the L2 norm of the gradient of the part's loss with respect to the Q, K, V and O projections of
every layer, from the same weights (Liu et al. 2025, figure 6; `weights: base` takes those training started from, as the paper
does). `reduce: mean` is the loss per token of the part, `sum` their plain sum, for which the gradients of thought, code and
template add up to that of the response. `q_cosine` and its like are the cosine between two parts' gradients: do thought and code
pull the same way? Rows with an empty example speak of the loss over all examples together.
Not covered: MLP and embedding weights, biases, gradient noise over batches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from leaven.core.step import StepContext, step
from leaven.errors import BackendError
from leaven.lm.backend import Backend, Row
from leaven.probes.held_out import RESPONSE, Shown, open_held_out, value_row, write_values

Projections = dict[tuple[int, str], Tensor]
"""(layer, q | k | v | o) -> gradient of that projection's weight."""

_SPLIT = re.compile(r"\.(\d+)\.(?:self_attn|attn|attention|self_attention)\.([qkvo])_?(?:proj|lin)\.weight$")
_OUT = re.compile(r"\.(\d+)\.self_attn\.(?:out_proj|dense)\.weight$")
_GPT2 = re.compile(r"\.(\d+)\.attn\.(c_attn|c_proj)\.weight$")


@step(version=1)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write gradient norms and cosines per layer, projection and part, of every example and of all together.

    Args:
        spec: format, limit, options {by, markers, reduce (mean | sum), weights (model | base)}.
        inputs: `model` (or `base`), `examples`, `plugin:*`.
        out: Receives values.parquet, report.json, timings.parquet.
        ctx: Progress, stop and resources.

    Raises:
        StudyError: an unknown option or format, or no input `base`.
        BackendError: the architecture's attention projections are not known.
        DataError: no example can be shown.
    """
    held = open_held_out("gradients", spec, inputs, ctx)
    mean = held.options["reduce"] == "mean"
    rows: list[dict[str, Any]] = []
    sums: dict[str, Projections] = {}
    counts: dict[str, int] = {}
    weights: dict[str, float] = {}
    for block in held.blocks(ctx, "gradients"):
        for shown in block:
            found = {part: part_gradients(held.backend, shown, part) for part in (RESPONSE, *shown.learned_parts())}
            totals = {part: float(shown.learn[shown.learned(part)].sum()) for part in found}
            tokens = {part: int(shown.learned(part).sum()) for part in found}
            rows += _rows(shown.example, found, totals if mean else None, tokens)
            for part, gradients in found.items():
                _add(sums.setdefault(part, {}), gradients)
                counts[part] = counts.get(part, 0) + tokens[part]
                weights[part] = weights.get(part, 0.0) + totals[part]
    rows += _rows("", sums, weights if mean else None, counts)
    write_values(out, "gradients", rows, held.counts, held.began)


def part_gradients(backend: Backend, shown: Shown, part: str) -> Projections:
    """Return the gradients of sum(learn x nats) over the learned tokens of one part."""
    learn = np.where(shown.learned(part), shown.learn, 0.0).astype(np.float32)
    found = projections(backend.gradients([Row(shown.ids, learn)]))
    total = float(learn[1:].sum(dtype=np.float64))  # the backend divides by it
    return {key: gradient * total for key, gradient in found.items()}


def projections(gradients: Mapping[str, Tensor]) -> Projections:
    """Return the attention projections among named gradients; a fused query-key-value weight is cut in three.

    Raises:
        BackendError: names of an architecture that is not known here.
    """
    found: Projections = {}
    for name, gradient in gradients.items():
        if match := _SPLIT.search(name):
            found[int(match[1]), match[2]] = gradient
        elif match := _OUT.search(name):
            found[int(match[1]), "o"] = gradient
        elif match := _GPT2.search(name):
            if match[2] == "c_proj":
                found[int(match[1]), "o"] = gradient
            else:  # Conv1D: [D_in, 3 D_out]
                found |= {(int(match[1]), p): g for p, g in zip("qkv", gradient.chunk(3, 1), strict=True)}
    layers = {layer for layer, _ in found}
    if not found or any((layer, p) not in found for layer in layers for p in "qkvo"):
        attention = [n for n in gradients if "attn" in n or "attention" in n][:4]
        raise BackendError(
            f"gradients: expected q, k, v and o projections in every layer, found {sorted(found)[:4]} among names such as "
            f"{attention}; Llama, Qwen2, Mistral, Gemma, OPT and GPT-2 like models are known"
        )
    return found


def norm(gradient: Tensor) -> float:
    """Return the L2 norm over all entries."""
    return float(gradient.double().norm())


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two gradients as vectors; nan when one is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else float("nan")


def _rows(
    example: str, found: Mapping[str, Projections], totals: Mapping[str, float] | None, tokens: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return norms of every part (divided by `totals` when given) and cosines between parts."""
    rows = []
    for part, gradients in found.items():
        scale = totals[part] if totals else 1.0
        for (layer, module), gradient in sorted(gradients.items()):
            rows.append(value_row(example, part, module, norm(gradient) / scale, tokens[part], layer=layer))
    for a, b in combinations([p for p in found if p != RESPONSE], 2):
        for layer, module in sorted(found[a]):
            value = cosine(found[a][layer, module], found[b][layer, module])
            if np.isfinite(value):
                n = tokens[a] + tokens[b]
                rows.append(value_row(example, a, f"{module}_cosine", value, n, other=b, layer=layer))
    return rows


def _add(sums: Projections, gradients: Projections) -> None:
    for key, gradient in gradients.items():
        if key in sums:
            sums[key] += gradient
        else:
            sums[key] = gradient.clone()
