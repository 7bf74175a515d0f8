"""Lengths -> what is cut from a row and which rows share one packed row.

Rows that are too long are cut by a named policy, and what was cut is counted by kind, because right truncation
removes the code of thought_code and the thought of code_thought. Packing is best-fit decreasing *inside* one
optimiser step: documents never cross steps, so packed and unpacked training see the same examples at every step
(attention and positions restart at each example).
Not covered: attention masks (lm/), choosing examples (mixture.py).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Literal

import numpy as np

Truncate = Literal["right", "drop", "keep_code", "error"]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of an example that is trained: tokens start .. start + n.

    `cut_thought` and `cut_code` count the lost tokens of those kinds; `kept` is False for a dropped row.
    """

    start: int
    n: int
    n_learned: int
    cut_thought: int = 0
    cut_code: int = 0
    kept: bool = True


def window(kind: np.ndarray, learn: np.ndarray, max_tokens: int, truncate: Truncate, code: int, thought: int) -> Window:
    """Return the window of an example of more than `max_tokens` tokens.

    Args:
        kind, learn: int8[N], float32[N] of the example; `code` and `thought` are the kind numbers counted as cut.
        truncate: `right` keeps the beginning; `keep_code` slides just far enough to keep the last code token (the
            beginning of the prompt is lost instead); `drop` keeps nothing that is learned but leaves the slot in
            place.
    """
    n = len(kind)
    start = 0
    if truncate == "keep_code":
        where = np.flatnonzero(kind == code)
        last = int(where[-1]) + 1 if len(where) else 0
        start = min(max(0, last - max_tokens), n - max_tokens)
    inside = slice(start, start + max_tokens)
    cut_thought = int((kind == thought).sum() - (kind[inside] == thought).sum())
    cut_code = int((kind == code).sum() - (kind[inside] == code).sum())
    if truncate == "drop":
        return Window(0, max_tokens, 0, int((kind == thought).sum()), int((kind == code).sum()), kept=False)
    # the first token of a row has nothing before it and cannot be learned
    return Window(start, max_tokens, int((learn[inside][1:] > 0).sum()), cut_thought, cut_code)


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Return int32[N] row numbers: best-fit decreasing into rows of `capacity` tokens, numbered by first use in slot
    order.

    Deterministic; every length must be <= capacity.
    """
    bins: list[tuple[int, int]] = []  # (free tokens, bin), sorted
    place = np.empty(len(lengths), dtype=np.int64)
    used = 0
    for slot in np.argsort(-lengths.astype(np.int64), kind="stable"):
        need = int(lengths[slot])
        at = bisect_left(bins, (need, -1))
        if at == len(bins):
            free, number = capacity, used
            used += 1
        else:
            free, number = bins.pop(at)
        place[slot] = number
        insort(bins, (free - need, number))
    _, first, inverse = np.unique(place, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def pack_steps(step: np.ndarray, n_tokens: np.ndarray, capacity: int) -> np.ndarray:
    """Return int32[rows] pack numbers for rows sorted by step, packing each step on its own."""
    edges = np.flatnonzero(np.diff(step, prepend=-1, append=-1))
    packs = [best_fit(n_tokens[a:b], capacity) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return np.concatenate(packs) if packs else np.empty(0, dtype=np.int32)
