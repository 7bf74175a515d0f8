"""Packing and cutting, against counting by hand and a brute-force bound."""

from __future__ import annotations

import numpy as np
import pytest

from leaven.data.packing import best_fit, pack_steps, window

PROMPT, THOUGHT, CODE, TEMPLATE = 0, 1, 2, 5
KIND = np.array([TEMPLATE] + [PROMPT] * 4 + [THOUGHT] * 6 + [CODE] * 5 + [TEMPLATE], dtype=np.int8)
LEARN = (KIND != PROMPT).astype(np.float32) * (np.arange(len(KIND)) > 0)


@pytest.mark.parametrize(
    ("truncate", "start", "learned", "cut_thought", "cut_code"), [("right", 0, 7, 0, 4), ("keep_code", 4, 11, 0, 0)]
)
def test_window_counts_what_is_lost(truncate: str, start: int, learned: int, cut_thought: int, cut_code: int) -> None:
    found = window(KIND, LEARN, 12, truncate, CODE, THOUGHT)  # type: ignore[arg-type]
    assert (found.start, found.n, found.n_learned, found.cut_thought, found.cut_code) == (
        start,
        12,
        learned,
        cut_thought,
        cut_code,
    )


def test_keep_code_stays_at_the_beginning_when_the_code_is_there_anyway() -> None:
    kind = np.array([PROMPT] * 2 + [CODE] * 4 + [THOUGHT] * 9, dtype=np.int8)
    found = window(kind, (kind != PROMPT).astype(np.float32), 8, "keep_code", CODE, THOUGHT)
    assert (found.start, found.cut_thought, found.cut_code) == (0, 7, 0)


def test_the_first_token_of_a_moved_window_is_not_counted_as_learned() -> None:
    found = window(KIND, LEARN, 5, "keep_code", CODE, THOUGHT)
    assert (found.start, found.n_learned, found.cut_thought, found.cut_code) == (11, 4, 6, 0)


def test_dropped_rows_keep_their_slot_but_learn_nothing() -> None:
    found = window(KIND, LEARN, 12, "drop", CODE, THOUGHT)
    assert not found.kept and found.n_learned == 0 and found.n <= 12 and (found.cut_thought, found.cut_code) == (6, 5)


def test_best_fit_fills_rows_well_and_numbers_them_by_first_use() -> None:
    lengths = np.array([6, 5, 5, 4, 3, 3, 2, 2])
    packs = best_fit(lengths, 10)
    assert np.bincount(packs, weights=lengths).tolist() == [10.0, 10.0, 10.0]
    assert packs[0] == 0 and [int(p) for p in dict.fromkeys(packs.tolist())] == [0, 1, 2]


def test_packs_never_cross_steps() -> None:
    packs = pack_steps(np.array([0, 0, 1, 1, 1]), np.array([4, 4, 4, 4, 4]), 10)
    assert packs.tolist() == [0, 0, 0, 0, 1]
