"""Weights + draws + budget -> how many rows of each source fill every optimiser step, until the budget is reached.

Two ways to share: by examples (whole examples per step, exact in every step) and by tokens (row by row, within one
row's tokens of the plan). A step holds `batch` rows, or as many as fit `batch_tokens`. A budget in steps or examples
is met exactly; one in tokens ends with the first step that reaches it.
Not covered: the tables made of it (build.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from leaven.core.step import StepContext
from leaven.data.mixture import BlockRounding, Draws, TokenBalance
from leaven.data.schedules import Weights
from leaven.errors import DataError

_LOOK = 256


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is drawn: `target` in `measure`.

    `sizes` (per source, int64[rows]) is what a row counts; None for steps and examples.
    """

    measure: Literal["steps", "examples", "tokens", "learned_tokens"]
    target: int
    sizes: Sequence[np.ndarray] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step holds: `rows` rows, or as many as fit `tokens` (then `sizes` are the rows' tokens per source)."""

    rows: int | None
    tokens: int | None = None
    sizes: Sequence[np.ndarray] | None = None


@dataclass(slots=True)
class Walk:
    """The state while steps are filled; `unit_sizes` (per source, int64[rows]) makes shares count tokens, None
    examples.

    After `run`: `counts[step][source]` and `weights[step]` (float64[sources]).
    """

    moving: Weights
    draws: Sequence[Draws]
    budget: Budget
    batch: Batch
    unit_sizes: Sequence[np.ndarray] | None = None
    counts: list[list[int]] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    done: int = 0
    _rounding: BlockRounding = field(init=False)
    _balance: TokenBalance = field(init=False)

    def __post_init__(self) -> None:
        self._rounding = BlockRounding(len(self.draws))
        self._balance = TokenBalance(len(self.draws))

    def run(self, ctx: StepContext) -> None:
        """Fill steps until the budget is reached; raise DataError when a source runs out or no row counts."""
        expected = self._expected_step()
        moves, constant = self.moving.moves, self.moving.share
        while self.done < self.budget.target:
            if len(self.counts) % _LOOK == 0:
                ctx.check_stop()
                ctx.progress(self.done, self.budget.target, "ordering")
            weights = constant
            if moves:
                t0 = self.done / self.budget.target
                t1 = min(1.0, (self.done + expected) / self.budget.target)
                weights = self.moving.between(t0, t1)[0]
            counts = self._fill(weights.tolist())
            size = self._measured(counts)
            for draw, n in zip(self.draws, counts, strict=True):
                draw.take(n)
            self.counts.append(counts)
            self.weights.append(weights)
            self.done += size
            if self.budget.sizes is not None:  # a running mean: only the schedule of a token budget uses it
                expected = self.done / len(self.counts)

    def _expected_step(self) -> float:
        """Return how much of the budget one step is expected to use."""
        rows = self.batch.rows or 1.0
        for sizes, of in ((self.batch.sizes, "tokens"), (self.budget.sizes, self.budget.measure)):
            if sizes is not None and self._mean(sizes) <= 0:
                raise DataError(
                    f"stage {self.draws[0].stage!r}: expected rows with {of}, found none that count: all are dropped. "
                    "Raise max_tokens or choose another truncate"
                )
        if self.batch.sizes is not None and self.batch.tokens:
            rows = self.batch.tokens / max(1.0, self._mean(self.batch.sizes))
        match self.budget.measure:
            case "steps":
                return 1.0
            case "examples":
                return rows
        assert self.budget.sizes is not None
        return rows * self._mean(self.budget.sizes)

    def _mean(self, sizes: Sequence[np.ndarray]) -> float:
        return float(sum(w * s[d.allowed].mean() for w, s, d in zip(self.moving.share, sizes, self.draws, strict=True)))

    def _measured(self, counts: Sequence[int]) -> int:
        """Return what the next step's rows count towards the budget."""
        if self.budget.measure == "steps":
            return 1
        if self.budget.sizes is None:
            return sum(counts)
        return self._total(self.budget.sizes, counts)

    def _total(self, sizes: Sequence[np.ndarray], counts: Sequence[int]) -> int:
        return sum(int(s[d.next_rows(n)].sum()) for s, d, n in zip(sizes, self.draws, counts, strict=True))

    def _limit(self) -> int | None:
        """Return the most rows the next step may hold, None when only tokens limit it."""
        left = self.budget.target - self.done if self.budget.measure == "examples" else None
        return left if self.batch.rows is None else self.batch.rows if left is None else min(left, self.batch.rows)

    def _fill(self, weights: list[float]) -> list[int]:
        """Return how many rows each source gives to the next step."""
        if self.unit_sizes is not None:
            return self._fill_by_tokens(weights, self.unit_sizes)
        limit = self._limit()
        n = self._fitting(weights, limit) if self.batch.tokens is not None else limit
        assert n is not None
        counts = self._rounding.counts(weights, n)
        self._rounding.commit(weights, counts)
        return counts

    def _fitting(self, weights: list[float], limit: int | None) -> int:
        """Return how many rows (at least one) fit the batch's tokens, searching near the step before."""
        assert self.batch.tokens is not None and self.batch.sizes is not None

        def fits(n: int) -> bool:
            counts = self._rounding.counts(weights, n)
            if any(d.exhausted(c) for d, c in zip(self.draws, counts, strict=True)):
                return False
            return self._total(self.batch.sizes, counts) <= self.batch.tokens  # type: ignore[arg-type, operator]

        most = limit or 1 << 30
        n = min(most, sum(self.counts[-1]) if self.counts else 1)
        while n > 1 and not fits(n):
            n -= 1
        while n < most and fits(n + 1):
            n += 1
        return n

    def _fill_by_tokens(self, weights: list[float], sizes: Sequence[np.ndarray]) -> list[int]:
        """Fill the step row by row, each from the source that is owed most."""
        counts, limit, room = [0] * len(self.draws), self._limit(), self.batch.tokens
        upcoming = [self._upcoming(d, 0) for d in self.draws]
        filled = 0
        while limit is None or filled < limit:
            s = self._balance.next_source(weights, [int(size[row]) for size, row in zip(sizes, upcoming, strict=True)])
            if room is not None and self.batch.sizes is not None:
                room -= int(self.batch.sizes[s][upcoming[s]])
                if room < 0 and filled:
                    break
            self._balance.give(weights, s, int(sizes[s][upcoming[s]]))
            counts[s] += 1
            filled += 1
            upcoming[s] = self._upcoming(self.draws[s], counts[s])
        return counts

    @staticmethod
    def _upcoming(draw: Draws, ahead: int) -> int:
        """Return the row `ahead` places on; the last one when there is none (drawing it would raise)."""
        if draw.exhausted(ahead + 1):
            draw.next_rows(ahead)
            return int(draw.sequence[-1])
        return int(draw.next_rows(ahead + 1)[-1])
