"""Mixture weights + rows of every source -> which row of which source fills every slot of every step.

Counts are exact, not sampled: in every block (optimiser step) each source gets the floor or the ceiling of its
planned number of examples, and running totals stay within one example of the plan (largest remainder over the running
totals). Shares of tokens are kept within one row's tokens of the plan at every slot. Rows are drawn without
replacement as a prefix of one seeded permutation per (seed, stage, source, epoch), so a share of 25 % draws a subset
of what 50 % draws, and conditions pair. Peers draw sources at random and miss the request (datasets 5.2
`interleave_datasets`: off by up to 29 of 1,000), or stop or repeat silently.
Not covered: how weights move (schedules.py), budgets and tables (build.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from leaven.core.rng import rng
from leaven.errors import DataError

Repeat = Literal["error", "repeat"]

_SNAP = 1e-6
"""Running totals closer than this to a whole number are taken as whole: weights such as 0.1 have no exact binary
form."""
_LOOK_AHEAD = 4


class BlockRounding:
    """Planned shares -> whole examples per block, carrying what is owed from block to block.

    Every block holds the floor or the ceiling of its plan for each source. Running totals stay within one example
    too; only where weights of three or more sources jump erratically from block to block can the two demands collide,
    and then the block wins.
    """

    def __init__(self, n_sources: int) -> None:
        self.planned = [0.0] * n_sources
        self.given = [0] * n_sources

    def counts(self, weights: Sequence[float], n: int) -> list[int]:
        """Return how many of `n` examples each source gets in the next block (which `commit` then closes)."""
        target = [w * n for w in weights]
        total = [p + t for p, t in zip(self.planned, target, strict=True)]
        low = [math.floor(t + _SNAP) for t in target]
        high = [math.ceil(t - _SNAP) for t in target]
        lows = [max(a, math.floor(c + _SNAP) - g) for a, c, g in zip(low, total, self.given, strict=True)]
        highs = [min(b, math.ceil(c - _SNAP) - g) for b, c, g in zip(high, total, self.given, strict=True)]
        if sum(lows) <= n <= sum(highs) and all(a <= b for a, b in zip(lows, highs, strict=True)):
            low, high = lows, highs
        owed = [s for s in range(len(target)) if high[s] > low[s]]
        left = n - sum(low)
        if 0 < left < len(owed):
            owed.sort(
                key=lambda s: (_urgency(total[s], target[s]), total[s] - self.given[s] - low[s], -s), reverse=True
            )
        for s in owed[:left]:
            low[s] += 1
        return low

    def commit(self, weights: Sequence[float], counts: Sequence[int]) -> None:
        """Close the block that `counts` fills."""
        n = sum(counts)
        self.planned = [p + w * n for p, w in zip(self.planned, weights, strict=True)]
        self.given = [g + c for g, c in zip(self.given, counts, strict=True)]


def _urgency(total: float, target: float) -> list[int]:
    """Return for the next few blocks whether the plan forces another example (1), is just met (0) or leaves slack
    (-1), up to a 0.

    Serving the most urgent first keeps running totals within one example for constant shares of any number of sources
    (proportionate fair scheduling, Baruah et al. 1996, characteristic strings).
    """
    share, signs = target - math.floor(target + _SNAP), []
    for _ in range(_LOOK_AHEAD):
        ahead = total + share
        gap = ahead - math.floor(total + _SNAP) - 1
        signs.append(0 if abs(gap) < _SNAP else 1 if gap > 0 else -1)
        if not signs[-1]:
            break
        total = ahead
    return signs


class TokenBalance:
    """Planned shares of tokens -> which source fills the next slot, knowing the size of each source's next row."""

    def __init__(self, n_sources: int) -> None:
        self.owed = [0.0] * n_sources

    def next_source(self, weights: Sequence[float], sizes: Sequence[int]) -> int:
        """Return the source that is owed most *after* giving its next row (of sizes[s] tokens), ties to the first."""
        best, most = -1, -math.inf
        for s, (w, size) in enumerate(zip(weights, sizes, strict=True)):
            after = self.owed[s] - size * (1.0 - w)
            if w > 0 and after > most:
                best, most = s, after
        return best

    def give(self, weights: Sequence[float], source: int, size: int) -> None:
        """Record that `source` filled a slot with `size` tokens."""
        self.owed = [o + w * size for o, w in zip(self.owed, weights, strict=True)]
        self.owed[source] -= size


class Draws:
    """The sequence of rows of one source: permutation after permutation, one per epoch.

    `sequence[i]` is the row of the i-th draw; `taken` says how many draws are used up.
    """

    def __init__(self, seed: int, stage: str, source: str, *, allowed: np.ndarray, repeat: Repeat) -> None:
        """`allowed` bool[rows] says which rows may be drawn; filtering keeps the order of those that stay."""
        self.seed, self.stage, self.source, self.repeat, self.allowed = seed, stage, source, repeat, allowed
        self.size = int(allowed.sum())
        self.taken = 0
        self.sequence = np.empty(0, dtype=np.int64)
        self._epochs = 0
        if not self.size:
            raise DataError(
                f"stage {stage!r}, source {source!r}: expected rows to draw from, found none left after filters"
            )

    def exhausted(self, n: int) -> bool:
        """Return whether the next `n` draws need more rows than there are and may not repeat."""
        return self.repeat == "error" and self.taken + n > self.size

    def next_rows(self, n: int) -> np.ndarray:
        """Return the rows of the next `n` draws without using them up; raise DataError when the source is exhausted."""
        if self.exhausted(n):
            raise DataError(
                f"stage {self.stage!r}, source {self.source!r}: the order needs at least {self.taken + n:,} "
                f"rows, found {self.size:,}. Ask for a smaller budget or share, add data, or set `repeat: repeat` to "
                "go through it again"
            )
        if self.taken + n > len(self.sequence):
            self._extend(self.taken + n)
        return self.sequence[self.taken : self.taken + n]

    def take(self, n: int) -> None:
        """Use up the next `n` draws."""
        self.next_rows(n)
        self.taken += n

    def rows(self) -> np.ndarray:
        """Return the rows drawn so far, in order: int64[taken]."""
        return self.sequence[: self.taken]

    def _extend(self, n: int) -> None:
        """Append whole epochs up to at least `n` draws, doubling their number so that few copies are made."""
        parts, until = [self.sequence], -(-n // self.size)
        if self.repeat == "repeat":
            until = max(until, min(2 * self._epochs, self._epochs + 1024))
        for epoch in range(self._epochs, until):
            keys = rng(self.seed, "order", self.stage, self.source, epoch).random(len(self.allowed))
            order = np.argsort(keys, kind="stable")
            parts.append(order[self.allowed[order]])
        self._epochs = until
        self.sequence = np.concatenate(parts)
