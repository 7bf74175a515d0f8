"""Model x segments -> who looks at what: mean attention maps and the attention mass between parts of the text.

`mass` from part a to part b is the mean over a's tokens of the attention (mean over heads) that falls on b's tokens: for each a the
masses sum to 1 over all b, `template` (markers, role and end tokens) among them. `uniform` is what a model that looks at all
earlier tokens alike would give at these lengths: mass grows with the size of what is looked at, so read the two together.
`sink` is the mass on the text's first token, which many models use as a rest. grid.parquet holds the map that Liu et al.
2025 draw (figure 5): the last layer's attention matrix, mean over heads, bilinear down-sampling to a fixed grid, mean over
examples; parts lie at different places in different examples, report.json says where they lie on average.
Not covered: attention flow through layers, drawing (report).

Shapes: H heads, T tokens, G cells of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leaven.core.step import StepContext, step
from leaven.core.tables import PROBE_GRID, write_table
from leaven.probes.held_out import Shown, open_held_out, value_row, write_values


@step(version=1)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write the attention mass between parts of every example, and the mean map of every layer asked for.

    Args:
        spec: format, limit, options {by, markers, layers (last | all), grid (cells per side), weights (model | base)}.
        inputs: `model` (or `base`), `examples`, `plugin:*`.
        out: Receives values.parquet, grid.parquet, report.json, timings.parquet.
        ctx: Progress, stop and resources.

    Raises:
        StudyError: an unknown option or format, or no input `base`.
        BackendError: the architecture does not give its attention weights.
        DataError: no example can be shown.
    """
    held = open_held_out("attention", spec, inputs, ctx)
    n_layers, cells = held.backend.model.n_layers, int(held.options["grid"])
    layers = list(range(n_layers)) if held.options["layers"] == "all" else [n_layers - 1]
    rows: list[dict[str, Any]] = []
    maps = torch.zeros(len(layers), cells, cells, dtype=torch.float64)
    for block in held.blocks(ctx, "attention"):
        for shown in block:
            shares = held.backend.attention(shown.ids, layers).mean(1).double().cpu()
            for layer, share_TT in zip(layers, shares, strict=True):
                rows += mass_rows(shown, share_TT.numpy(), layer)
            maps += resize(shares, cells)
    grid = (maps / len(held.shown)).numpy()
    write_table(
        out / "grid.parquet",
        [
            {"layer": layer, "row": r, "col": c, "value": float(grid[i, r, c]), "n": len(held.shown)}
            for i, layer in enumerate(layers)
            for r in range(cells)
            for c in range(cells)
        ],
        PROBE_GRID,
    )
    report = {**held.counts, "regions": mean_regions(held.shown)}
    write_values(out, "attention", rows, report, held.began)


def mass_rows(shown: Shown, share_TT: np.ndarray, layer: int) -> list[dict[str, Any]]:
    """Return the rows of one example and layer from its attention matrix, rows summing to 1."""
    masses = region_mass(share_TT, shown.label, len(shown.parts))
    alike = region_mass(uniform_attention(len(shown.ids)), shown.label, len(shown.parts))
    rows = []
    for a, part in enumerate(shown.parts):
        at = shown.label == a
        n = int(at.sum())
        if not n:
            continue
        for b, other in enumerate(shown.parts):
            for name, table in (("mass", masses), ("uniform", alike)):
                rows.append(value_row(shown.example, part, name, table[a, b], n, other=other, layer=layer))
        rows.append(value_row(shown.example, part, "sink", share_TT[at, 0].mean(), n, layer=layer))
    return rows


def region_mass(share_TT: np.ndarray, label_T: np.ndarray, n_parts: int) -> np.ndarray:
    """Return [parts, parts]: mean over the row part's tokens of the attention on the column part's; 0 rows for empty parts."""
    member = np.eye(n_parts)[label_T]
    return (member.T @ share_TT @ member) / np.maximum(member.sum(0), 1)[:, None]


def uniform_attention(n_tokens: int) -> np.ndarray:
    """Return the attention matrix of a model that looks at all tokens up to its own alike."""
    return np.tril(np.ones((n_tokens, n_tokens))) / np.arange(1, n_tokens + 1)[:, None]


def resize(shares_LTT: Tensor, cells: int) -> Tensor:
    """Return [L,G,G]: each matrix resized by bilinear interpolation whose support grows with the reduction.

    The same as torch.nn.functional.interpolate(mode="bilinear", antialias=True): every token counts when a long row becomes
    few cells, and a constant matrix stays constant.
    """
    weights = bilinear_weights(shares_LTT.shape[-1], cells).to(shares_LTT.dtype)
    return weights @ shares_LTT @ weights.t()


@lru_cache(maxsize=4096)
def bilinear_weights(size: int, cells: int) -> Tensor:
    """Return [G,T]: cell g is the mean of tokens around (g + 1/2) T/G - 1/2 under a triangle of half-width max(T/G, 1)."""
    scale = size / cells
    width = max(scale, 1.0)
    centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * scale
    tokens = torch.arange(size, dtype=torch.float64) + 0.5
    weights = (1 - (tokens[None] - centres[:, None]).abs() / width).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def mean_regions(shown: Sequence[Shown]) -> dict[str, list[float]]:
    """Return part -> mean first and last place of its tokens, as shares of the text's length."""
    places: dict[str, list[tuple[float, float]]] = {}
    for one in shown:
        for part in one.parts:
            at = np.flatnonzero(one.tokens(part))
            if len(at):
                places.setdefault(part, []).append((at[0] / len(one.ids), (at[-1] + 1) / len(one.ids)))
    return {part: [float(x) for x in np.mean(spans, 0)] for part, spans in sorted(places.items())}
