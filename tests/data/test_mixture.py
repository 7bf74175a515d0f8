"""Mixture: exact counts, prefixes of one permutation, exhaustion."""

from __future__ import annotations

import numpy as np
import pytest

from leaven.data.mixture import BlockRounding, Draws, TokenBalance
from leaven.errors import DataError


def draws(
    n: int = 10, *, seed: int = 1, repeat: str = "error", allowed: np.ndarray | None = None, source: str = "code"
) -> Draws:
    mask = np.ones(n, dtype=bool) if allowed is None else allowed
    return Draws(seed, "sft", source, allowed=mask, repeat=repeat)  # type: ignore[arg-type]


def counts(weights: list[float], n: int, blocks: int) -> np.ndarray:
    rounding, result = BlockRounding(len(weights)), []
    for _ in range(blocks):
        result.append(rounding.counts(weights, n))
        rounding.commit(weights, result[-1])
    return np.array(result)


@pytest.mark.parametrize("n", [1, 7, 64, 100])
def test_fifty_thirty_twenty_is_exact_where_it_can_be(n: int) -> None:
    found = counts([0.5, 0.3, 0.2], n, 1000)
    assert found.sum(axis=1).tolist() == [n] * 1000
    assert found.sum(axis=0).tolist() == [500 * n, 300 * n, 200 * n]
    assert np.abs(found.cumsum(axis=0) - np.outer(np.arange(1, 1001) * n, [0.5, 0.3, 0.2])).max() < 1


def test_tokens_follow_the_plan_within_one_row() -> None:
    lengths, rng = [40, 300, 120], np.random.default_rng(0)
    balance, weights, given = TokenBalance(3), [0.5, 0.1, 0.4], np.zeros(3)
    for _ in range(2000):
        sizes = [int(rng.integers(1, n)) for n in lengths]
        source = balance.next_source(weights, sizes)
        balance.give(weights, source, sizes[source])
        given[source] += sizes[source]
        assert np.abs(given - np.array(weights) * given.sum()).max() <= 300


def test_a_source_without_weight_is_never_drawn() -> None:
    balance = TokenBalance(2)
    balance.owed = [-500.0, 500.0]
    assert balance.next_source([1.0, 0.0], [10, 10]) == 0


def test_longer_draws_begin_with_the_shorter_ones_and_hold_every_row_once() -> None:
    short, long = draws(1000), draws(1000)
    short.take(250)
    for n in (100, 400, 500):
        long.take(n)
    assert long.rows()[:250].tolist() == short.rows().tolist()
    assert sorted(long.rows().tolist()) == list(range(1000))


def test_filters_keep_the_order_of_what_stays() -> None:
    mask = np.arange(50) % 3 != 0
    whole, part = draws(50), draws(50, allowed=mask)
    whole.take(50)
    part.take(int(mask.sum()))
    assert part.rows().tolist() == [r for r in whole.rows().tolist() if mask[r]]


def test_seed_stage_and_source_name_the_stream() -> None:
    first = draws(100)
    first.take(100)
    for other in (draws(100, seed=2), draws(100, source="text")):
        other.take(100)
        assert other.rows().tolist() != first.rows().tolist()


def test_an_exhausted_source_is_an_error_unless_it_may_repeat() -> None:
    with pytest.raises(DataError, match="'code'.*at least 11 rows, found 10"):
        draws().take(11)
    again = draws(repeat="repeat")
    again.take(35)
    epochs = again.rows()[:30].reshape(3, 10)
    assert all(sorted(e) == list(range(10)) for e in epochs.tolist()) and epochs[0].tolist() != epochs[1].tolist()
    with pytest.raises(DataError, match="none left"):
        draws(allowed=np.zeros(10, dtype=bool))
