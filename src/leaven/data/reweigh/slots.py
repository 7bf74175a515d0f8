"""Slots of an order + how many each group should have -> which slots change, and which row comes into each.

Groups that have too many slots give up a random choice of them; what comes in is drawn from the groups that have too
few. The random-swap control gives up the very same slots and fills each with another example of its own group: it
differs from the intervention in nothing but the groups of what came in.
Not covered: targets (targets.py), filling with matched lengths (matching.py), tables (apply.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leaven.core.rng import rng
from leaven.data.reweigh.targets import Group
from leaven.errors import DataError

Row = tuple[str, int]
"""(source, row number among the source's rows)."""


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

    def of(self, group: Group, needed: int, names: Sequence[str]) -> tuple[Sequence[Row], Sequence[Row]]:
        """Return the rows of a group and its reserve.

        Raises:
            DataError: they are fewer than `needed` and may not repeat, or there are none at all.
        """
        own, rest = self.rows.get(group, ()), self.reserve.get(group, ())
        if (len(own) + len(rest) < needed and not self.repeats) or (needed and not own and not rest):
            found = f"{len(own)} in the order" if self.repeats else f"{len(own)} that the order does not hold yet"
            remedy = "lower the budget, add rows, name a `pool`, or use mode: resample, which repeats"
            raise DataError(
                f"reweigh: stage {names[0]!r}, {names[1]}: expected candidates of {self.by} {group} for {needed} slots, found {found}"
                f"{f' and {len(rest)} in the pool' if rest else ''}; "
                f"{'leave `range` out, or use mode: replace with a pool' if self.repeats else remedy}"
            )
        return own, rest


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


def fill(gone: Sequence[Slot], groups: Sequence[Group], candidates: Candidates, seed: int, *names: str) -> list[Row]:
    """Return the row that comes into each vacated slot, drawn at random.

    Args:
        gone: vacated slots.
        groups: the group wanted in each.
        candidates: what may come in.
        seed, names: of the random streams.

    Raises:
        DataError: a group has too few candidates, with how many it has and needs.
    """
    queues = {g: list(reversed(_drawn(g, n, candidates, seed, names))) for g, n in Counter(groups).items()}
    found: list[Row] = [("", -1)] * len(gone)
    for place in rng(seed, "reweigh", *names, "filling").permutation(len(gone)).tolist():
        queue, old = queues[groups[place]], gone[place].row
        # not the row that just left, where another one waits
        at = next((i for i in range(len(queue) - 1, -1, -1) if queue[i] != old), len(queue) - 1)
        found[place] = queue.pop(at)
    return found


def _drawn(group: Group, needed: int, candidates: Candidates, seed: int, names: Sequence[str]) -> list[Row]:
    """Return at least `needed` rows of a group in random order: every row once before any row twice, its own before the reserve."""
    own, rest = candidates.of(group, needed, names)
    if candidates.repeats:
        rounds = range(-(-needed // len(own)))
        return [row for k in rounds for row in shuffled(own, seed, *names, "candidates", str(k), str(group))]
    return shuffled(own, seed, *names, "candidates", str(group)) + shuffled(rest, seed, *names, "reserve", str(group))


def shuffled(rows: Sequence[Row], seed: int, *names: str) -> list[Row]:
    """Return rows in the random order that a named stream gives."""
    return [rows[i] for i in rng(seed, "reweigh", *names).permutation(len(rows)).tolist()]
