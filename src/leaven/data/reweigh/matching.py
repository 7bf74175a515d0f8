"""Vacated slots + candidates with lengths -> rows that come in such that a cell keeps its tokens.

Hard problems are longer: in MATH, level 5 has three times the tokens of level 1, and a plain flip of a 1,000-example order
loses a fifth of them. Nearest lengths slot by slot would bring in outliers only, so that the draw is shifted instead: each
slot takes the candidate nearest to a random one of its group plus an equal part of what is missing. What that leaves
over is taken out by exchanges of at most a standard deviation of the group each, in the slots so filled and then in those
that stay, which keep their group. So the histogram of groups is the one asked for, and lengths within a group shift as
little as the match allows.
Not covered: filling at random (slots.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import numpy as np

from leaven.core.rng import rng
from leaven.data.reweigh.slots import Candidates, Row, Slot
from leaven.data.reweigh.targets import Group
from leaven.errors import DataError

TOLERANCE = 0.01
"""Largest difference of tokens, as a share, that counts as matched."""
CLOSE = 0.001
"""Share of the tokens that is near enough for exchanges to end."""
PASSES = 4
"""How often exchanges go over the slots; each can bring in as much as a standard deviation of its group."""


def fill_matched(
    gone: Sequence[Slot], groups: Sequence[Group], staying: Sequence[Slot], candidates: Candidates, seed: int, *names: str
) -> tuple[list[Row], dict[int, Row]]:
    """Return the row for each vacated slot, and line -> row for the slots that stay and are exchanged within their group.

    Args:
        gone: vacated slots.
        groups: the group wanted in each.
        staying: the other slots of the cell.
        candidates: what may come in.
        seed, names: of the random streams.

    Raises:
        DataError: a group has too few candidates.
    """
    random = rng(seed, "reweigh", *names, "matching")
    needed = Counter(groups)
    pools = {g: _Lengths(g, needed[g], candidates, names) for g in {*needed, *(s.group for s in staying)}}
    found: list[Row] = [("", -1)] * len(gone)
    missing = sum(s.tokens for s in gone)  # tokens still to come in
    usual = sum(pools[g].mean for g in groups)  # what the slots still to fill would bring without a shift
    for left, place in zip(range(len(gone), 0, -1), random.permutation(len(gone)).tolist(), strict=True):
        pool = pools[groups[place]]
        found[place] = row = pool.take(pool.drawn(random) + (missing - usual) / left, gone[place].row)
        missing -= candidates.tokens[row]
        usual -= pool.mean
    close = CLOSE * sum(s.tokens for s in (*gone, *staying))
    exchanged = {s.line: s.row for s in staying}
    for _ in range(PASSES):
        for place in random.permutation(len(gone)).tolist():
            if abs(missing) > close:
                found[place], change = pools[groups[place]].exchange(found[place], missing)
                missing -= change
        for place in random.permutation(len(staying)).tolist():
            slot = staying[place]
            if abs(missing) > close:
                exchanged[slot.line], change = pools[slot.group].exchange(exchanged[slot.line], missing)
                missing -= change
    return found, {s.line: exchanged[s.line] for s in staying if exchanged[s.line] != s.row}


def check_matched(before: int, after: int, where: str) -> None:
    """Raise DataError when the tokens of a cell moved by more than TOLERANCE."""
    if before and abs(after - before) > TOLERANCE * before:
        raise DataError(
            f"reweigh.match: tokens of {where} cannot be kept within {TOLERANCE:.0%}: {before:,} before, {after:,} after "
            f"({(after - before) / before:+.1%}), with the lengths that the candidates have. Take `tokens` out of `match`, or give more "
            "candidates (a larger source, a pool)"
        )


class _Lengths:
    """The candidates of one group by length, the source's own before the reserve.

    With repetition a row may come in twice as often as an even spread needs, so that lengths have something to choose from.
    """

    def __init__(self, group: Group, needed: int, candidates: Candidates, names: Sequence[str]) -> None:
        own, rest = candidates.of(group, needed, names)
        copies = 2 * max(1, -(-needed // len(own))) if candidates.repeats and own else 1
        self.tokens = candidates.tokens
        self.tiers = [sorted((self.tokens[r], r) for r in rows for _ in range(n)) for rows, n in ((own, copies), (rest, 1)) if rows]
        lengths = np.array([length for tier in self.tiers for length, _ in tier] or [0])
        self.mean, self.spread = float(lengths.mean()), float(lengths.std())

    def drawn(self, random: np.random.Generator) -> int:
        """Return the length of a random candidate."""
        tier = self._tier()
        return tier[int(random.integers(len(tier)))][0]

    def _tier(self) -> list[tuple[int, Row]]:
        return next(tier for tier in self.tiers if tier)

    def take(self, length: float, unlike: Row) -> Row:
        """Remove and return the candidate nearest to a length; not `unlike`, where another one is there."""
        tier = self._tier()
        at = bisect_left(tier, (round(length), ("", -1)))
        low, high = at - 1, at
        while low >= 0 and tier[low][1] == unlike:
            low -= 1
        while high < len(tier) and tier[high][1] == unlike:
            high += 1
        sides = [i for i in (low, high) if 0 <= i < len(tier)] or [min(at, len(tier) - 1)]
        return tier.pop(min(sides, key=lambda i: abs(tier[i][0] - length)))[1]

    def exchange(self, row: Row, missing: int) -> tuple[Row, int]:
        """Return a candidate in the place of `row` that brings in some of the missing tokens, and how many; (row, 0) without one."""
        if not any(self.tiers):
            return row, 0
        length = self.tokens[row]
        other = self.take(length + max(-self.spread, min(self.spread, missing)), row)
        change = self.tokens[other] - length
        if abs(missing - change) < abs(missing):
            return other, change
        tier = next((t for t in self.tiers if t), self.tiers[0])
        tier.insert(bisect_left(tier, (self.tokens[other], other)), (self.tokens[other], other))
        return row, 0

