"""Folders of one training run -> its checkpoints with learning rates and Adam's moments, per tracked layer.

A baseline that follows training (TracIn, LESS) needs models along the way. They are the inputs `checkpoint:STEP`
(STEP = optimiser steps done), or, without such inputs, the folders checkpoints/step-* that training kept in the model
folder (train.checkpoints). A checkpoint stands for the steps since the one before it; its learning rate is their mean
(Xia et al. 2024, section 3.1), from curve.parquet of the model folder or from the setting `learning_rates`. Moments are read from
state.safetensors of the checkpoint; kept checkpoints have none, so those of the input `moments`, or else of the end of
training in the model folder, stand in for them: a cumulative scale per weight, later than the checkpoint.
Not covered: optimiser files of other trainers; moments of other optimisers.

Shapes: per tracked layer [o,i] with bias column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from leaven.attribution.passes import HEAD, Tracked, Vectors
from leaven.core.step import Resources
from leaven.core.tables import CURVE, read_table
from leaven.errors import DataError, StudyError
from leaven.lm.backend import open_backend
from leaven.lm.checkpoints import load_state


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Adam's running means of gradients and of their squares, without bias correction, after `updates` steps."""

    first: Vectors
    second: Vectors
    updates: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model along the way: steps done, the mean learning rate of the steps it stands for, and how to open it.

    `moments` is called with the opened model; None where no moments are to be had.
    """

    step: int
    rate: float
    open: Callable[[], Tracked]
    moments: Callable[[Tracked], Moments] | None = None


def training_path(
    inputs: Mapping[str, Path],
    open_tracked: Callable[[Path], Tracked],
    learning_rates: Mapping[str, float] | None = None,
) -> list[Checkpoint]:
    """Return the checkpoints among `inputs` in the order of training.

    Args:
        inputs: `model`; optionally `checkpoint:STEP` folders and `moments`, a folder with state.safetensors.
        open_tracked: opens a folder with the layers that the attribution tracks.
        learning_rates: of each STEP; None or empty: from curve.parquet of the model folder.

    Raises:
        StudyError: no checkpoint, or a name without a number.
        DataError: no learning rate is known for one.
    """
    folders = _folders(inputs)
    if not folders:
        raise StudyError(
            f"checkpoints: expected models along the training run, found neither inputs checkpoint:STEP nor "
            f"{Path(inputs['model']) / 'checkpoints'}; keep some while training (train.checkpoints: 6)"
        )
    rates = _rates(sorted(folders), Path(inputs["model"]), learning_rates or {})
    spare = Path(inputs.get("moments", inputs["model"]))
    result = []
    for step, folder in sorted(folders.items()):
        holder = next((f for f in (folder, spare) if (f / "state.safetensors").is_file()), None)
        read = None if holder is None else (lambda t, f=holder: moments_of_folder(t, f))
        result.append(Checkpoint(step, rates[step], lambda f=folder: open_tracked(f), read))
    return result


def open_like(tracked: Tracked, folder: Path, resources: Resources | None = None) -> Tracked:
    """Open a folder of the same architecture with the layers that `tracked` has.

    Raises:
        DataError: its layers have other names or shapes.
    """
    model = open_backend(folder, resources).model
    found = Tracked(model, tracked.modules, dtype=tracked.dtype)
    ours, theirs = ({n: t.shape(n) for n in t.names()} for t in (tracked, found))
    missing = [n for n in ours if theirs.get(n) != ours[n]] if set(ours) <= set(theirs) else sorted(set(ours) - set(theirs))
    if missing:
        raise DataError(
            f"{folder}: expected the layers of the attributed model, found other ones (first: {missing[0]}); "
            "give checkpoints of the same training run"
        )
    found.layers = {n: found.layers[n] for n in tracked.layers}
    return found


def moments_of_folder(tracked: Tracked, folder: Path) -> Moments:
    """Read state.safetensors of a folder that training wrote (flat vectors, matrices first, then vectors).

    Raises:
        BackendError: the file is absent or damaged.
        DataError: it belongs to another model.
    """
    tensors, _ = load_state(folder)
    named = list(tracked.model.module.named_parameters())
    named.sort(key=lambda pair: pair[1].dim() < 2)  # the order of lm/optimise.py
    sizes = [p.numel() for _, p in named]
    if len(tensors["exp_avg_sq"]) != sum(sizes):
        raise DataError(
            f"{folder}/state.safetensors: expected moments of {sum(sizes)} parameters, found {len(tensors['exp_avg_sq'])}; "
            "give the state of the same model"
        )
    first, second = (
        {n: v.view(p.shape) for (n, p), v in zip(named, tensors[key].split(sizes), strict=True)} for key in ("exp_avg", "exp_avg_sq")
    )
    return Moments(by_layer(tracked, first), by_layer(tracked, second), int(tensors["updates"][0]))


def by_layer(tracked: Tracked, named: Mapping[str, Tensor]) -> Vectors:
    """Return numbers per parameter, under the names of `named_parameters`, as [o,i] with bias column per layer."""
    result = {}
    for name in tracked.names():
        if name == HEAD:
            where = next(n for n, p in tracked.model.module.named_parameters() if p is tracked.head_weight)
            result[name] = named[where].to(tracked.device).float()
            continue
        layer = tracked.layers[name]
        value = named[f"{name}.weight"]
        value = value if isinstance(layer, nn.Linear) else value.t()
        if layer.bias is not None:
            value = torch.cat([value, named[f"{name}.bias"][:, None]], 1)
        result[name] = value.to(tracked.device).float().contiguous()
    return result


def _folders(inputs: Mapping[str, Path]) -> dict[int, Path]:
    """Return step -> folder."""
    found: dict[int, Path] = {}
    for name, folder in inputs.items():
        kind, _, step = name.partition(":")
        if kind != "checkpoint":
            continue
        if not step.isdigit():
            raise StudyError(f"input {name}: expected checkpoint:STEP with the number of steps done, found {step!r}")
        found[int(step)] = Path(folder)
    if not found:
        kept = Path(inputs["model"]) / "checkpoints"
        found = {int(f.name.removeprefix("step-")): f for f in sorted(kept.glob("step-*")) if f.name[5:].isdigit()}
    return found


def _rates(steps: Sequence[int], model: Path, given: Mapping[str, float]) -> dict[int, float]:
    """Return the mean learning rate of the steps since the checkpoint before."""
    if given:
        known = {int(k): float(v) for k, v in given.items()}
        missing = [s for s in steps if s not in known]
        if missing:
            raise DataError(f"learning_rates: expected one for each of the checkpoints {list(steps)}, found none for {missing}")
        return known
    if not (model / "curve.parquet").is_file():
        raise DataError(
            f"{model / 'curve.parquet'}: expected the learning rate of every step, found no such file; give "
            f"learning_rates for the checkpoints {list(steps)}"
        )
    curve = read_table(model / "curve.parquet", CURVE)
    result, before = {}, 0
    for step in steps:
        part = curve.filter(pl.col("step").is_between(before, step, closed="left"))["learning_rate"]
        if not len(part):
            raise DataError(f"{model / 'curve.parquet'}: expected the steps {before} to {step - 1}, found none of them")
        result[step], before = float(part.mean()), step  # type: ignore[arg-type]
    return result
