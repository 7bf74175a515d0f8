"""How often each group of examples occurs -> how often it should: mirrored, as shares, or tilted towards what helps.

Pure numbers, one call per cell (the examples among which mass is moved); the sum stays. `amounts` are slots or tokens,
`targets` the same unit; a weight of a group is its target over its amount.
Flip: c'_l = c_{K+1-l} (Kou et al. 2025; the operator is our reading of "flipping task difficulty"). Tilt: weights
proportional to exp(mean influence / tau), none below a floor.
Not covered: which examples are in a group (apply.py), which slots change (slots.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from leaven.errors import DataError

Group = int | str


def flip(amounts: Mapping[int, float], low: int | None = None, high: int | None = None) -> dict[int, float]:
    """Return the mirrored amounts: the easiest group gets what the hardest has, and so on.

    Args:
        amounts: difficulty -> amount.
        low, high: the scale that is mirrored (d becomes low + high - d); None: the difficulties that occur, in order.

    Raises:
        DataError: a difficulty lies outside low..high.
    """
    if low is None or high is None:
        present = sorted(amounts)
        return {d: amounts[m] for d, m in zip(present, reversed(present), strict=True)}
    outside = sorted(d for d in amounts if not low <= d <= high)
    if outside:
        raise DataError(f"reweigh.range: expected difficulties from {low} to {high}, found {outside}; widen the range")
    return {d: amounts.get(low + high - d, 0) for d in range(low, high + 1) if amounts.get(low + high - d, 0) or amounts.get(d, 0)}


def by_shares(amounts: Mapping[Group, float], shares: Mapping[str, float]) -> dict[Group, float]:
    """Return the amounts that declared shares of the sum give.

    Raises:
        DataError: a group that occurs is not named, or the shares do not add up to 1.
    """
    names = {str(g) for g in amounts}
    unnamed = sorted(names - set(shares))
    if unnamed:
        raise DataError(
            f"reweigh.target: expected a share for every group that occurs, found none for {', '.join(unnamed)}; name it (0 takes it out)"
        )
    if abs(math.fsum(shares.values()) - 1) > 1e-6:
        raise DataError(f"reweigh.target: expected shares that add up to 1, found {math.fsum(shares.values()):g}")
    total = sum(amounts.values())
    known: dict[str, Group] = {str(g): g for g in amounts}
    return {known.get(name, _typed(name, amounts)): share * total for name, share in shares.items()}


def _typed(name: str, amounts: Mapping[Group, float]) -> Group:
    numbers = all(isinstance(g, int) for g in amounts)
    return int(name) if numbers and name.lstrip("-").isdigit() else name


def tilt(scores: Mapping[Group, float], amounts: Mapping[Group, float], tau: float | None, floor: float) -> dict[Group, float]:
    """Return weights proportional to exp(score / tau), none below `floor`, whose mean over `amounts` is 1.

    Args:
        scores: group -> mean influence.
        amounts: group -> how often it occurs (or its tokens).
        tau: temperature in the unit of the scores; None: their standard deviation over groups, weighted by amount.
        floor: least weight, below 1.
    """
    groups = list(amounts)
    total = math.fsum(amounts.values())
    mean = math.fsum(scores[g] * amounts[g] for g in groups) / total
    spread = math.sqrt(math.fsum((scores[g] - mean) ** 2 * amounts[g] for g in groups) / total)
    temperature = spread if tau is None else tau
    if not spread or temperature <= 0:
        return dict.fromkeys(groups, 1.0)
    best = max(scores[g] for g in groups)
    raw = {g: math.exp((scores[g] - best) / temperature) for g in groups}
    low: set[Group] = set()
    while True:  # groups that fall below the floor are lifted to it, and the others share what is left
        left = total - floor * math.fsum(amounts[g] for g in low)
        scale = left / math.fsum(raw[g] * amounts[g] for g in groups if g not in low)
        below = {g for g in groups if g not in low and raw[g] * scale < floor}
        if not below:
            return {g: floor if g in low else raw[g] * scale for g in groups}
        low |= below


def whole(targets: Mapping[Group, float], total: int) -> dict[Group, int]:
    """Return whole numbers near the targets that add up to `total` (largest remainder; ties to the first group)."""
    order: Sequence[Group] = sorted(targets, key=lambda g: (isinstance(g, str), g))
    found = {g: math.floor(targets[g] + 1e-9) for g in order}
    rest = sorted(order, key=lambda g: found[g] - targets[g])
    for g in rest[: max(0, total - sum(found.values()))]:
        found[g] += 1
    return found
