"""A described rearrangement and formula -> the formula over the original list, by moving labelled items."""

from __future__ import annotations

import re


def list_formula(question: str) -> str:
    """Return the formula over x that the described function computes."""
    parts = re.fullmatch(
        r"Write f\(\w+\) for 4 numbers: ([^;]*); return (\d) times the (\w+) (plus|minus) the (\w+)\.", question
    )
    assert parts is not None, question
    a, b, c, d = (f"x[{i}]" for i in range(4))
    for move in parts[1].split(", "):
        match move.split():
            case ["reverse"]:
                a, b, c, d = d, c, b, a
            case ["rotate", side]:
                a, b, c, d = (b, c, d, a) if side == "left" else (d, a, b, c)
            case ["swap", "ends"]:
                a, d = d, a
            case ["swap", "middle"]:
                b, c = c, b
            case ["swap", "start"]:
                a, b = b, a
            case ["swap", "halves"]:
                a, b, c, d = c, d, a, b
            case _:
                raise ValueError(f"no move is called {move!r}")
    found = {"first": a, "second": b, "third": c, "last": d}
    return f"{parts[2]} * {found[parts[3]]} {'+' if parts[4] == 'plus' else '-'} {found[parts[5]]}"
