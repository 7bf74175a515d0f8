"""Slots of an order + how many each group should have -> which slots change, and which row comes into each.

Groups that have too many slots give up a random choice of them; what comes in is drawn from the groups that have too
few. The random-swap control gives up the very same slots and fills each with another example of its own group: it
differs from the intervention in nothing but the groups of what came in. With matched tokens each slot takes the
candidate whose length is nearest to what left it, corrected by what the choices before it were too long or short.
Not covered: targets (targets.py), tables (apply.py).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leaven.core.rng import rng
from leaven.data.reweigh.targets import Group
from leaven.errors import DataError

Row = tuple[str, int]
"""(source, row number among the source's rows)."""

TOLERANCE = 0.01
"""Largest difference of tokens, as a share, that counts as matched."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of the order that takes part: its line, its row, that row's group and tokens."""

    line: int
    row: Row
    group: Group
    tokens: int


@dataclass(slots=True)
class Candidates:
    """Rows that may come in, by group; `reserve` rows serve only when a group's own have run out; `repeats` allows a row again.

    `by` is what groups are, for messages.
    """

    rows: Mapping[Group, Sequence[Row]]
    tokens: Mapping[Row, int]
    reserve: Mapping[Group, Sequence[Row]] = field(default_factory=dict)
    repeats: bool = False
    by: str = "group"


def leaving(slots: Sequence[Slot], wanted: Mapping[Group, int], seed: int, *names: str) -> list[Slot]:
    """Return the slots that give up their example: of every group with too many, a random choice."""
    by_group: dict[Group, list[Slot]] = {}
    for slot in slots:
        by_group.setdefault(slot.group, []).append(slot)
    chosen: list[Slot] = []
    for group, members in by_group.items():
        surplus = len(members) - wanted.get(group, 0)
        if surplus > 0:
            order = rng(seed, "reweigh", *names, "leaving", str(group)).permutation(len(members))
            chosen += [members[i] for i in order[:surplus].tolist()]
    return sorted(chosen, key=lambda s: s.line)


def arriving(slots: Sequence[Slot], wanted: Mapping[Group, int], gone: Sequence[Slot], seed: int, *names: str) -> list[Group]:
    """Return the group that comes into each vacated slot, in the order of `gone`: those with too few, at random."""
    have: dict[Group, int] = {}
    for slot in slots:
        have[slot.group] = have.get(slot.group, 0) + 1
    lacking = [g for g, n in wanted.items() for _ in range(n - have.get(g, 0))]
    order = rng(seed, "reweigh", *names, "arriving").permutation(len(lacking))
    assert len(lacking) == len(gone), "targets add up to the slots there are"
    return [lacking[i] for i in order.tolist()]


def fill(
    gone: Sequence[Slot], groups: Sequence[Group], candidates: Candidates, seed: int, *names: str, match_tokens: bool
) -> list[Row]:
    """Return the row that comes into each vacated slot.

    Args:
        gone: vacated slots.
        groups: the group wanted in each.
        candidates: what may come in.
        seed, names: of the random streams.
        match_tokens: whether lengths are matched.

    Raises:
        DataError: a group has too few candidates, with how many it has and needs.
    """
    needed = Counter(groups)
    pools = {g: _pools(g, n, candidates, seed, names, sized=match_tokens) for g, n in needed.items()}
    found: list[Row] = [("", -1)] * len(gone)
    drift = 0
    order = rng(seed, "reweigh", *names, "filling").permutation(len(gone)).tolist()
    for place in order:
        slot = gone[place]
        found[place] = row = pools[groups[place]].take(slot.tokens - drift if match_tokens else None, slot.row)
        drift += candidates.tokens[row] - slot.tokens
    for place in order if match_tokens else ():  # what is left over is taken out by exchanging single candidates
        if not drift:
            break
        drift += pools[groups[place]].exchange(found, place, drift, candidates.tokens)
    return found


def check_matched(before: int, after: int, where: str) -> None:
    """Raise DataError when the tokens of a cell moved by more than TOLERANCE."""
    if before and abs(after - before) > TOLERANCE * before:
        raise DataError(
            f"reweigh.match: tokens of {where} cannot be kept within {TOLERANCE:.0%}: {before:,} before, {after:,} after "
            f"({(after - before) / before:+.1%}), with the nearest lengths that the candidates have. Take `tokens` out of `match`, or "
            "give more candidates (a larger source, a pool)"
        )


# ---- what may come in --------------------------------------------------------------------------------------------


class _Pool:
    """The candidates of one group: as a queue in random order, or sorted by length."""

    def __init__(self, rows: Sequence[Row], tokens: Mapping[Row, int], *, sized: bool) -> None:
        self.queue = [] if sized else list(reversed(rows))
        self.by_length = sorted((tokens[row], rank, row) for rank, row in enumerate(rows)) if sized else []

    def __bool__(self) -> bool:
        return bool(self.queue or self.by_length)

    def take(self, length: int | None, unlike: Row) -> Row:
        """Remove and return a candidate: the next, or the one nearest in length; not the row that just left, where possible."""
        if length is None:
            at = next((i for i in range(len(self.queue) - 1, -1, -1) if self.queue[i] != unlike), len(self.queue) - 1)
            return self.queue.pop(at)
        at = bisect_left(self.by_length, (length, -1, ("", -1)))
        near = [i for i in (at - 1, at, at - 2, at + 1) if 0 <= i < len(self.by_length)]
        others = [i for i in near if self.by_length[i][2] != unlike] or near
        best = min(others, key=lambda i: (abs(self.by_length[i][0] - length), self.by_length[i][1]))
        return self.by_length.pop(best)[2]

    def put(self, row: Row, tokens: int) -> None:
        """Take a candidate back."""
        insort(self.by_length, (tokens, len(self.by_length), row))


class _Tiers:
    """Pools of which the first that is not empty serves: the source's own rows, then the reserve."""

    def __init__(self, pools: Sequence[_Pool]) -> None:
        self.pools = list(pools)

    def _serving(self) -> _Pool | None:
        return next((pool for pool in self.pools if pool), None)

    def __bool__(self) -> bool:
        return self._serving() is not None

    def take(self, length: int | None, unlike: Row) -> Row:
        """Remove and return a candidate of the first pool that has one."""
        pool = self._serving()
        assert pool is not None, "as many candidates as slots were counted"
        return pool.take(length, unlike)

    def exchange(self, found: list[Row], place: int, drift: int, tokens: Mapping[Row, int]) -> int:
        """Exchange the row at `place` for a candidate that brings the drift nearer to 0, if there is one; return the change of length."""
        pool, old = self._serving(), found[place]
        if pool is None or (len(self.pools) > 1 and pool is not self.pools[0]):
            return 0  # rows of the source's own are never given back for those of the reserve
        new = pool.take(tokens[old] - drift, old)
        change = tokens[new] - tokens[old]
        if abs(drift + change) >= abs(drift):
            pool.put(new, tokens[new])
            return 0
        pool.put(old, tokens[old])
        found[place] = new
        return change


def _pools(group: Group, needed: int, candidates: Candidates, seed: int, names: Sequence[str], *, sized: bool) -> _Tiers:
    """Return the candidates of a group, at least `needed`: its own rows, as often as it takes where they may repeat, then the reserve."""

    def shuffled(rows: Sequence[Row], *what: str) -> list[Row]:
        order = rng(seed, "reweigh", *names, *what, str(group)).permutation(len(rows))
        return [rows[i] for i in order.tolist()]

    own, rest = candidates.rows.get(group, ()), candidates.reserve.get(group, ())
    if candidates.repeats and own:
        even = -(-needed // len(own))
        rounds = [shuffled(own, "candidates", str(k)) for k in range(2 * even if sized else even)]
        if sized:  # lengths choose, so there has to be a choice: no row more than twice as often as an even spread needs
            rounds = [[row for part in rounds for row in part]]
        return _Tiers([_Pool(part, candidates.tokens, sized=sized) for part in rounds])  # else every row once before any twice
    if len(own) + len(rest) < needed:
        found = f"{len(own)} in the order" if candidates.repeats else f"{len(own)} that the order does not hold yet"
        remedy = "leave `range` out, or use mode: replace with a pool" if candidates.repeats else (
            "lower the budget, add rows, name a `pool`, or use mode: resample, which repeats")
        raise DataError(
            f"reweigh: stage {names[0]!r}, {names[1]}: expected candidates of {candidates.by} {group} for {needed} slots, found {found}"
            f"{f' and {len(rest)} in the pool' if rest else ''}; {remedy}"
        )
    tiers = (shuffled(own, "candidates"), shuffled(rest, "reserve"))
    return _Tiers([_Pool(rows, candidates.tokens, sized=sized) for rows in tiers])
