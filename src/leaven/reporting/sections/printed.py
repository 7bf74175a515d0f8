"""Printed percentages -> the whole counts behind them, and what difference two of them show with what interval.

The paper prints shares of few items; the counts say what they can carry. Which items passed is not printed, so two
strategies are compared as independent proportions, which is wider than the paired comparison that the authors could
make.
Not covered: the numbers themselves (references_liu2025.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from leaven.analysis.stats import mcnemar, welch_t, wilson
from leaven.reporting.references_liu2025 import TABLES, Claim
from leaven.reporting.wording import interval, number, p_value


@dataclass(frozen=True, slots=True)
class Count:
    """The whole number of items behind a printed percentage, and whether its last digit was rounded or cut off."""

    k: int
    how: Literal["rounded", "cut"]


def count_of(percent: float, n: int, decimals: int = 2) -> Count | None:
    """Return how many of `n` items a printed percentage stands for; None when it is no share of n items."""
    unit = 10.0**-decimals
    k = round(percent * n / 100)
    if abs(100 * k / n - percent) <= unit / 2 + 1e-9:
        return Count(k, "rounded")
    k = math.ceil(percent * n / 100 - 1e-9)
    if 0 <= 100 * k / n - percent < unit - 1e-9:
        return Count(k, "cut")
    return None


def difference_of_shares(k1: int, n1: int, k2: int, n2: int) -> tuple[float, float, float]:
    """Return k1/n1 - k2/n2 with its 95 % interval for independent samples (Newcombe 1998, method 10), as shares of 1."""
    a, b = wilson(k1, n1), wilson(k2, n2)
    d = a.estimate - b.estimate
    low = d - math.hypot(a.estimate - a.low, b.high - b.estimate)
    high = d + math.hypot(a.high - a.estimate, b.estimate - b.low)
    return d, low, high


def printed_effects(claim: Claim) -> list[str]:
    """Return what the paper prints for a claim, one line per place: both sides, their difference and its interval."""
    return [_line(claim, table, column) for table, column in claim.printed]


def printed_summary(claim: Claim) -> list[str]:
    """Return what the paper prints for a claim in few lines: five seeds where it ran them, then its suites together."""
    seeds = [_line(claim, table, column) for table, column in claim.printed if table == 13]
    suites = [(table, column) for table, column in claim.printed if table != 13]
    counted = [(t, c) for t, c in suites if t != 8 and TABLES[t].column(c).n is not None]
    others = [_line(claim, t, c) for t, c in suites if (t, c) not in counted]
    if len(counted) < 2:
        return [*seeds, *(_line(claim, t, c) for t, c in counted), *others]
    found = [_shares(claim, t, c) for t, c in counted]
    names = ", ".join(TABLES[t].column(c).name.split(" of ")[0] for t, c in counted)
    points = ", ".join(number(d, sign=True, percent=True) for d, _, _ in found)
    open_ones = sum(low <= 0 <= high for _, low, high in found)
    return [*seeds, f"{names}: {points} points; {open_ones} of {len(found)} intervals hold zero", *others]


def _shares(claim: Claim, number_of_table: int, column: str) -> tuple[float, float, float]:
    """Return the difference of a claim's two sides in one column whose items are counted, with its interval."""
    table = TABLES[number_of_table]
    n = table.column(column).n or 1
    ka, kb = (whole_count(table.value(side, column), n, number_of_table) for side in (claim.treatment, claim.control))
    return difference_of_shares(ka, n, kb, n)


def _line(claim: Claim, number_of_table: int, column: str) -> str:
    table = TABLES[number_of_table]
    if number_of_table == 13:
        test = welch_t(table.rows[claim.treatment], table.rows[claim.control])
        ends = interval(test.low, test.high, sign=True)
        return f"5 seeds: {number(test.estimate, sign=True)} points {ends}, Welch p = {_p(test.p)}"
    if number_of_table == 8:
        wins, losses = (int(table.value(column, side)) for side in (claim.treatment, claim.control))
        return f"{column}: {wins} wins, {losses} losses of {int(sum(table.rows[column][:3])):,}, p = {_p(mcnemar(losses, wins).p_exact)}"
    name, n = table.column(column).name, table.column(column).n
    a, b = table.value(claim.treatment, column), table.value(claim.control, column)
    if n is None:
        return f"{name}: {a:g} against {b:g}, no interval can be formed"
    ka, kb = (whole_count(v, n, number_of_table) for v in (a, b))
    d, low, high = _shares(claim, number_of_table, column)
    ends = interval(low, high, sign=True, percent=True)
    return f"{name.split(' of ')[0]}: {ka} against {kb} of {n:,}, {number(d, sign=True, percent=True)} points {ends}"


def whole_count(printed: float, n: int, table: int) -> int:
    """Return the number of items behind a value of a table of the paper: table 7 prints counts, the others per cent."""
    if table == 7:
        return int(printed)
    found = count_of(printed, n)
    return found.k if found else round(printed * n / 100)


def _p(p: float) -> str:
    return p_value(p).replace("< ", "<\u2009") if p >= 0.001 else f"{p:.1e}"
