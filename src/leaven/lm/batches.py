"""Order table + token arrays -> the padded index arrays of each optimiser step, all in numpy.

A step's slots become rows (slots with one `pack` number share a row, each document with its own positions and mask),
rows are sorted by length and cut into micro-batches, and only tokens that the loss reads get a target: loss = sum of
weight x learn x token loss over sum of weight x learn of the *whole* step, so micro-batching, bucketing and packing
leave it unchanged. The first token of a document (or of a window into one) is context only: nothing precedes it. Slots
of weight 0 are left out entirely.
Not covered: which examples a step holds (data/build.py), tensors (loop.py).

Shapes: B rows, T tokens of the longest row, M targets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from leaven.core.tables import ORDER, read_table
from leaven.data.tokenise import load_tokens
from leaven.errors import DataError

BUCKET_COST_TOKENS = 256
"""What one more micro-batch costs, in padded tokens (measured with the 0.16M model on one core)."""
MOST_BUCKETS = 4
TARGETS_PER_TOKEN = 8
"""With `round_to` tokens per row, the number of targets is rounded to this many times as much."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One micro-batch. `positions` and `document` are None when every row is a single document starting at column 0.

    ids int64[B,T]; target_at int64[M] indexes the flattened [B*T] hidden states; target_ids int64[M]; weights
    float32[M] sum to this batch's share of 1 over the step; examples name what it holds (for error messages).
    """

    ids: np.ndarray
    positions: np.ndarray | None
    document: np.ndarray | None
    target_at: np.ndarray
    target_ids: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class StepBatches:
    """All micro-batches of one optimiser step with its token counts (padding excluded)."""

    batches: list[Batch]
    n_tokens: int
    n_learned_tokens: int
    n_examples: int


class TrainingOrder:
    """One stage's slots in step order, joined with where their tokens lie."""

    def __init__(self, order: pl.DataFrame, start: np.ndarray, ids: np.ndarray, learn: np.ndarray, pad_id: int) -> None:
        """Use `open_order`; `start` holds each slot's first position in the flat `ids` and `learn`."""
        self._rows = order
        self._start, self._ids, self._learn, self.pad_id = start, ids, learn, pad_id
        self._count = order["n_tokens"].to_numpy().astype(np.int64)
        self._weight = order["weight"].to_numpy().astype(np.float32)
        self._pack = order["pack"].to_numpy()
        steps = order["step"].to_numpy()
        self._first = int(steps[0])
        self.n_steps = int(steps[-1]) - self._first + 1
        self._bounds = np.searchsorted(steps, np.arange(self._first, self._first + self.n_steps + 1))

    def examples(self, step: int) -> list[str]:
        """Return "source/example (format)" of every slot of a step."""
        rows = self._rows.slice(int(self._bounds[step]), int(self._bounds[step + 1] - self._bounds[step]))
        return [f"{r['source']}/{r['example']} ({r['format']})" for r in rows.iter_rows(named=True)]

    def prefix_digest(self, steps: int) -> str:
        """Return a digest of everything the first `steps` steps train on (slots and their tokens)."""
        end = int(self._bounds[steps])
        state = hashlib.sha256(self._rows.slice(0, end).write_ndjson().encode())
        for begin, count in zip(self._start[:end], self._count[:end], strict=True):
            state.update(self._ids[begin : begin + count].tobytes())
            state.update(self._learn[begin : begin + count].tobytes())
        return state.hexdigest()

    def mean_row_tokens(self) -> float:
        """Return the mean row length over the stage."""
        packs = self._rows.select("step", "pack").n_unique()
        return float(self._count.sum()) / max(packs, 1)

    def n_tokens(self) -> int:
        """Return the number of tokens of the stage."""
        return int(self._count.sum())

    def longest(self) -> int:
        """Return the length of the longest row."""
        return int(self._rows.group_by("step", "pack").agg(pl.col("n_tokens").sum())["n_tokens"].max() or 0)

    def step(self, step: int, micro_batch: int = 0, round_to: int = 1, most_tokens: int = 16384) -> StepBatches:
        """Return the micro-batches of one step.

        Args:
            step: 0-based within the stage.
            micro_batch: most rows per micro-batch; 0 = by length buckets alone.
            round_to: pad rows to a multiple of this many tokens (few shapes for a compiler).
            most_tokens: most padded tokens per micro-batch.

        Raises:
            DataError: no token of the step has a loss weight.
        """
        begin, end = int(self._bounds[step]), int(self._bounds[step + 1])
        slots = begin + np.flatnonzero(self._weight[begin:end] != 0)
        total = self._total_weight(slots)
        if not total > 0:
            raise DataError(
                f"order table, step {step}: expected at least one token with weight x learn > 0, found none in "
                f"{self.examples(step)[:8]}; give the format a learned segment or drop these examples"
            )
        _, row_of = np.unique(self._pack[slots], return_inverse=True)
        lengths = np.bincount(row_of, weights=self._count[slots]).astype(np.int64)
        batches = []
        for rows in cut_rows(lengths, micro_batch, round_to, most_tokens):
            local = np.full(len(lengths), -1)
            local[rows] = np.arange(len(rows))
            chosen = local[row_of] >= 0
            batches.append(
                self._batch(slots[chosen], local[row_of[chosen]], len(rows), int(lengths[rows].max()), round_to, total)
            )
        return StepBatches(
            batches, int(self._count[slots].sum()), sum(int((b.weights > 0).sum()) for b in batches), len(slots)
        )

    def _flat(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return every token's place in the flat arrays, position in its document and index of its slot."""
        counts = self._count[slots]
        position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self._start[slots], counts) + position, position, np.repeat(np.arange(len(slots)), counts)

    def _total_weight(self, slots: np.ndarray) -> float:
        source, position, slot = self._flat(slots)
        weights = self._learn[source].astype(np.float64) * self._weight[slots][slot]
        return float(weights[position > 0].sum())

    def _batch(
        self, slots: np.ndarray, rows: np.ndarray, n_rows: int, longest: int, round_to: int, total: float
    ) -> Batch:
        order = np.argsort(rows, kind="stable")
        slots, rows = slots[order], rows[order]
        width = -(-longest // round_to) * round_to
        source, position, slot = self._flat(slots)
        counts = self._count[slots]
        ends = np.cumsum(counts)
        first_of_row = np.searchsorted(rows, rows)  # rows are sorted, so this is each slot's first neighbour in its row
        offset = (ends - counts) - (ends - counts)[first_of_row]
        place = (rows * width + offset)[slot] + position
        ids = np.full(n_rows * width, self.pad_id, np.int64)
        ids[place] = self._ids[source]
        weights = self._learn[source] * self._weight[slots][slot]
        learned = np.flatnonzero((position > 0) & (weights > 0))
        packed = len(slots) > n_rows
        positions = document = None
        if packed:
            positions, document = np.zeros(n_rows * width, np.int64), np.full(n_rows * width, -1, np.int64)
            positions[place], document[place] = position, slot
            positions, document = positions.reshape(n_rows, width), document.reshape(n_rows, width)
        targets = place[learned]
        shares = (weights[learned] / total).astype(np.float32)
        if round_to > 1 and len(targets):  # few shapes of targets too: repeat the first one at weight 0
            more = -len(targets) % (TARGETS_PER_TOKEN * round_to)
            targets, shares = (
                np.append(targets, targets[:1].repeat(more)),
                np.append(shares, np.zeros(more, np.float32)),
            )
        return Batch(ids.reshape(n_rows, width), positions, document, targets - 1, ids[targets], shares)


def cut_rows(lengths: np.ndarray, micro_batch: int, round_to: int, most_tokens: int) -> list[np.ndarray]:
    """Return each micro-batch's rows: by length, in as many equal cuts as pay for themselves in saved padding."""
    by_length = np.argsort(-lengths, kind="stable")
    padded = -(-lengths // round_to) * round_to
    options = [
        [part for part in np.array_split(by_length, k) if len(part)]
        for k in range(1, min(MOST_BUCKETS, len(lengths)) + 1)
    ]
    best = min(options, key=lambda parts: sum(BUCKET_COST_TOKENS + len(p) * int(padded[p].max()) for p in parts))
    result = []
    for part in best:
        rows = max(1, most_tokens // int(padded[part].max()))
        rows = min(rows, micro_batch) if micro_batch > 0 else rows
        result += [part[i : i + rows] for i in range(0, len(part), rows)]
    return result


def open_order(order_folder: Path, inputs: Mapping[str, Path], stage: str, pad_id: int) -> TrainingOrder:
    """Read a stage of an order table and the token arrays it refers to.

    Token folders are the inputs called `tokens:<anything>` or `<source>|<format>`; their lengths.parquet says which
    (source, example, format) they hold.

    Raises:
        DataError: the stage has no rows, or a slot names tokens that no input holds.
    """
    order = read_table(order_folder / "order.parquet", ORDER).select(list(ORDER))
    rows = order.filter(pl.col("stage") == stage).sort("step", "slot")
    if rows.is_empty():
        raise DataError(
            f"{order_folder}/order.parquet: expected rows of stage {stage!r}, found stages "
            f"{order['stage'].unique().to_list()}"
        )
    lengths, ids, learn = _read_tokens(
        [inputs[name] for name in sorted(inputs) if name.startswith("tokens:") or "|" in name]
    )
    joined = rows.join(lengths, on=["source", "example", "format"], how="left", maintain_order="left")
    lost = joined.filter(pl.col("offset").is_null() | (pl.col("start_token") + pl.col("n_tokens") > pl.col("length")))
    if not lost.is_empty():
        row = lost.row(0, named=True)
        raise DataError(
            f"{order_folder}/order.parquet: {lost.height} slots name tokens that no input holds, first {row['source']}/"
            f"{row['example']} in format {row['format']} ({row['length']} tokens, wanted {row['start_token']}.."
            f"{row['start_token'] + row['n_tokens']}); pass the tokenise artifact of every source and format"
        )
    start = (joined["offset"] + joined["start_token"].cast(pl.Int64)).to_numpy()
    return TrainingOrder(rows, start, ids, learn, pad_id)


def _read_tokens(folders: Sequence[Path]) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Return the lengths of all token folders with global offsets, and their ids and learn weights end to end."""
    if not folders:
        raise DataError("training needs at least one input called tokens:<source>|<format>, found none")
    tables, ids, learn, base = [], [], [], 0
    for folder in folders:
        table = load_tokens(folder)
        tables.append(
            table.lengths.select(
                "source", "example", "format", pl.col("n_tokens").alias("length"), pl.col("offset") + base
            )
        )
        ids.append(table.flat_ids)
        learn.append(table.flat_learn)
        base += len(ids[-1])
    lengths = pl.concat(tables).unique(["source", "example", "format"], keep="first", maintain_order=True)
    return lengths, np.concatenate(ids), np.concatenate(learn)
