"""Model, texts and settings -> what an attribution will take (time, memory, disk), said or refused before it starts.

Time is counted in gradient passes and matrix products and turned into seconds with rates measured on one small batch
and one product, so it is right within a factor of two, not within per cent. Not covered: what other processes do.

Notation: o x i tracked weights of a layer, T tokens, N texts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leaven.attribution.coding import SMALLEST_SHARE, Coding, choose_coding
from leaven.attribution.methods import baseline_passes
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import Query
from leaven.attribution.refine import Refinement
from leaven.attribution.steady import extra_bytes
from leaven.attribution.store import Store, text_keys
from leaven.attribution.tape import tape_bytes
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.errors import RefusedError, StudyError

CHECKED = (16, 64)
"""Fewest and most texts of a first filling whose whole gradients are kept to measure the loss of ranking."""
_EIGEN_FLOPS = 10
"""Operations of an eigendecomposition per n^3, at the speed of a product (measured at n = 1024)."""
_BYTES_PER_SECOND = 1e9


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured speed: seconds of a gradient pass per token, operations per second of a product."""

    seconds_per_token: float
    flops_per_second: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an attribution will take: gradient passes over tokens, products, and bytes."""

    n_texts: int
    n_tokens: int
    n_parameters: int
    passes: float
    flops: float
    memory_bytes: int
    disk_bytes: int

    def seconds(self, rates: Rates) -> float:
        """Return about how long it takes."""
        passing = self.passes * self.n_tokens * rates.seconds_per_token
        return passing + self.flops / rates.flops_per_second + self.disk_bytes / _BYTES_PER_SECOND

    def sentence(self, rates: Rates) -> str:
        """Return the estimate in words."""
        return (
            f"about {self.seconds(rates):.3g} s: {self.passes:.3g} passes over {self.n_texts} texts ({self.n_tokens} tokens); "
            f"{self.n_parameters} parameters, about {self.memory_bytes / 1e6:.3g} MB of memory beside the model, "
            f"{self.disk_bytes / 1e6:.3g} MB on disk"
        )


@dataclass(frozen=True, slots=True)
class Filling:
    """How a store will be filled: its coding, the bytes it ends up with and those needed on the way, and whether
    batches are kept between the two passes."""

    coding: Coding
    check_every: int
    keep_batches: bool
    bytes: int
    work_bytes: int
    new_texts: int

    def sentence(self) -> str:
        """Return it in words."""
        more = f", up to {(self.bytes + self.work_bytes) / 1e6:.3g} MB on the way" if self.work_bytes else ""
        return f"store: {self.new_texts} new texts as {self.coding.sentence()}; {self.bytes / 1e6:.3g} MB when filled{more}"


def estimate(
    tracked: Tracked,
    texts: Sequence[Text],
    queries: Sequence[Query],
    spec: Mapping[str, Any],
    filling: Filling | None = None,
) -> Estimate:
    """Return what an attribution will take; with a store, `texts` are all training texts."""
    shapes = [tracked.shape(n) for n in tracked.names()]
    parameters, widths = sum(o * i for o, i in shapes), sum(o + i for o, i in shapes)
    squares = sum(o * o + i * i for o, i in shapes)
    tokens, asked = sum(len(t.ids) for t in texts), sum(len(t.ids) for q in queries for t in q.texts)
    fitted = 1.0 if filling is None else filling.new_texts / max(1, len(texts))
    per_token = (1 + 2) * squares + 2 * parameters
    passes, flops = _finer_passes(tracked, texts, queries, spec), fitted * tokens * per_token
    if filling is None:
        passes, disk = passes + 3, 4 * (squares + parameters)
        flops += 2 * (tokens + len(queries) * len(texts)) * parameters
    else:
        passes = passes + fitted * (1 if filling.keep_batches else 2)
        flops += asked * (2 * squares + 2 * parameters) + 2 * len(queries) * len(texts) * parameters
        disk = filling.bytes + filling.work_bytes
    flops += fitted * _EIGEN_FLOPS * sum(o**3 + i**3 for o, i in shapes) + asked * 4 * parameters
    held = 3 * squares + 2 * parameters + 2 * len(queries) * parameters + 2 * BATCH_TOKENS * widths
    n_pairs = len(queries) * (min(len(texts), 2 * int(spec["keep"])) if spec["keep"] else len(texts))
    rows = n_pairs * (1 + (tokens / max(1, len(texts)) * len(spec["decompositions"]) if spec["level"] == "token" else 0))
    memory = 4 * int(held) + (extra_bytes(tracked.model.module, tracked.head_weight) if tracked.dtype == "fp32" else 0)
    return Estimate(len(texts), tokens, parameters, passes, flops, memory, int(disk + 16 * rows))


def _finer_passes(tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], spec: Mapping[str, Any]) -> float:
    """Return the gradient passes that finer levels, refining and baselines add."""
    more, finer = 0.0, spec["level"] != "instance"
    if finer and "loss" in spec["decompositions"]:
        more += 2 / 3 * len(queries)
    if finer and "leave_out" in spec["decompositions"]:  # once more over what is left for every segment of a text
        more += 1 + sum(1 if t.segment is None else len(np.unique(t.segment)) for t in texts) / max(1, len(texts))
    refining = dict(spec.get("refine") or {})
    if refining:  # each product is a forward-mode, a forward and a backward pass per query: about two gradient passes
        how = Refinement(**refining)
        more += 2 * len(queries) * (how.passes if how.solver == "krylov" else how.steps * how.batch_texts / max(1, len(texts)))
    return more + baseline_passes(spec["baselines"])


def measure_rates(tracked: Tracked, texts: Sequence[Text]) -> Rates:
    """Measure the second run of one small batch, and a product."""
    sample = list(texts[:8])
    for _ in range(2):
        began = time.perf_counter()
        for batch in make_batches(sample, tracked.model.max_tokens, device=tracked.device):
            tracked.backward(batch)
    per_token = (time.perf_counter() - began) / sum(len(t.ids) for t in sample)
    x = torch.ones(1024, 256, device=tracked.device, dtype=tracked.numbers)
    for _ in range(2):
        began = time.perf_counter()
        float((x.t() @ x)[0, 0])
    return Rates(per_token, 2 * 1024 * 256**2 / max(time.perf_counter() - began, 1e-9))


def plan_filling(
    folder: Path, store: Store | None, tracked: Tracked, texts: Sequence[Text], *, fisher: str, budget_bytes: int | None
) -> Filling:
    """Choose how the gradients of `texts` are kept within a budget (default: half of the free disk space).

    Raises:
        RefusedError: they do not fit, or the disk has less space than that.
    """
    free = shutil.disk_usage(_existing(folder)).free
    there = _size(folder) if store else 0
    budget = (free + there) // 2 if budget_bytes is None else budget_bytes
    shapes = [tracked.shape(n) for n in tracked.names()]
    parameters, squares = sum(o * i for o, i in shapes), sum(o * o + i * i for o, i in shapes)
    known = set(store.texts) if store else set()
    new = [t for key, t in zip(text_keys(texts), texts, strict=True) if key not in known]
    total = len(known) + len(new)
    fixed = 4 * (squares + 2 * parameters) + (1 << 20)
    if store is None:
        checked = min(total, max(CHECKED[0], min(CHECKED[1], total // 16)))
        checked = max(4, min(checked, int(0.1 * budget / (4 * parameters))))
        coding = choose_coding(budget - fixed - 4 * parameters * checked, total, parameters, len(shapes))
        check_every = -(-total // checked)
        if coding == Coding("bf16") and tracked.dtype == "bf16":  # rows are the gradients as they were computed
            check_every = 0
    else:
        coding, check_every = store.coding, store.check_every
    smallest = coding or Coding("int8", SMALLEST_SHARE)
    every = check_every or total
    rows = smallest.row_bytes(parameters, len(shapes)) * total + (4 * parameters * -(-total // every) if check_every else 0)
    if coding is None or fixed + rows > budget:
        raise RefusedError(
            f"store {folder}: expected a budget of at least {(fixed + rows) / 1e9:.3g} GB for {total} texts of {parameters} tracked "
            f"parameters ({smallest.sentence()}), found {budget / 1e9:.3g} GB"
            f"{' (half of the free space)' if budget_bytes is None else ''}; raise --budget, or track fewer layers (--modules mlp)"
        )
    tape = tape_bytes(tracked, sum(len(t.ids) for t in new), fisher == "true") if not store or store.bases is None else 0
    keep = tape > 0 and tracked.device == "cpu" and fixed + rows + tape <= min(budget, free + there)
    work = tape if keep else 0
    if fixed + rows + work - there > free:
        raise RefusedError(
            f"store {folder}: expected {(fixed + rows - there) / 1e9:.3g} GB of free disk space, found {free / 1e9:.3g} GB; "
            "give a smaller --budget, or a folder on another disk"
        )
    return Filling(coding, check_every, keep, fixed + rows, work, len(new))


_UNITS = {"": 1e9, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def parse_bytes(text: str) -> int:
    """Return bytes of 20GB, 500M, 1.5 TB; a plain number is GB.

    Raises:
        StudyError: anything else.
    """
    plain = text.strip().lower().removesuffix("b")
    unit = plain[-1:] if plain[-1:] in "kmgt" else ""
    try:
        found = float(plain.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        found = -1.0
    if not 0 < found < 1e18:
        raise StudyError(f"--budget: expected a size such as 20GB, 500MB or 1.5TB, found {text!r}")
    return int(found)


def _existing(folder: Path) -> Path:
    """Return the folder or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
